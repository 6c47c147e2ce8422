"""A connection that is lost between COMMIT and its answer, or before COMMIT has reached the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

from registryd.store.pool import Database
from tests.conftest import TestDatabase


class CutAtCommit:
    """Hands bytes on to the server and back. Where it is armed, it cuts the connection once at a COMMIT."""

    def __init__(self, path: str, is_committed: bool) -> None:
        self._path = path
        self._is_committed = is_committed
        self.is_armed = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        answers, questions = await asyncio.open_unix_connection(self._path)
        back = asyncio.create_task(_copy(answers, writer))
        while part := await reader.read(65_536):
            if self.is_armed and b"COMMIT" in part:
                self.is_armed = False
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                if self._is_committed:
                    questions.write(part)
                    await answers.read(65_536)
                break
            questions.write(part)
        for end in (questions, writer):
            end.close()
        back.cancel()
        await asyncio.gather(back, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while part := await source.read(65_536):
        target.write(part)


@asynccontextmanager
async def cut_at_commit(database: TestDatabase, is_committed: bool) -> AsyncIterator[tuple[Database, CutAtCommit]]:
    """The daemon's pool of one connection, and what cuts it."""
    place = dict(parse_qsl(urlsplit(database.dsn()).query))
    cut = CutAtCommit(f"{place['host']}/.s.PGSQL.{place['port']}", is_committed)
    server = await asyncio.start_server(cut.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    dsn = f"postgresql://registryd_app@127.0.0.1:{port}/{database.name}"
    async with Database(dsn, size=1, connect_timeout_s=3, command_timeout_s=10) as db:
        yield db, cut
    server.close()
    await asyncio.gather(*cut.tasks, return_exceptions=True)
