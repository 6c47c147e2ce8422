"""Finds the primary among the hosts of a DSN, and notices when it is stuck: each host is asked twice a second over a connection of its own.

Each promotion begins a new timeline. So of several servers of one cluster that take writes, the one on the highest timeline is the primary;
whoever promoted it could not stop the others, or not yet. Silence proves nothing: a server that is slow or away stays the primary until
another one says that it is. Nothing is asked of it meanwhile, because nobody would wait for the answer.

Invariant: as long as this process lives, no server takes over from one of its own cluster that is on a higher timeline, unless every host
has said that its data are of no higher one: then the cluster went back, and what was written on the higher one is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from registryd import observe
from registryd.addresses import split_hosts
from registryd.store.queries import Query

LOOK_S = 0.5
LOOK_TIMEOUT_S = 0.8
LATE_S = 0.2
"""How much longer an answer may lie unread because this process itself is late."""
COMMIT_WAIT_S = 1.5
"""A commit that has waited so long for a standby will not come soon, and neither will the next one."""
SILENCE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class Server(NamedTuple):
    system_id: int
    """A primary and its standbys have the same one; an upgraded cluster has another."""
    takes_writes: bool
    timeline: int
    """The one that it writes; of a standby the highest that it is known to have."""
    waiting: list[str]
    """The commits of our role that wait for a standby. One that waits longer has the same text in the next look."""


class Primary(NamedTuple):
    dsn: str
    system_id: int
    timeline: int


class PrimaryStuck(Exception):
    """The text says in what way."""


DESCRIBE_SERVER = Query("schema", "describe_server", Server)


class PrimaryFinder:
    """`primary` is the primary, None until it is found. Use: `async with PrimaryFinder(...)`.

    `left` is called when connections that were opened before are of no use: the primary has moved, or it is stuck. `clock()`: a monotonic
    one, in seconds.
    """

    def __init__(
        self,
        dsn: str,
        password: str | None,
        name: str,
        left: Callable[[], None],
        connect_timeout_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.primary: Primary | None = None
        self.stuck = ""
        """In what way the primary is stuck, so that nothing should be asked of it; empty while it is not."""
        self.left_behind = ""
        """Which host takes writes and is not followed, while the primary is gone; empty where there is none."""
        self.heard_at = 0.0
        """When anything of the primary was last heard, by the clock. The pool sets it, too."""
        self._password = password
        self._name = name
        self._left = left
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._seen: dict[str, Server | None] = dict.fromkeys(split_hosts(dsn))
        self._waiting: dict[str, float] = {}
        """The commits that wait for a standby, and since when they were seen to."""
        self._tasks: list[asyncio.Task[None]] = []
        self._repeats = observe.repeats()

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
        statement: asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record] | None = None
        settings = {"application_name": f"{self._name} watch"}
        try:
            while True:
                began = self._clock()
                try:
                    if connection is None or statement is None:
                        async with asyncio.timeout(self._connect_timeout_s):
                            connection = await asyncpg.connect(dsn, password=self._password, server_settings=settings)
                            statement = await connection.prepare(DESCRIBE_SERVER.sql)
                    self.judge(dsn, Server(*(await _ask(statement)).values()))
                except Exception as error:
                    if not isinstance(error, SILENCE):
                        kind = type(error).__name__
                        self._repeats.tell("background_failed", "error", kind=kind, facts={"where": "primary", "kind": kind})
                    if connection is not None:
                        connection.terminate()
                    connection = statement = None
                    self.judge(dsn, None, hangs=isinstance(error, TimeoutError) and self.heard_at < began)
                looked.set()
                await asyncio.sleep(LOOK_S)
        finally:
            if connection is not None:
                connection.terminate()

    def judge(self, dsn: str, server: Server | None, *, hangs: bool = False) -> None:
        """Takes in what one host has answered; None where it did not answer, and `hangs` where it did not refuse to, either."""
        self._seen[dsn] = server
        if server is not None and server.takes_writes and (self.primary is None or self._succeeds(server, self.primary)):
            known, self.primary = self.primary, Primary(dsn, server.system_id, server.timeline)
            self.stuck, self._waiting = "", {}
            observe.database_primary.clear()
            observe.database_primary.labels(_host(dsn)).set(1)
            if known is not None:
                observe.event("primary_moved", "warning", pool=self._name, timeline=server.timeline, former_timeline=known.timeline)
            if known is not None or len(self._seen) > 1:  # connections opened before may lead to another host
                self._left()
        if self.primary is not None:
            if dsn == self.primary.dsn:
                self._judge_stuck(server, hangs)
            self._judge_left_behind(self.primary)

    def _judge_stuck(self, server: Server | None, hangs: bool) -> None:
        """Cuts all connections once the primary is stuck: what is asked over them would wait for as long as a statement may take."""
        now = self._clock()
        if server is not None:
            self.heard_at = now
            self._waiting = {commit: self._waiting.get(commit, now) for commit in server.waiting}
            is_waiting = any(now - since >= COMMIT_WAIT_S for since in self._waiting.values())
            stuck = "commits wait for a standby that does not confirm them" if is_waiting else ""
        elif hangs:
            stuck = "the database does not answer"
        else:  # it refuses, or it is being tried again
            stuck = self.stuck
        if stuck and not self.stuck:
            observe.event("primary_stuck", "error", pool=self._name, reason=stuck)
            self._left()
        self.stuck = stuck

    def _judge_left_behind(self, known: Primary) -> None:
        """Says which host would be the primary, had there been none on a higher timeline."""
        left_behind = ""
        for dsn, server in self._seen.items():
            if server is None or not server.takes_writes or server.system_id != known.system_id:
                continue
            if server.timeline < known.timeline and not self._is_there(known):
                left_behind = f"{_host(dsn)} takes writes on timeline {server.timeline}, but is left behind: there was timeline"
                left_behind += f" {known.timeline}. Restart this process if the cluster went back on purpose"
        if left_behind and not self.left_behind:
            observe.event("primary_left_behind", "error", pool=self._name, reason=left_behind)
        self.left_behind = left_behind

    def _succeeds(self, server: Server, known: Primary) -> bool:
        if server.system_id == known.system_id and server.timeline != known.timeline:
            return server.timeline > known.timeline or all(
                seen is not None and seen.system_id == server.system_id and seen.timeline <= server.timeline for seen in self._seen.values()
            )
        return not self._is_there(known)

    def _is_there(self, known: Primary) -> bool:
        """Whether it takes writes as it did when it became the primary."""
        seen = self._seen[known.dsn]
        return seen is not None and seen.takes_writes and (seen.system_id, seen.timeline) == (known.system_id, known.timeline)


async def _ask(statement: asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]) -> asyncpg.Record:
    """Raises: TimeoutError, only where the server is late, not where this process is."""
    asked = asyncio.create_task(statement.fetchrow())
    try:
        for patience_s in (LOOK_TIMEOUT_S, LATE_S):
            await asyncio.wait({asked}, timeout=patience_s)
        if not asked.done():
            raise TimeoutError
        row = asked.result()
        assert row is not None, "the statement has one row"
        return row
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


def _host(dsn: str) -> str:
    url = urlsplit(dsn)
    return dict(parse_qsl(url.query)).get("host") or url.netloc.rpartition("@")[2]
