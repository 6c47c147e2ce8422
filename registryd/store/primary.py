"""Finds the primary among the hosts of a DSN, by asking each of them twice a second over a connection of its own.

Each promotion begins a new timeline. So of several servers of one cluster that take writes, the one on the highest timeline is the primary;
whoever promoted it could not stop the others, or not yet. Silence proves nothing: a server that is slow or away stays the primary until
another one says that it is.

Invariant: as long as this process lives, no server takes over from one of its own cluster that is on a higher timeline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import asyncpg

from registryd import observe
from registryd.config import split_hosts
from registryd.store.queries import Query

LOOK_S = 0.5
LOOK_TIMEOUT_S = 1.0
SILENCE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class Server(NamedTuple):
    system_id: int
    """A primary and its standbys have the same one; an upgraded cluster has another."""
    timeline: int
    """0 where the server takes no writes."""


class Primary(NamedTuple):
    dsn: str
    server: Server


DESCRIBE_SERVER = Query("schema", "describe_server", Server)


class PrimaryFinder:
    """`primary` is the primary, None until it is found. `moved` is called when it has moved. Use: `async with PrimaryFinder(...)`."""

    def __init__(self, dsn: str, password: str | None, name: str, moved: Callable[[], None]) -> None:
        self.primary: Primary | None = None
        self._password = password
        self._name = name
        self._moved = moved
        self._seen: dict[str, Server | None] = dict.fromkeys(split_hosts(dsn))
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> PrimaryFinder:
        looked = [asyncio.Event() for _ in self._seen]
        self._tasks = [asyncio.create_task(self._look(dsn, event), name="primary") for dsn, event in zip(self._seen, looked, strict=True)]
        if len(self._seen) > 1:  # wait for all of them: the first to answer need not be the primary
            await asyncio.gather(*(event.wait() for event in looked))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self, dsn: str, looked: asyncio.Event) -> None:
        connection: asyncpg.Connection[asyncpg.Record] | None = None
        settings = {"application_name": f"{self._name} watch"}
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK_TIMEOUT_S):
                        if connection is None:
                            connection = await asyncpg.connect(dsn, password=self._password, server_settings=settings)
                        row = await connection.fetchrow(DESCRIBE_SERVER.sql)
                    assert row is not None, "the statement has one row"
                    self.judge(dsn, Server(*row.values()))
                except Exception as error:
                    if not isinstance(error, SILENCE):
                        observe.event("background_failed", "error", where="primary", kind=type(error).__name__)
                    self.judge(dsn, None)
                    if connection is not None:
                        connection.terminate()
                        connection = None
                looked.set()
                await asyncio.sleep(LOOK_S)
        finally:
            if connection is not None:
                connection.terminate()

    def judge(self, dsn: str, server: Server | None) -> None:
        """Takes in what one host has answered; None where it did not answer."""
        self._seen[dsn] = server
        if server is not None and server.timeline and (self.primary is None or self._succeeds(server, self.primary)):
            known, self.primary = self.primary, Primary(dsn, server)
            if known is not None:
                observe.event("primary_moved", "warning", pool=self._name, timeline=server.timeline)
            if known is not None or len(self._seen) > 1:  # connections opened before may lead to another host
                self._moved()

    def _succeeds(self, server: Server, known: Primary) -> bool:
        if server.system_id == known.server.system_id and server.timeline != known.server.timeline:
            return server.timeline > known.server.timeline
        return self._seen[known.dsn] != known.server
