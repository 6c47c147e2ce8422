"""There are so many connections and no more, and whoever has most of them makes room for others."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket

import pytest
from aiohttp.web import BaseRequest

from registryd.config import ApiSection
from registryd.http import sockets
from registryd.http.admission import REFUSALS_PER_MINUTE
from registryd.http.reply import Reply
from registryd.http.transport import Listener
from tests.conftest import Site, TestMessenger, daemon, eventually, wait_for
from tests.http.transport.conftest import FOUND, Tls, address, asked_again, request


def test_a_connection_that_was_lost_makes_no_room_though_its_listener_still_has_it() -> None:
    """It is the listener's for another turn of the loop, in which a further client may come."""

    async def handle(_: BaseRequest) -> Reply:
        raise AssertionError

    async def run() -> tuple[bool, bool]:
        listener, sock = Listener("messenger", handle, ApiSection()), sockets.bind("127.0.0.1:0")
        await listener.listen([sock], None)
        _, writer = await asyncio.open_connection(*sock.getsockname())
        [connection] = await eventually(lambda: listener.connections)
        await eventually(lambda: connection.is_idle)
        connection.connection_lost(None)
        is_there, is_idle = connection in listener.connections, connection.is_idle
        writer.close()
        await listener.drain()
        await listener.close(1)
        return is_there, is_idle

    assert asyncio.run(run()) == (True, False)


def test_connections_are_capped(site: Site, messenger: TestMessenger) -> None:
    """Here all of them are in use: their bodies are yet to come."""
    site.write_config(api='listen = "127.0.0.1:0"\nconnections_max = 20')
    with contextlib.ExitStack() as stack:
        stack.callback(site.write_config)
        started = stack.enter_context(daemon(site))
        asking: list[socket.socket] = []
        while len(asking) < 20:  # one by one, because one that is just being made counts as a handshake too
            asking.append(sock := stack.enter_context(socket.create_connection(address(started.api), timeout=60)))
            sock.sendall(request(messenger, b"", "Expect: 100-continue", length=len(FOUND)))
            assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
        refused = [stack.enter_context(socket.create_connection(address(started.api), timeout=60)) for _ in range(5)]
        for sock in refused:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b"", "closed at once, without an answer"
        for sock in asking:
            sock.sendall(FOUND)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 "), "those that were there are served on"
        assert 'registryd_connections_closed_total{api="messenger",reason="cap"} 5.0' in started.metrics()


@pytest.mark.parametrize("has_key", [True, False])
@pytest.mark.parametrize("refused", [0, REFUSALS_PER_MINUTE])
def test_whoever_has_most_connections_makes_room_for_others_and_nobody_else_does(
    site: Site, messenger: TestMessenger, has_key: bool, refused: int
) -> None:
    """Neither a messenger nor a stranger, who needs no key for it, can take them all; nor while his refusals are held back."""
    other = asyncio.run(site.add_messenger(f"other-{has_key:d}-{refused}"))
    greedy = messenger if has_key else TestMessenger(0, "nobody", "rk_abcdefgh_" + "x" * 40, messenger.secret)
    site.write_config(api='listen = "127.0.0.1:0"\nconnections_max = 20')
    with contextlib.ExitStack() as stack:
        stack.callback(site.write_config)
        started = stack.enter_context(daemon(site))

        def connect(who: TestMessenger, status: bytes = b"HTTP/1.1 200 ") -> socket.socket:
            sock = stack.enter_context(socket.create_connection(address(started.api), timeout=60))
            if who is greedy and refused:
                sock.sendall(request(who, b"no JSON"))
            else:
                assert asked_again(sock, who, status)
            return sock

        if refused:
            with socket.create_connection(address(started.api), timeout=60) as sock:
                for _ in range(refused):
                    assert asked_again(sock, greedy, b"HTTP/1.1 40", b"no JSON")
        kept = [connect(other) for _ in range(3)]
        taken = [connect(greedy, b"HTTP/1.1 200 " if has_key else b"HTTP/1.1 401 ") for _ in range(40)]
        kept += [connect(other) for _ in range(3)]
        for sock in kept:
            assert asked_again(sock, other), "whoever has few keeps them, and gets more"

        def still_open() -> list[socket.socket]:
            return [sock for sock in taken if not select.select([sock], [], [], 0)[0]]

        wait_for(lambda: len(still_open()) <= 14)  # 20 without those of the other; that one was closed takes a moment to be seen
        open_still = still_open()
        assert len(open_still) >= 12, "one that comes counts twice for a moment"
        if not refused:  # else they came together, and which of them is idle first is chance
            assert open_still == taken[-len(open_still) :], "the ones that were idle for longest went"
        assert 'registryd_connections_closed_total{api="messenger",reason="cap"} 0.0' in started.metrics()


def test_handshakes_that_are_under_way_count_towards_the_cap_and_make_room_too(tls_site: Site, tls: Tls, messenger: TestMessenger) -> None:
    """A stranger opens as many as he likes, and each takes memory for ten seconds."""
    tls_site.write_config(api='listen = "127.0.0.1:0"\nconnections_max = 20')
    with contextlib.ExitStack() as stack:
        stack.callback(tls_site.write_config)
        started = stack.enter_context(daemon(tls_site))
        opened = [stack.enter_context(socket.create_connection(address(started.api), timeout=60)) for _ in range(60)]
        for sock in opened[:40]:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b"", "the oldest are closed"
        assert select.select(opened[40:], [], [], 0)[0] == []
        assert 'registryd_connections_closed_total{api="messenger",reason="room"} 40.0' in started.metrics()
        with (
            socket.create_connection(address(started.api), timeout=60) as sock,
            tls.context().wrap_socket(sock, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(request(messenger))
            assert secure.recv(65536).startswith(b"HTTP/1.1 200 ")
