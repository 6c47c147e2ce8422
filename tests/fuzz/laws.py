"""What holds for any bytes: laws that hypothesis and atheris try to break, each a function of the bytes alone.

A body is read, or refused in words of ours; the quick readers read what the careful ones read. A connection answers in whole answers, none
of them 500, and ends when its client does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from aiohttp.web import BaseRequest

from registryd.config import ApiSection
from registryd.domain.errors import InvalidArgument
from registryd.domain.presence import PresenceQueries, PresenceQuery
from registryd.http import problems, receiving, transport, wire
from registryd.http.operator import _event
from registryd.http.problems import ERRORS_MAX, HttpError
from registryd.http.reply import Reply
from registryd.presence.answerer import BATCH_MAX_QUERIES

FIELDS = "phoneNumber|identificationCode|notificationIds|reinstatementIds|queries|events|eventId|type|occurredAt|holder|endUser"
PATH = re.compile(rf"(({FIELDS})(\[\d{{1,5}}\])?(\.({FIELDS}))?)?", re.ASCII)
MESSAGE = re.compile(r"[A-Za-z0-9 :,.\-|<>=()]{5,160}", re.ASCII)
LIMITS = ApiSection(body_max_bytes=100_000)

Read = tuple[Any, None] | tuple[None, tuple[tuple[str, str], ...]]


def outcome(reader: Callable[[bytes], Any], raw: bytes) -> Read:
    """What a reader makes of a body, or how it refuses it."""
    try:
        return reader(raw), None
    except InvalidArgument as error:
        refused = error.errors
    assert refused, "a refusal says why"
    for path, message in refused[:ERRORS_MAX]:
        assert PATH.fullmatch(path), "a path is made of our names"
        assert MESSAGE.fullmatch(message), f"a message is made of our words: {message}"
    return None, refused


def careful_query(raw: bytes) -> PresenceQuery:
    return wire.presence_query(wire.read(raw, wire.QueryBody))


def careful_batch(raw: bytes) -> PresenceQueries:
    parts = wire.read_items(raw, "queries", wire.QueryBody, BATCH_MAX_QUERIES, wire.presence_query)
    return wire._bounded(query for part in parts for query in part)


def events(raw: bytes) -> list[Any]:
    return [event for part in wire.read_items(raw, "events", wire.ContractEvent, 10_000, _event) for event in part]


def bodies(raw: bytes) -> None:
    """The law of every reader of bodies."""
    assert outcome(wire.read_query, raw) == outcome(careful_query, raw)
    assert outcome(wire.read_batch, raw) == outcome(careful_batch, raw)
    for reader in (wire.read_binding, wire.read_code, wire.read_notification_ids, wire.read_nothing, events):
        outcome(reader, raw)
    receiving.is_of_type(raw.decode("latin-1"))


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _handle(asked: list[str], request: BaseRequest) -> Reply:
    asked.append(request.method)
    try:
        wire.read_query(await receiving.read_body(request, LIMITS, LIMITS.body_max_bytes))
    except (InvalidArgument, HttpError) as error:
        return problems.respond(error)
    return Reply(b"{}")


def connection(raw: bytes) -> None:
    """The law of a connection. The first byte says how large the pieces are in which the others come."""
    asyncio.run(_converse(raw[1:], 1 + (raw[0] if raw else 0) ** 2))


async def _converse(raw: bytes, piece: int) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    asked: list[str] = []
    listener, end = transport.Listener("messenger", partial(_handle, asked), LIMITS), Wire()
    made = listener()
    assert isinstance(made, transport.Connection)
    made.connection_made(end)
    for start in range(0, len(raw), piece):
        if end.is_closed:
            break
        made.data_received(raw[start : start + piece])
        await asyncio.sleep(0)
    if not end.is_closed and not made.eof_received():
        end.close()
    for _ in range(10_000):
        if end.is_closed:
            break
        await asyncio.sleep(0)
    assert end.is_closed, "a connection ends with its client"
    made.connection_lost(None)
    for status, _ in answers(end.written, asked):
        assert status in (200, 400, 413, 415)
    assert not faults


def answers(told: bytes, asked: Sequence[str] = ()) -> Iterator[tuple[int, bytes]]:
    """The statuses and bodies of a stream of whole answers, one after another and nothing between them. `asked`: the requests' methods."""
    methods = iter(asked)
    while told:
        head, end, rest = told.partition(b"\r\n\r\n")
        assert end, "an answer has its end"
        first, *lines = head.split(b"\r\n")
        version, status, _ = first.split(b" ", 2)
        assert version == b"HTTP/1.1"
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        is_interim = status == b"100"
        has_body = not is_interim and next(methods, "") != "HEAD"
        length = int(headers[b"content-length"]) if has_body else 0
        assert len(rest) >= length, "an answer has its whole body"
        told = rest[length:]
        if not is_interim:
            yield int(status), rest[:length]
