"""A pooler as PgBouncer is one to its clients: it refuses startup parameters that it does not know, and tells a process id of its own.

It pools sessions: a client has its server for as long as it is connected. Or it pools transactions: whoever asks gets the one server there
is, between two transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

KNOWN = {"user", "database", "application_name", "client_encoding", "datestyle", "timezone", "standard_conforming_strings"}
SSL_REQUEST = 80877103
CANCEL_REQUEST = 80877102


@asynccontextmanager
async def pooling(host: str, port: int, *, transactions: bool = False) -> AsyncIterator[int]:
    """Listens on a loopback port, which it yields, before the server in a directory of sockets."""
    pooler = Pooler(f"{host}/.s.PGSQL.{port}", transactions)
    server = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in pooler.tasks:
            task.cancel()
        await asyncio.gather(*pooler.tasks, return_exceptions=True)
        for writer in pooler.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in pooler.writers), return_exceptions=True)


class Pooler:
    def __init__(self, path: str, transactions: bool) -> None:
        self._path = path
        self._shared = asyncio.Lock() if transactions else None
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._greeting = b""
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            startup = await self._startup(reader, writer)
            if startup and self._shared is None:
                await self._session(startup, reader, writer)
            elif startup:
                await self._transactions(startup, reader, writer)
        writer.close()

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """The startup packet; empty where the client is refused."""
        while True:
            (length, code) = struct.unpack("!ii", await reader.readexactly(8))
            rest = await reader.readexactly(length - 8)
            if code != SSL_REQUEST:
                break
            writer.write(b"N")
        if code == CANCEL_REQUEST:
            return b""
        words = rest.rstrip(b"\0").split(b"\0")
        for name in words[::2]:
            if name.decode().lower() not in KNOWN:
                text = b"SFATAL\0C08P01\0Munsupported startup parameter: " + name + b"\0\0"
                writer.write(b"E" + struct.pack("!i", len(text) + 4) + text)
                await writer.drain()
                return b""
        return struct.pack("!ii", length, code) + rest

    async def _open(self, startup: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """A server's connection and its greeting, with another process id."""
        reader, writer = await asyncio.open_unix_connection(self._path)
        self.writers.append(writer)
        writer.write(startup)
        greeting = b""
        while True:
            kind, body = await read_message(reader)
            if kind == b"K":
                body = body[:4] + struct.pack("!i", 77_000_000) + body[8:]
            greeting += kind + body
            if kind == b"Z":
                return reader, writer, greeting

    async def _session(self, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions, greeting = await self._open(startup)
        writer.write(greeting)
        try:
            await asyncio.gather(_copy(reader, questions), _copy(answers, writer))
        finally:
            questions.close()

    async def _transactions(self, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._shared is not None
        async with self._shared:
            if self._server is None:
                answers, questions, self._greeting = await self._open(startup)
                self._server = answers, questions
        answers, questions = self._server
        writer.write(self._greeting)
        while True:
            first = await read_message(reader)
            async with self._shared:
                state = b"T"
                message = first
                while state != b"I":
                    if message[0] == b"X":
                        return
                    questions.write(b"".join(message))
                    if message[0] in (b"S", b"Q"):
                        state = await self._answers(answers, writer, b"Z")
                    elif message[0] == b"H":  # asyncpg flushes after it has asked to describe a statement
                        await self._answers(answers, writer, b"TnE")
                    if state != b"I":
                        message = await read_message(reader)

    async def _answers(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, last: bytes) -> bytes:
        """Hands on the server's answers up to the next of these types; returns the end of that one."""
        while True:
            kind, body = await read_message(answers)
            writer.write(kind + body)
            if kind in last:
                await writer.drain()
                return body[-1:]


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """A message's type, and the rest of it with its length."""
    head = await reader.readexactly(5)
    return head[:1], head[1:] + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while part := await source.read(65_536):
        target.write(part)
        await target.drain()
    target.close()
