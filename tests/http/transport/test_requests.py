"""The protocol's corners: headers, resets, bodies that wait to be asked for, HTTP/1.0, pipelines, a Unix socket."""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.web import BaseRequest

from registryd.config import ApiSection
from registryd.http import receiving, sockets
from registryd.http.problems import HttpError
from registryd.http.reply import Reply
from registryd.http.transport import FIRST_REQUEST_S, HEAD_MAX_BYTES, Listener
from tests.conftest import Daemon, Site, TestMessenger, daemon, eventually
from tests.http.conftest import exchange, parse_answer
from tests.http.transport.conftest import (
    BODY_TIMEOUT_S,
    FOUND,
    NUMBERS,
    address,
    asked_again,
    present,
    request,
)


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
