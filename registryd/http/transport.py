"""Sockets and connections: aiohttp parses, and what it leaves open to slow, silent and broken clients is closed here.

A connection is one task that takes its requests in their order; a request is a call in it, not a task of its own.
Invariants: a client that does not complete a request's headers within 15 s of connecting, or within `keepalive_timeout_s` of its last
answer, is disconnected; so is one whose headers are longer than HEAD_MAX_BYTES, whose body does not arrive within `body_timeout_s`
(receiving.py), or that does not read its answers for 10 s. Not one byte of what a client sent is echoed or logged, also where it was not
HTTP. There are no more than `connections_max` connections, those whose TLS handshake is under way included: for a further one idle ones
make room (crowding.py), or it is refused.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any, cast

from aiohttp import HttpVersion11, StreamReader, http_parser, web_protocol
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web import BaseRequest, Server

from registryd import observe
from registryd.config import ApiSection, ConfigError
from registryd.http import problems
from registryd.http.accepting import Acceptor
from registryd.http.crowding import make_room
from registryd.http.handshakes import Handshakes
from registryd.http.reply import Reply, correlator

SWEEP_S = 1.0
STALLED_MAX_S = 10.0
FIRST_REQUEST_S = 15.0
"""How long a new connection may take to complete the headers of its first request."""
HEAD_MAX_BYTES = 32_768
"""What the first line and the headers of a request may take together. aiohttp bounds each of 128 headers alone: a stranger who never
completes them would keep a megabyte of each connection in memory.
"""
LINGERING_S = 2.0
DRAIN_S = 2.0
DRAIN_LOOK_S = 0.02
CANCEL_S = 0.1
"""How long a request may still take that has not ended in the time it had."""
BACKLOG = 4096

_SILENT = logging.getLogger("registryd.http.silent")
_SILENT.disabled = True

Handler = Callable[[BaseRequest], Awaitable[Reply]]


def assert_c_parser() -> None:
    """aiohttp falls back to a slow parser of its own without a word where its C extension is missing."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError("aiohttp's C parser is missing (is AIOHTTP_NO_EXTENSIONS set?): install the wheel for this platform")


class Connection(web_protocol.RequestHandler):
    """One client's connection, without aiohttp's echoes, and without its task, writer and streamed response for each request."""

    __slots__ = ("connected_at", "counted", "fed", "has_all", "head_bytes", "may_leave", "owner", "payload", "waits_since")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected_at = self._loop.time()
        self.waits_since: float | None = None
        self.owner, self.may_leave = "", True  # app.py names who has shown a key, and whose refusal is held back
        self.has_all = False
        """The client has shut its side: what it has asked is answered, and then the connection ends."""
        self.payload: StreamReader | None = None
        """The body of the request under way."""
        self.counted = self.fed = self.head_bytes = 0
        """How many requests have come, how much of the last one's body, and how much of the headers of the next one, or behind the body."""
        super().connection_made(transport)
        if self._keepalive_timeout > FIRST_REQUEST_S and self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
            self._next_keepalive_close_time = self._loop.time() + FIRST_REQUEST_S
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    @property
    def is_idle(self) -> bool:
        return self._manager is not None and self.may_leave

    @property
    def is_busy(self) -> bool:
        """Whether a request has come that is not answered yet."""
        return self._request_in_progress or bool(self._messages)

    @property
    def idle_since(self) -> float:
        return max(self.connected_at, self._next_keepalive_close_time - self._keepalive_timeout)

    def leave(self) -> None:
        assert isinstance(self._manager, Listener), "it is its listener's while it is idle"
        del self._manager.held[self]
        self.force_close()

    def data_received(self, data: bytes) -> None:
        """Who waits for the rest of a body learns at once that its framing is broken: aiohttp lets it wait until its time is over."""
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], web_protocol._ErrInfo):
            body = self._messages[-2][1] if len(self._messages) > 1 else self.payload
            if body is not None and not body.is_eof():
                self._break(body)
        else:
            self._bound_head(len(data))

    @property
    def _last_body(self) -> StreamReader | None:
        """The body of the request that came last and has not been answered."""
        return self._messages[-1][1] if self._messages else self.payload

    def _bound_head(self, received: int) -> None:
        """Answers to headers that are too long what aiohttp answers to one that is. Behind a body they are a part of its framing."""
        body = self._last_body
        fed = 0 if body is None else body.total_bytes
        if self._request_count != self.counted or fed != self.fed:
            self.counted, self.fed, self.head_bytes = self._request_count, fed, 0
            return
        self.head_bytes += received
        if self.head_bytes <= HEAD_MAX_BYTES or self.transport is None:
            return
        self.transport.pause_reading()
        if body is not None and not body.is_eof():
            self._break(body)
        self._messages.append((web_protocol._ErrInfo(400, ValueError(), ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def eof_received(self) -> bool:  # type: ignore[override] # what asyncio asks for: whether the transport stays open
        """The client has said all that it will (`nc -N`). TLS has no such state: there the connection ends."""
        self.has_all = True
        last = self._last_body
        if last is None:
            return False
        if not last.is_eof():
            self._break(last)
        return True

    def _break(self, body: StreamReader) -> None:
        """Ends a body with an error: a turn later, because who has just been woken for more would wait again without a look at it."""
        self._loop.call_soon(body.set_exception, web_protocol.RequestPayloadError("broken or cut off"))

    async def start(self) -> None:
        """Answers the connection's requests in their order, until it ends."""
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, payload = self._messages.popleft()
            self.payload, self.may_leave = payload, False
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            self._request_in_progress = True
            try:
                may_stay = await self._answer(message, payload)
            finally:
                self._request_in_progress = False
                if self._handler_waiter is not None and not self._handler_waiter.done():  # somebody waits to shut down
                    self._handler_waiter.set_result(None)
            if self._close or not may_stay:
                break
            self.payload, self.fed = None, 0
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        self._task_handler = None
        if self.transport is not None:
            self.transport.close()

    async def _answer(self, message: Any, payload: StreamReader) -> bool:
        """Answers one request; whether the connection may go on to the next."""
        if isinstance(message, web_protocol._ErrInfo):
            reply, is_head = self._not_http(), False
        else:
            assert self._request_handler is not None, "a connection is handled while it is its listener's"
            request = BaseRequest(message, payload, self, None, self._task_handler, self._loop)  # type: ignore[arg-type] # it never writes
            self._current_request = request
            try:
                reply = await self._request_handler(request)  # type: ignore[assignment] # the listener's handlers give Reply
            finally:
                self._current_request = None
            if not isinstance(self._manager, Listener):  # None: the client has gone away meanwhile
                return False
            is_last = self.has_all and not self._messages
            reply.close = reply.close or message.should_close or message.upgrade or is_last or self._manager.draining
            if message.version < HttpVersion11 and not reply.close:
                reply.headers = {**reply.headers, "Connection": "keep-alive"}
            is_head = message.method == "HEAD"
        if self.transport is None:
            return False
        self.transport.write(reply.encode(with_body=not is_head))
        try:
            if self._paused:
                await self._drain_helper()
            self.may_leave = True
            return not reply.close and (payload.is_eof() or await _rest_of(payload))
        except (ConnectionError, web_protocol.RequestPayloadError):
            return False

    def _not_http(self) -> Reply:
        """The answer to what was not HTTP; aiohttp's own answer and log quote it."""
        assert isinstance(self._manager, Listener)
        observe.connections_closed.labels(self._manager.name, "bad_http").inc()
        reply = problems.document(400, "INVALID_ARGUMENT", "This is not a well-formed HTTP/1.1 request.")
        reply.correlator = correlator()
        reply.close = True
        return reply


async def _rest_of(payload: StreamReader) -> bool:
    """Reads what is left of a body that was answered before its end; False where that takes too long."""
    try:
        async with asyncio.timeout(LINGERING_S):
            while not payload.is_eof():
                await payload.readany()
    except TimeoutError:
        return False
    return True


class Listener(Server):
    """One API's connections: their cap, their sweeping and their end."""

    def __init__(self, name: str, handler: Handler, api: ApiSection) -> None:
        super().__init__(handler)  # type: ignore[arg-type] # Connection awaits it, and knows what it gives
        self.name = name
        self.connections_max = api.connections_max
        self.held = cast("dict[Connection, asyncio.Transport]", self._connections)
        """The connections there are: aiohttp's own dict of them, and each of its handlers is a Connection."""
        self._options = {
            "keepalive_timeout": api.keepalive_timeout_s,
            "access_log": None,
            "logger": _SILENT,
            "auto_decompress": False,
        }
        self.draining = False
        """Then each answer ends its connection, so that no request is lost when the process ends."""
        for reason in ("cap", "room", "stalled", "bad_http"):
            observe.connections_closed.labels(name, reason)
        self._acceptors: list[Acceptor] = []
        self._sweeper: asyncio.Task[None] | None = None

    def __call__(self) -> web_protocol.RequestHandler:
        return Connection(self, loop=self._loop, **self._options)  # type: ignore[arg-type] # a dict of the keywords' mixed types

    async def listen(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Starts accepting."""
        handshakes = Handshakes(self.name)
        self._acceptors = [Acceptor(sock, BACKLOG, self._has_room, self, tls, handshakes) for sock in sockets]
        self._sweeper = asyncio.create_task(self._sweep())

    def _has_room(self) -> bool:
        """Whether one connection more may be opened: there are few enough, or others make room."""
        opening = [acceptor.opening for acceptor in self._acceptors]
        if len(self.held) + sum(map(len, opening)) < self.connections_max:
            return True
        return make_room(self.name, chain(self.held, *(each.values() for each in opening)))

    async def drain(self) -> None:
        """Accepts no more, and gives the connections there are a while to end with an answer: what was just accepted has yet to be read.

        Who connects now is refused, or waits for the next process where the listener is shared with it.
        """
        self.draining = True
        for acceptor in self._acceptors:
            acceptor.close()
        for _ in range(int(DRAIN_S / DRAIN_LOOK_S)):
            await asyncio.sleep(DRAIN_LOOK_S)
            if not self.held and not any(acceptor.opening for acceptor in self._acceptors):
                break

    async def close(self, timeout_s: float) -> None:
        """Ends every connection, after its running request, whose body may still be on its way: aiohttp would take no more of it."""
        for _ in range(int(timeout_s / DRAIN_LOOK_S)):
            if not any(connection.is_busy for connection in self.held):
                break
            await asyncio.sleep(DRAIN_LOOK_S)
        self.pre_shutdown()
        await self.shutdown(CANCEL_S)
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _sweep(self) -> None:
        """Disconnects clients that do not read: their answers would wait in memory for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            observe.connections.labels(self.name).set(len(self.held))
            now = self._loop.time()
            # aiohttp forgets the transport of a connection that it closes, though what waits to be sent keeps it open: so ask the listener.
            for connection, transport in list(self.held.items()):
                waits = transport.get_write_buffer_size() > 0
                connection.waits_since = (connection.waits_since or now) if waits else None
                if connection.waits_since is not None and now - connection.waits_since > STALLED_MAX_S:
                    observe.connections_closed.labels(self.name, "stalled").inc()
                    transport.abort()
