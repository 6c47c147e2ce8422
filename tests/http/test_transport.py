"""Connections: slow, silent and broken clients are closed in time, TLS and client certificates are as configured, a stop loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import secrets
import select
import signal
import socket
import ssl
import stat
import struct
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp.web import BaseRequest

from registryd.config import ApiSection
from registryd.http import receiving, sockets
from registryd.http.problems import HttpError
from registryd.http.reply import Reply
from registryd.http.transport import DRAIN_S, FIRST_REQUEST_S, HEAD_MAX_BYTES, Listener
from tests.certificates import Pair, make_pair, put_certificate
from tests.conftest import PATIENCE_S, Daemon, Site, TestDatabase, TestMessenger, daemon, eventually, make_site, wait_for
from tests.http.conftest import exchange, parse_answer

SNDBUF = 65536
STALLED = 'registryd_connections_closed_total{api="messenger",reason="stalled"} 1.0'
NUMBERS = range(79_160_000_000, 79_160_000_100)
BODY_TIMEOUT_S = ApiSection().body_timeout_s
FOUND = json.dumps({"phoneNumber": f"+{NUMBERS[0]}"}).encode()


class Tls(NamedTuple):
    """Who vouches for whom."""

    directory: Path
    ca: Pair
    server: Pair
    pinned: Pair
    unpinned: Pair
    stranger: Pair

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """A client's, that presents `pair`."""
        context = ssl.create_default_context(cadata=self.ca.certificate.decode())
        if pair is not None:
            context.load_cert_chain(*pair.write(self.directory, hashlib.sha256(pair.certificate).hexdigest()))
        return context


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    ca = make_pair("test CA")
    server, pinned, unpinned = (make_pair(name, ca) for name in ("registry", "pinned", "unpinned"))
    return Tls(tmp_path_factory.mktemp("tls"), ca, server, pinned, unpinned, make_pair("stranger"))


@pytest.fixture(scope="module")
def site(module_database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = make_site(module_database, tmp_path_factory.mktemp("transport"))
    asyncio.run(site.add_contracts(*NUMBERS))
    return site


@pytest.fixture(scope="module")
def messenger(site: Site) -> TestMessenger:
    return asyncio.run(site.add_messenger("plain"))


@pytest.fixture(scope="module")
def pinned(site: Site, tls: Tls) -> TestMessenger:
    """A messenger that must present its certificate."""
    return asyncio.run(site.add_messenger("pinned", certificate_sha256=[tls.pinned.sha256]))


@pytest.fixture(scope="module")
def tls_site(site: Site, tls: Tls, messenger: TestMessenger, pinned: TestMessenger, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The same registry behind TLS."""
    made = make_site(site.database, tmp_path_factory.mktemp("tls-site"))
    credentials = made.directory / "credentials"
    for name in ("secrets-key", "journal-key"):
        (credentials / name).write_bytes((site.directory / "credentials" / name).read_bytes())
    put_certificate(made, tls.server)
    (credentials / "client-ca").write_bytes(tls.ca.certificate)
    return made


@pytest.fixture(scope="module")
def plain_daemon(site: Site, messenger: TestMessenger) -> Iterator[Daemon]:
    with listening(SNDBUF) as listener, activated(site, listener) as started:
        yield started


@pytest.fixture(scope="module")
def tls_daemon(tls_site: Site) -> Iterator[Daemon]:
    with listening(SNDBUF) as listener, activated(tls_site, listener) as started:
        started.scheme = "https"
        yield started


@contextlib.contextmanager
def activated(site: Site, listener: socket.socket) -> Iterator[Daemon]:
    """A daemon on a listener that another process holds open, as systemd hands it over."""
    script = site.directory / "activate"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "os.dup2(int(os.environ['LISTENER']), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='messenger')\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    script.chmod(0o700)
    with daemon(site, environment={"LISTENER": str(listener.fileno())}, executable=str(script), pass_fds=(listener.fileno(),)) as started:
        yield started


def listening(sndbuf: int | None = None, host: str = "127.0.0.1") -> socket.socket:
    """A listener whose connections let the daemon send so much ahead of its client."""
    listener = socket.socket()
    if sndbuf is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
    listener.bind((host, 0))
    listener.listen(512)
    return listener


def address(base: str) -> tuple[str, int]:
    host, _, port = base.partition("://")[2].rpartition(":")
    return host, int(port)


def request(messenger: TestMessenger, body: bytes = FOUND, *headers: str, path: str = "/v1/presence", length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Authorization: Bearer {messenger.api_key}", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# -- slow and silent clients

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter, TestMessenger], Awaitable[None]]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    """Connects and says nothing."""
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte every 50 ms until the daemon closes."""
    closed = asyncio.ensure_future(reader.read())
    for byte in data:
        if closed.done():
            break
        writer.write(bytes([byte]))
        await asyncio.wait([closed], timeout=0.05)
    await closed


async def drips_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    await drip(reader, writer, b"POST /v1/presence HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 5000)


async def drips_a_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    writer.write(request(messenger, b"", length=5000))
    await drip(reader, writer, b" " * 5000)


async def drips_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    writer.write(request(messenger, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
    await drip(reader, writer, b"1\r\n \r\n" * 1000)


async def drips_a_body_that_nobody_wants(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    writer.write(request(messenger, b"", length=5000, path="/v1/nowhere"))
    await drip(reader, writer, b" " * 5000)


async def promises_a_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    writer.write(request(messenger, b"", "Expect: 100-continue", length=5000))
    await reader.read()


async def keeps_alive_for_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    """Asks once, is answered, and stays."""
    writer.write(request(messenger))
    assert b" 200 " in await reader.readline()
    await reader.read()


async def stops_in_a_second_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    writer.write(request(messenger) + request(messenger)[:50])
    await reader.read()


async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messenger: TestMessenger) -> None:
    """Sends request after request and leaves the answers lying, until the daemon closes."""
    queries = json.dumps({"queries": [{"phoneNumber": f"+{NUMBERS[0]}"}] * 10_000}).encode()
    while True:
        writer.write(request(messenger, queries, path="/v1/presence/batch"))
        await writer.drain()


HANDSHAKE: dict[str, bytes] = {"no TLS at all": b"", "half a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"}
SLOW: list[Client] = [
    *(silent, drips_headers, drips_a_body, drips_chunks, drips_a_body_that_nobody_wants, promises_a_body, keeps_alive_for_nothing),
    *(stops_in_a_second_request, never_reads),
]


def test_slow_and_silent_clients_are_closed_and_others_are_not(site: Site, tls_site: Site, tls: Tls, messenger: TestMessenger) -> None:
    """None of them would end by itself within the test's patience."""

    async def misbehave(base: str, behaviour: Client, context: ssl.SSLContext | None) -> None:
        reader, writer = await asyncio.open_connection(*address(base), ssl=context, limit=1024)
        try:
            with contextlib.suppress(ConnectionError):
                await behaviour(reader, writer, messenger)
        finally:
            writer.transport.abort()

    async def leave_an_answer_lying(small: Daemon) -> None:
        """One answer, more than the network holds and less than makes the daemon wait before it closes."""
        queries = json.dumps({"queries": [{"phoneNumber": f"+{NUMBERS[0]}"}] * 1_000}).encode()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(address(small.api))
            sock.sendall(request(messenger, queries, path="/v1/presence/batch"))
            # The end of the connection stands behind what was not read, so the daemon's word is taken for it.
            await eventually(lambda: STALLED in small.metrics())

    async def handshake(base: str, hello: bytes) -> None:
        reader, writer = await asyncio.open_connection(*address(base))
        writer.write(hello)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.transport.abort()

    async def behave(base: str, context: ssl.SSLContext | None, others: asyncio.Future[Any]) -> None:
        """Asks over one connection, again and again until all others are closed."""
        reader, writer = await asyncio.open_connection(*address(base), ssl=context)
        while not others.done():
            writer.write(request(messenger))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0]))
            await asyncio.wait([others], timeout=0.3)
        writer.transport.abort()

    async def run(plain: Daemon, secure: Daemon, small: Daemon) -> None:
        slow = {
            f"{behaviour.__name__} at {base}": misbehave(base, behaviour, context)
            for base, context in ((plain.api, None), (secure_api, tls.context()))
            for behaviour in SLOW
        }
        slow |= {name: handshake(secure_api, hello) for name, hello in HANDSHAKE.items()}
        slow["leaves an answer lying"] = leave_an_answer_lying(small)
        tasks = [asyncio.create_task(work, name=name) for name, work in slow.items()]
        others = asyncio.ensure_future(asyncio.wait(tasks, timeout=PATIENCE_S))
        await asyncio.gather(behave(plain.api, None, others), behave(secure_api, tls.context(), others))
        assert [task.get_name() for task in tasks if not task.done()] == []
        for task in tasks:
            task.result()

    with contextlib.ExitStack() as stack:
        started = []
        for one, size in ((site, SNDBUF), (tls_site, SNDBUF), (site, 4096)):
            one.write_config(api='listen = "127.0.0.1:0"\nkeepalive_timeout_s = 3.0')
            stack.callback(one.write_config)
            started.append(stack.enter_context(activated(one, stack.enter_context(listening(size)))))
        secure_api = started[1].api.replace("http://", "https://")
        asyncio.run(run(*started))
        for running in started[:2]:
            assert STALLED in running.metrics()
            assert not [line for line in running.log() if line["event"] in ("request_failed", "background_failed")]


def test_a_kept_connection_outlasts_what_balancers_keep_unless_it_is_told_otherwise(site: Site) -> None:
    """nginx and AWS keep theirs 60 s, Envoy an hour: who closes first loses the other's next request."""
    assert site.settings.file.api.keepalive_timeout_s > 60
    site.write_config(api='listen = "127.0.0.1:0"\nkeepalive_timeout_s = 3600')
    assert site.settings.file.api.keepalive_timeout_s == 3600


def test_headers_are_bounded_together_and_not_each_alone(plain_daemon: Daemon, messenger: TestMessenger) -> None:
    """A stranger who never completes them would else keep a megabyte of each connection in memory."""
    long = [f"X-Long-{place}: {'a' * 8_000}" for place in range(4)]
    answer = parse_answer(exchange(plain_daemon.api, request(messenger, FOUND, *long[:3], "Connection: close")))
    assert (answer.status, answer.body["present"]) == (200, True)
    unfinished = request(messenger, FOUND, *long).partition(b"\r\n\r\n")[0] + b"\r\nX-Last: "
    unfinished = unfinished.ljust(HEAD_MAX_BYTES + 1, b"a")
    with socket.create_connection(address(plain_daemon.api), timeout=FIRST_REQUEST_S / 2) as sock:
        assert asked_again(sock, messenger)
        for start in range(0, len(unfinished), 4_000):
            sock.sendall(unfinished[start : start + 4_000])
        told = b"".join(iter(lambda: sock.recv(65536), b""))
    assert parse_answer(told).status == 400
    chunked = request(messenger, b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    behind = "".join(["0\r\n", *(f"{line}\r\n" for line in long), "X-Last: "]).encode().ljust(HEAD_MAX_BYTES + 1, b"a")
    with socket.create_connection(address(plain_daemon.api), timeout=BODY_TIMEOUT_S / 2) as sock:
        sock.sendall(chunked)
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
        for start in range(0, len(behind), 4_000):
            sock.sendall(behind[start : start + 4_000])
        told = b"".join(iter(lambda: sock.recv(65536), b""))
    assert parse_answer(told).status == 400, "what stands behind a body is bounded too"


@pytest.mark.parametrize("sent", [FOUND[:-1], FOUND], ids=["its body is awaited", "its answer is awaited"])
def test_a_client_that_resets_its_connection_is_no_fault_of_ours(messenger: TestMessenger, sent: bytes) -> None:
    async def run() -> list[int]:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        asked, gone, refused = asyncio.Event(), asyncio.Event(), []

        async def handle(request: BaseRequest) -> Reply:
            asked.set()
            try:
                await receiving.read_body(request, ApiSection(), 1_000)
            except HttpError as error:
                refused.append(error.status)
            await gone.wait()
            return Reply(b"{}")

        listener, sock = Listener("messenger", handle, ApiSection()), sockets.bind("127.0.0.1:0")
        await listener.listen([sock], None)
        _, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(request(messenger, sent, length=len(FOUND)))
        await asked.wait()
        [connection] = listener.connections
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await eventually(lambda: connection.transport is None)
        gone.set()
        await listener.drain()
        await listener.close(1)
        gc.collect()  # a task that failed and that nobody awaits is told when it goes
        assert not faults
        return refused

    assert asyncio.run(run()) == ([400] if sent != FOUND else [])


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


def connected(started: Daemon, count: int) -> bool:
    return f'registryd_connections{{api="messenger"}} {count}.0' in started.metrics()


# -- the protocol's corners


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
def test_whoever_has_most_connections_makes_room_for_others_and_nobody_else_does(
    site: Site, messenger: TestMessenger, has_key: bool
) -> None:
    """Neither a messenger nor a stranger, who needs no key for it, can take them all."""
    other = asyncio.run(site.add_messenger(f"other-{has_key:d}"))
    greedy = messenger if has_key else TestMessenger(0, "nobody", "rk_abcdefgh_" + "x" * 40, messenger.secret)
    site.write_config(api='listen = "127.0.0.1:0"\nconnections_max = 20')
    with contextlib.ExitStack() as stack:
        stack.callback(site.write_config)
        started = stack.enter_context(daemon(site))

        def connect(who: TestMessenger, status: bytes = b"HTTP/1.1 200 ") -> socket.socket:
            sock = stack.enter_context(socket.create_connection(address(started.api), timeout=60))
            assert asked_again(sock, who, status)
            return sock

        kept = [connect(other) for _ in range(3)]
        taken = [connect(greedy, b"HTTP/1.1 200 " if has_key else b"HTTP/1.1 401 ") for _ in range(40)]
        kept += [connect(other) for _ in range(3)]
        for sock in kept:
            assert asked_again(sock, other), "whoever has few keeps them, and gets more"
        open_still = [sock for sock in taken if not select.select([sock], [], [], 0)[0]]
        assert len(open_still) == 14
        assert open_still == taken[-14:], "the ones that were idle for longest went"
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


def asked_again(sock: socket.socket, messenger: TestMessenger, status: bytes = b"HTTP/1.1 200 ") -> bool:
    sock.sendall(request(messenger))
    return sock.recv(65536).startswith(status)


def test_a_client_may_ask_before_it_sends_its_body(plain_daemon: Daemon, messenger: TestMessenger) -> None:
    """Expect: 100-continue (RFC 9110 10.1.1)."""
    with socket.create_connection(address(plain_daemon.api), timeout=60) as sock:
        sock.sendall(request(messenger, b"", "Expect: 100-continue", "Connection: close", length=len(FOUND)))
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(FOUND)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    for length, headers, status in (
        (10**9, (), 413),
        (len(FOUND), ("Content-Encoding: gzip",), 415),
        (len(FOUND), ("Authorization: Bearer x",), 401),
    ):
        with socket.create_connection(address(plain_daemon.api), timeout=60) as sock:
            sock.sendall(request(messenger, b"", "Expect: 100-continue", *headers, length=length))
            assert sock.recv(65536).startswith(b"HTTP/1.1 %d " % status), "refused without asking for the body"


def test_http_1_0_is_answered_and_closed(plain_daemon: Daemon, messenger: TestMessenger) -> None:
    raw = request(messenger).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = parse_answer(exchange(plain_daemon.api, raw))
    assert (answer.status, answer.body["present"]) == (200, True)
    kept = raw.replace(b"Host: x", b"Connection: keep-alive")
    with socket.create_connection(address(plain_daemon.api), timeout=60) as sock:
        for _ in range(2):
            sock.sendall(kept)
            told = sock.recv(65536)
            # RFC 9112 2.3: an answer names the highest version its server speaks; to a client of 1.0 it says that it stays.
            assert told.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nConnection: keep-alive\r\n" in told


def test_pipelined_requests_are_answered_in_order(plain_daemon: Daemon, messenger: TestMessenger) -> None:
    bodies = [json.dumps({"phoneNumber": f"+{number}"}).encode() for number in (NUMBERS[0], NUMBERS[0] - 1) * 50]
    raw = b"".join(request(messenger, body, f"x-correlator: {place}") for place, body in enumerate(bodies[:-1]))
    told = exchange(plain_daemon.api, raw + request(messenger, bodies[-1], "x-correlator: 99", "Connection: close"))
    answers = told.split(b"HTTP/1.1 200 OK")[1:]
    assert len(answers) == 100
    for place, answer in enumerate(answers):
        assert f"x-correlator: {place}\r\n".encode() in answer
        assert (b'"present":true' in answer) is (place % 2 == 0)


def test_the_messenger_api_listens_on_a_unix_socket_too(site: Site, messenger: TestMessenger) -> None:
    path = Path(f"/tmp/registryd-{secrets.token_hex(6)}.sock")  # pytest's paths are too long for one
    site.write_config(api=f'listen = "unix:{path}"')
    try:
        for _ in range(2):  # a socket that the last run left behind does not stop the next one
            with daemon(site) as started:
                assert started.api == f"unix:{path}"
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
                assert stat.S_ISSOCK(path.stat().st_mode)
                assert asyncio.run(present(lambda: aiohttp.UnixConnector(str(path)), "http://localhost", messenger)) == 200
    finally:
        path.unlink(missing_ok=True)
        Path(f"{path}.lock").unlink(missing_ok=True)
        site.write_config()


async def present(connector: Callable[[], aiohttp.BaseConnector], base: str, messenger: TestMessenger) -> int:
    """The status of a query."""
    async with (
        aiohttp.ClientSession(base, connector=connector(), headers=messenger.headers) as session,
        session.post("/v1/presence", data=FOUND, headers={"Content-Type": "application/json"}) as response,
    ):
        await response.read()
        return response.status


# -- TLS


def test_plain_http_never_crosses_a_network(site: Site, tls: Tls) -> None:
    """Refused at the start, by its address and by the listener that systemd hands over."""
    try:
        for role, section in (("answer", "api"), ("operate", "operator")):
            site.write_config(**{section: 'listen = "0.0.0.0:0"'})
            with pytest.raises(AssertionError, match=r"ended with 78: .*tls-certificate"), daemon(site, role):
                pass
        site.write_config()
        with (
            listening(host="0.0.0.0") as listener,
            pytest.raises(AssertionError, match=r"ended with 78: .*needs TLS"),
            activated(site, listener),
        ):
            pass
    finally:
        site.write_config()


def test_a_certificate_without_its_key_is_refused_at_the_start(tls_site: Site, tls: Tls) -> None:
    put_certificate(tls_site, Pair(tls.server.certificate, tls.pinned.key))
    try:
        with pytest.raises(AssertionError, match=r"ended with 78: .*tls-key"), daemon(tls_site):
            pass
    finally:
        put_certificate(tls_site, tls.server)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(tls_daemon: Daemon, tls: Tls, messenger: TestMessenger, version: ssl.TLSVersion) -> None:
    context = tls.context()
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(address(tls_daemon.api)) as sock, context.wrap_socket(sock, server_hostname="127.0.0.1") as secure:
        assert secure.version() == f"TLSv1.{version.value - 0x301}"
        secure.sendall(request(messenger))
        assert secure.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_tls_1_1_is_refused(tls_daemon: Daemon, tls: Tls) -> None:
    context = tls.context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is not our side that refuses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(address(tls_daemon.api)) as sock, pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNEXPECTED_EOF"):
        context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_plain_http_to_a_tls_listener_is_cut_off(tls_daemon: Daemon, messenger: TestMessenger) -> None:
    with socket.create_connection(address(tls_daemon.api), timeout=60) as sock:
        sock.sendall(request(messenger))
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in sock.recv(65536)


def test_a_pinned_messenger_must_present_its_certificate(
    tls_daemon: Daemon, tls: Tls, plain_daemon: Daemon, messenger: TestMessenger, pinned: TestMessenger
) -> None:
    def status(asker: TestMessenger, pair: Pair | None) -> int:
        return asyncio.run(present(lambda: aiohttp.TCPConnector(ssl=tls.context(pair)), tls_daemon.api, asker))

    assert status(pinned, tls.pinned) == 200
    assert status(pinned, tls.unpinned) == 401, "a certificate of the same CA is not the one that is pinned"
    assert status(pinned, None) == 401
    assert status(messenger, tls.pinned) == 200, "nothing is asked of a messenger without a pin"
    assert status(messenger, None) == 200
    with pytest.raises(aiohttp.ClientError):
        status(pinned, tls.stranger)
    assert asyncio.run(present(aiohttp.TCPConnector, plain_daemon.api, pinned)) == 401, "there is no certificate without TLS"


def test_a_failed_handshake_is_counted_by_its_reason_and_told_without_a_byte_of_the_clients(tls_site: Site, tls: Tls) -> None:
    def shake(context: ssl.SSLContext) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address(running.api)) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(b"GET / HTTP/1.1\r\n\r\n")
            secure.recv(1)

    def counted(reason: str, times: int) -> bool:
        return f'registryd_tls_handshakes_failed_total{{api="messenger",reason="{reason}"}} {times}.0' in running.metrics()

    with daemon(tls_site) as running:
        for _ in range(3):
            with socket.create_connection(address(running.api)) as sock:
                sock.sendall(b"GET /zebra HTTP/1.1\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    sock.recv(1)
        shake(tls.context(tls.stranger))
        shake(ssl.create_default_context())
        for reason, times in (("plain_http", 3), ("client_certificate", 1), ("our_certificate_refused", 1)):
            wait_for(lambda reason=reason, times=times: counted(reason, times))  # type: ignore[misc] # their types are the tuple's
        wait_for(lambda: len(events(running, "tls_handshake_failed")) == 3)
        told = events(running, "tls_handshake_failed")
        assert [line["reason"] for line in told] == ["plain_http", "client_certificate", "our_certificate_refused"]
        assert "self-signed" in told[1]["cause"]
        assert "zebra" not in running.written()


def test_a_certificate_that_ends_soon_is_told_at_the_start_and_by_a_metric(tls_site: Site, tls: Tls) -> None:
    put_certificate(tls_site, make_pair("registry", tls.ca, days=20))
    try:
        with daemon(tls_site, "operate") as running:
            [told] = wait_for(lambda: events(running, "certificate_expires"))
            assert (told["level"], told["certificate"], told["days"]) == ("warning", "tls-certificate", 19)
            shown = dict(line.rsplit(" ", 1) for line in running.metrics().splitlines() if "certificate_expires" in line and line[0] != "#")
        left = {name.split('"')[1]: float(value) - time.time() for name, value in shown.items()}
        assert set(left) == {"tls-certificate", "client-ca"}
        assert 19 * 86_400 < left["tls-certificate"] <= 20 * 86_400
    finally:
        put_certificate(tls_site, tls.server)


def test_the_operator_api_takes_clients_of_its_own_ca_alone(tls_site: Site, tls: Tls) -> None:
    (tls_site.directory / "credentials" / "operator-client-ca").write_bytes(tls.ca.certificate)

    async def ask(base: str, pair: Pair | None) -> int:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls.context(pair))) as session,
            session.get(f"{base}/operator/v1/contract-events", headers=tls_site.operator_headers) as response,
        ):
            return response.status

    with daemon(tls_site, "operate") as operating:
        base = operating.operator.replace("http:", "https:")
        assert asyncio.run(ask(base, tls.pinned)) == 405, "it was let in"
        for pair in (None, tls.stranger):
            with pytest.raises(aiohttp.ClientError):
                asyncio.run(ask(base, pair))


def test_a_renewed_certificate_is_served_after_a_reload(tls_site: Site, tls_daemon: Daemon, tls: Tls, messenger: TestMessenger) -> None:
    def served() -> bytes:
        with (
            socket.create_connection(address(tls_daemon.api)) as sock,
            tls.context().wrap_socket(sock, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(request(messenger))
            assert secure.recv(65536).startswith(b"HTTP/1.1 200 ")
            return secure.getpeercert(True) or b""

    def reload(event: str) -> None:
        seen = len(events(tls_daemon, event))
        tls_daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(events(tls_daemon, event)) > seen)

    former = ssl.PEM_cert_to_DER_cert(tls.server.certificate.decode())
    renewed = make_pair("registry", tls.ca)
    try:
        with (
            socket.create_connection(address(tls_daemon.api)) as sock,
            tls.context().wrap_socket(sock, server_hostname="127.0.0.1") as kept,
        ):
            assert served() == former
            put_certificate(tls_site, Pair(renewed.certificate, tls.server.key))
            reload("reload_failed")
            assert served() == former, "half of a renewal changes nothing"
            (tls_site.directory / "credentials" / "tls-key").unlink()
            reload("reload_failed")
            assert served() == former
            put_certificate(tls_site, renewed)
            reload("reloaded")
            assert served() == ssl.PEM_cert_to_DER_cert(renewed.certificate.decode())
            kept.sendall(request(messenger))
            assert kept.recv(65536).startswith(b"HTTP/1.1 200 "), "connections from before go on"
    finally:
        put_certificate(tls_site, tls.server)


def events(started: Daemon, name: str) -> list[dict[str, Any]]:
    return [line for line in started.log() if line["event"] == name]


# -- stopping


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
                current = await asyncio.to_thread(stack.enter_context, activated(site, listener))
                tasks = [asyncio.create_task(ask(session)) for _ in range(32)]
                for _ in range(2):
                    await more(300)
                    assert await asyncio.to_thread(current.stop) == 0
                    assert not [line for line in current.log() if line["event"] in ("request_failed", "background_failed")]
                    current = await asyncio.to_thread(stack.enter_context, activated(site, listener))
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
