"""Slow, silent and greedy clients are closed in time, and others are not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from tests.conftest import PATIENCE_S, Daemon, Site, TestMessenger, eventually
from tests.http.transport.conftest import (
    NUMBERS,
    SNDBUF,
    STALLED,
    Tls,
    address,
    listening,
    request,
)
from tests.served import handed_over

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
            started.append(stack.enter_context(handed_over(one, stack.enter_context(listening(size)))))
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
