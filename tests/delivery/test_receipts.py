"""What an answer may cost and what it means: endpoints that flood, drip, hang, hang up or speak unasked."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp.web import Response

from registryd.delivery import push
from registryd.delivery.egress import Egress
from registryd.domain.notification import Acknowledged, Failed, Outcome, Rejected
from tests.conftest import PATIENCE_S
from tests.delivery.conftest import listening
from tests.delivery.raw import pushing, raw_server, read_request, self_signed

pytestmark = pytest.mark.usefixtures("loops")

BROKEN_RECEIPTS = {
    "a body behind 204": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "chunks behind 204": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "bytes of nobody": b"HTTP/1.1 204 No Content\r\n\r\nhello",
    "a length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
    "chunks and a length": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
    "a header of 9,000 bytes": b"HTTP/1.1 204 No Content\r\nContent-Security-Policy: " + b"x" * 9_000 + b"\r\n\r\n",
    "a header of 100,000 bytes": b"HTTP/1.1 204 No Content\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "200 headers": b"HTTP/1.1 204 No Content\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
    "a blank in a name": b"HTTP/1.1 200 OK\r\nFoo : bar\r\nContent-Length: 0\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nFoo: b\x00r\r\nContent-Length: 0\r\n\r\n",
    "a chunk that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "hints first": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", BROKEN_RECEIPTS.values(), ids=BROKEN_RECEIPTS)
def test_the_status_is_the_verdict_whatever_the_rest_of_the_answer_is(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where other statuses come so; and the next push on that channel is one of its own."""
    monkeypatch.setattr(push, "ANSWER_TIMEOUT_S", 0.2)

    async def run(answer: bytes, verdict: Outcome) -> None:
        asked = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            while True:
                await read_request(reader)
                asked += 1
                writer.write(answer)
                await writer.drain()

        async with raw_server(serve) as url, pushing() as outcome:
            for _ in range(2):
                assert await outcome(url) == verdict
        assert asked == 2

    status = 204 if b" 204 " in answer else 200
    asyncio.run(run(answer, Acknowledged(status)))
    asyncio.run(run(answer.replace(b" %d" % status, b" 422", 1), Rejected(422)))
    asyncio.run(run(answer.replace(b" %d" % status, b" 500", 1), Failed("status 500", 500)))


def test_headers_that_never_end_cost_little_and_leave_the_verdict_to_the_status() -> None:
    """Each of them is short enough. All of them together would have the process killed, which delivers to others too."""
    hung_up = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 204 No Content\r\n" + b"X: %b\r\n" % (b"x" * 60_000) * 5)
        await reader.read()
        hung_up.set()

    async def run() -> None:
        async with raw_server(endless) as url, pushing() as outcome:
            assert await outcome(url) == Acknowledged(204)
            await asyncio.wait_for(hung_up.wait(), PATIENCE_S)

    asyncio.run(run())


def test_receipt_counts_whatever_follows_it() -> None:
    """A 2xx is a receipt: its body may be endless, broken, compressed or late, and costs next to nothing."""
    ended = asyncio.Event()
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await writer.drain()
                written += 0x10000
        finally:
            ended.set()

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")

    async def compressed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip")
        await writer.drain()

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        await reader.read()

    async def run(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]) -> Outcome:
        async with raw_server(serve) as url, pushing() as outcome:
            verdict = await outcome(url)  # although none of these answers ends
            if serve is endless:
                await asyncio.wait_for(ended.wait(), PATIENCE_S)
            return verdict

    assert asyncio.run(run(endless)) == Acknowledged(200)
    assert written < 16 * 1024 * 1024, "no more than the sockets' buffers took"
    assert asyncio.run(run(broken)) == Acknowledged(200)
    assert asyncio.run(run(compressed)) == Acknowledged(201)
    assert asyncio.run(run(dripping)) == Acknowledged(200)


def test_answer_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "TOTAL_TIMEOUT_S", 0.4)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def continuing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(0.3)

    async def run() -> None:
        for serve in (silent, dripping, continuing, hanging_up):
            async with raw_server(serve) as url, pushing() as outcome:
                # A bound on each try alone would let the second one after hanging_up end as a lost connection.
                assert await outcome(url) == Failed("timeout"), serve.__name__

    asyncio.run(run())


def test_what_is_no_answer_is_told_in_words_of_ours(tmp_path: Path) -> None:
    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"secret of the endpoint\r\n\r\n")

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> None:
        async with pushing() as outcome:
            async with raw_server(gibberish) as url:
                failed = await outcome(url)
                assert isinstance(failed, Failed)
                assert failed.error.startswith("connection lost (")
                assert "secret" not in failed.error
            async with raw_server(nothing) as url:
                pass
            assert await outcome(url) == Failed("no connection")
            assert await outcome("http://" + "a" * 64 + ".example/") == Failed("the endpoint's name cannot be resolved")
            assert isinstance(await outcome("http://127.0.0.1:1/\x00 secret"), Failed)
            async with raw_server(nothing, self_signed(tmp_path)) as url:
                assert await outcome(url) == Failed("the endpoint's certificate is not valid")
            async with raw_server(plain) as url:
                assert await outcome(url.replace("http:", "https:")) == Failed("TLS failed")
        async with pushing(Egress()) as outcome:
            failed = await outcome("http://messenger.example/?token=secret")
            assert isinstance(failed, Failed)
            assert "https" in failed.error
            assert "secret" not in failed.error

    asyncio.run(run())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_kept_connection_that_the_endpoint_ends_costs_one_resend(reset: bool) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        heads.append(await read_request(reader))  # of a connection that was kept
        if reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def run() -> None:
        async with raw_server(serve) as url, pushing() as outcome:
            assert await outcome(url) == Acknowledged(204)
            assert await outcome(url) == Acknowledged(204)
            assert len(heads) == 3
            ids = {line for head in heads for line in head.split(b"\r\n") if line.lower().startswith(b"webhook-id:")}
            assert len(ids) == 1

    asyncio.run(run())


def test_what_comes_unasked_is_no_receipt_for_the_next_push() -> None:
    answered, asked = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_request(reader)
        asked += 1
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n" if asked == 1 else b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        await answered.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await reader.read()

    async def run() -> None:
        async with raw_server(serve) as url, pushing() as outcome:
            assert await outcome(url) == Acknowledged(204)
            answered.set()
            for _ in range(10):  # turns of the loop, in which what was written arrives
                await asyncio.sleep(0)
            assert await outcome(url) == Failed("status 503", 503)
        assert asked == 2

    asyncio.run(run())


@pytest.mark.parametrize("greeting", [b"220 smtp ready\r\n", b""], ids=["speaks", "hangs up"])
def test_an_endpoint_that_speaks_first_is_a_failure_told_after_one_connection(greeting: bytes) -> None:
    connected: list[socket.socket] = []

    def serve(server: socket.socket) -> None:
        """At once, so that what it says is there before it is asked."""
        connected.append(server.accept()[0])
        connected[-1].sendall(greeting)
        if not greeting:
            connected[-1].close()

    async def run() -> Outcome:
        async with pushing() as outcome:
            with socket.create_server(("127.0.0.1", 0)) as server:
                asyncio.get_running_loop().add_reader(server, serve, server)
                failed = await asyncio.wait_for(outcome(f"http://127.0.0.1:{server.getsockname()[1]}/"), PATIENCE_S)
                asyncio.get_running_loop().remove_reader(server)
                return failed

    failed = asyncio.run(run())
    for connection in connected:
        connection.close()
    assert isinstance(failed, Failed)
    assert failed.error.startswith("connection lost (")
    assert len(connected) <= (1 if greeting else 2)


def test_endpoint_that_always_hangs_up_is_asked_twice_at_most() -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_request(reader)
        asked += 1

    async def run() -> None:
        async with raw_server(serve) as url, pushing() as outcome:
            assert await outcome(url) == Failed("connection lost (ServerDisconnectedError)")
        assert asked == 2

    asyncio.run(run())


def test_retry_after_is_read_in_both_of_its_forms() -> None:
    async def run() -> None:
        for value, least, most in (
            ("120", 120, 120),
            ("0", 0, 0),
            (f"{datetime.now(UTC) + timedelta(seconds=90):%a, %d %b %Y %H:%M:%S GMT}", 80, 91),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
            ("soon", None, None),
            ("-5", None, None),
            ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None, None),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 2e11, 3e11),
            ("Wed, 21 Oct 2015 07:28:00 -0000", None, None),
            ("", None, None),
            ("99999999999999999999", None, None),
            ("１２", None, None),
        ):
            for status in (429, 503, 500):
                answer = Response(status=status, headers={"Retry-After": value})
                async with listening(lambda _, answer=answer: answer) as endpoint, pushing() as outcome:  # type: ignore[misc] # as above
                    failed = await outcome(endpoint.url)
                assert isinstance(failed, Failed)
                if status == 500 or least is None or most is None:
                    assert failed.retry_after is None, value
                else:
                    assert failed.retry_after is not None, value
                    assert least <= failed.retry_after.total_seconds() <= most, value

    asyncio.run(run())
