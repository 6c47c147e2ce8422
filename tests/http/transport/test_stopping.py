"""A stop loses nothing: requests, bodies and handshakes that are under way are waited for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time

import aiohttp
import pytest

from registryd.http.transport import DRAIN_S
from tests.conftest import Site, TestMessenger, daemon, eventually, wait_for
from tests.http.transport.conftest import (
    FOUND,
    Tls,
    address,
    connected,
    events,
    listening,
    request,
)
from tests.served import handed_over


def test_a_restart_under_load_loses_no_request(site: Site, messenger: TestMessenger) -> None:
    """Behind a listener that stays, as under systemd: every request is answered, by the old process or by the new one."""

    async def run(listener: socket.socket) -> tuple[list[str], list[str]]:
        answered: list[str] = []
        lost: list[str] = []
        ended = asyncio.Event()
        host, port = listener.getsockname()

        async def ask(session: aiohttp.ClientSession) -> None:
            while not ended.is_set():
                try:
                    async with session.post("/v1/presence", data=FOUND, headers={"Content-Type": "application/json"}) as response:
                        body = await response.json()
                        assert (response.status, body["present"]) == (200, True)
                        answered.append(body["queryId"])
                except aiohttp.ClientError as error:
                    lost.append(repr(error))

        async def more(count: int) -> None:
            seen = len(answered)
            await eventually(lambda: len(answered) >= seen + count)

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://{host}:{port}", connector=connector, headers=messenger.headers) as session:
            with contextlib.ExitStack() as stack:
                current = await asyncio.to_thread(stack.enter_context, handed_over(site, listener))
                tasks = [asyncio.create_task(ask(session)) for _ in range(32)]
                for _ in range(2):
                    await more(300)
                    assert await asyncio.to_thread(current.stop) == 0
                    assert not [line for line in current.log() if line["event"] in ("request_failed", "background_failed")]
                    current = await asyncio.to_thread(stack.enter_context, handed_over(site, listener))
                await more(300)
                ended.set()
                await asyncio.gather(*tasks)
        return answered, lost

    with listening() as listener:
        answered, lost = asyncio.run(run(listener))
    assert lost == []
    assert len(set(answered)) == len(answered) > 1000

    async def journaled() -> int:
        async with site.database.connect() as connection:
            count = await connection.fetchval(
                "SELECT count(*) FROM unnest($1::uuid[]) AS id, registry.find_query(id) AS q WHERE q.present", answered
            )
            return int(count)

    assert asyncio.run(journaled()) == len(answered)


def test_a_stop_waits_for_a_body_that_is_on_its_way(site: Site, messenger: TestMessenger) -> None:
    with daemon(site) as started, socket.create_connection(address(started.api), timeout=60) as sock:
        sock.sendall(request(messenger, FOUND[:-1], length=len(FOUND)))
        wait_for(lambda: connected(started, 1))
        began = time.monotonic()
        started.process.send_signal(signal.SIGTERM)
        wait_for(lambda: time.monotonic() > began + 2 * DRAIN_S)
        sock.sendall(FOUND[-1:])
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert started.process.wait(60) == 0


def test_a_stop_waits_for_a_handshake_that_is_under_way(tls_site: Site, tls: Tls, messenger: TestMessenger) -> None:
    """A client sends its request with the end of its handshake, and does not know whether anybody reads it."""
    with daemon(tls_site) as started, socket.create_connection(address(started.api), timeout=60) as sock:
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = tls.context().wrap_bio(received, sent, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        sock.sendall(sent.read())
        received.write(sock.recv(65536))
        started.process.send_signal(signal.SIGTERM)
        wait_for(lambda: events(started, "stopping"))
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):  # it is given time, and is not cut off
            sock.recv(1)
        sock.settimeout(60)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                received.write(sock.recv(65536))
        client.write(request(messenger, FOUND))
        sock.sendall(sent.read())
        answer = b""
        while not answer:
            received.write(sock.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer = client.read(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert started.process.wait(60) == 0


def test_a_stop_waits_for_the_running_request(site: Site, messenger: TestMessenger) -> None:
    """One that has begun is answered; the connection then ends, and no new one is taken."""
    with daemon(site) as started, socket.create_connection(address(started.api), timeout=60) as sock:
        sock.sendall(request(messenger, b"", length=len(FOUND)))
        wait_for(lambda: 'registryd_connections{api="messenger"} 1.0' in started.metrics())
        started.process.send_signal(signal.SIGTERM)
        wait_for(lambda: events(started, "stopping"))
        sock.sendall(FOUND)
        answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
        assert sock.recv(65536) == b""
        assert started.process.wait(60) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address(started.api))
