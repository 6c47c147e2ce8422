"""Verifies the evidence: the chain of seals, the pages they cover, the break-glass log, and the heads that were kept elsewhere.

The chains are read in one snapshot; then pages are compared in runs of at most a day, several at a time, each in a transaction of its own.
It changes nothing and trusts no function of the database's own (sql/queries/audit.sql brings its own hashes).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from registryd.domain.chains import Chain, Finding, LetGo, Run, Seal, Seals
from registryd.domain.heads import Link, Origin
from registryd.store.bulk import connect
from registryd.store.migrations import act_as_owner
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Nothing, Query

SIDE_BY_SIDE = 4
"""How many runs are compared at a time, each on a processor of the database's."""
SEALED_WITHIN = timedelta(hours=1)
"""An older page that no seal covers is told: nothing seals, or the chain's end was cut off."""
AHEAD = timedelta(days=1)
"""How far a page's id may be ahead of the clock: a server's clock may be wrong by minutes."""
FIRST_ID, END_ID = UUID(int=0), UUID(int=2**128 - 1)


class Verdict(NamedTuple):
    seals: int
    pages: int
    """Pages that were compared with the seals."""
    sealed_until: datetime | None
    log_entries: int
    """Rows of the break-glass log."""
    dropped_before: date | None
    """Before this day there is nothing any more: the policy has let it go."""
    let_go: list[LetGo]
    findings: list[Finding]


class Changed(NamedTuple):
    sequence: int
    from_at: datetime
    until_at: datetime
    sealed: int
    found: int


class PageId(NamedTuple):
    page_id: UUID


class Entry(NamedTuple):
    sequence: int
    previous: bytes
    sha256: bytes
    expected: bytes


class ReadAt(NamedTuple):
    at: datetime
    system_identifier: int
    timeline: int


class Head(NamedTuple):
    chain: str
    sequence: int
    at: datetime
    sha256: bytes


READ_CHAIN = Query("audit", "read_chain", Seal, int)
FIND_CHANGED_WINDOWS = Query("audit", "find_changed_windows", Changed, int, int, UUID, UUID)
FIND_STRAY_PAGES = Query("audit", "find_stray_pages", PageId, list[UUID], list[UUID])
READ_MOMENT = Query("audit", "read_moment", ReadAt)
READ_HEADS = Query("audit", "read_heads", Head)
READ_LOG = Query("audit", "read_log", Entry, int)
RECORD_VERIFICATION = Query("audit", "record_verification", Nothing, int, int)


async def verify(
    dsn: str,
    password: str | None,
    heads: Mapping[str, Link],
    *,
    since: bool = False,
    from_day: date | None = None,
    progress: Callable[[date, int, int], None] = lambda *_: None,
) -> Verdict:
    """Compares everything there is with the chain, and the chain with `heads`.

    `since`: only what was written since the heads. `from_day`: pages of earlier days are not compared. `progress(day, pages, total)`: every
    day before `day` is compared, and so many pages of all. Raises: Unavailable, SchemaMismatch.
    """
    async with reading(dsn, password) as connection:
        moment = (await fetch(connection, READ_MOMENT))[0]
        now = Origin(moment.system_identifier, moment.timeline)
        log = Chain("breakglass", heads.get("breakglass"), since=since)
        async for record in connection.cursor(READ_LOG.sql, log.sequence + 1, prefetch=5_000):
            entry = Entry(*record.values())
            if since and log.count == 0 and entry.sequence == log.sequence + 1:
                log.begins_after(log.sequence, entry.previous)
            log.step(*entry, now)
        log.end(now)
        seals = Seals(heads.get("journal"), since=since, from_day=from_day)
        async for record in connection.cursor(READ_CHAIN.sql, seals.chain.sequence + 1, prefetch=5_000):
            seals.step(Seal(*record.values()))
        seals.end(now)
        strays = await _find_strays(connection, seals, moment.at, since=since)
    runs = seals.to_compare()
    findings = [*log.findings, *seals.chain.findings, *await _compare(dsn, password, runs, progress), *strays]
    until = seals.last.until_at if seals.last else None
    pages = sum(run.pages for run in runs)
    return Verdict(seals.chain.count, pages, until, log.count, seals.dropped_before, list(seals.let_go.values()), findings)


async def _compare(dsn: str, password: str | None, runs: list[Run], progress: Callable[[date, int, int], None]) -> list[Finding]:
    """Holds windows to their pages, several runs at a time."""
    total, done, finished = sum(run.pages for run in runs), 0, set[int]()
    waiting = iter(enumerate(runs))
    found: list[Changed] = []

    async def work() -> None:
        nonlocal done
        async with _connection(dsn, password) as connection:
            for number, run in waiting:
                found.extend(
                    await fetch(
                        connection, FIND_CHANGED_WINDOWS, run.first_seal, run.last_seal, _first_id(run.from_at), _first_id(run.until_at)
                    )
                )
                done += run.pages
                finished.add(number)
                reached = next(n for n in range(len(runs) + 1) if n not in finished)
                progress(runs[min(reached, len(runs) - 1)].from_at.date(), done, total)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(SIDE_BY_SIDE, len(runs))):
            tasks.create_task(work())
    return [
        Finding(
            "window_changed",
            "journal",
            window.sequence,
            None,
            f"its pages from {window.from_at:%Y-%m-%d %H:%M} to {window.until_at:%H:%M} UTC are not those that were sealed: "
            + (f"there are {window.found:,} instead of {window.sealed:,}" if window.found != window.sealed else "one was changed"),
        )
        for window in sorted(found)
    ]


async def _find_strays(connection: Connection, seals: Seals, now: datetime, *, since: bool) -> list[Finding]:
    """Pages where none may be: before the first window, long after the last, or in the future."""
    if seals.first is None or seals.last is None:
        return []
    until = seals.last.until_at
    parts = [] if since else [(FIRST_ID, _first_id(seals.first.from_at))]
    if until < now - SEALED_WITHIN:
        parts.append((_first_id(until), _first_id(now - SEALED_WITHIN)))
    parts.append((_first_id(max(until, now + AHEAD)), END_ID))
    rows = await fetch(connection, FIND_STRAY_PAGES, [first for first, _ in parts], [end for _, end in parts])
    told = "no seal covers it: it was inserted, nothing has sealed for an hour, or the chain's end was cut off"
    return [Finding("page_unsealed", "journal", None, row.page_id, told) for row in rows]


async def record(dsn: str, password: str | None, verdict: Verdict) -> None:
    """Writes down that the evidence was verified, and with what result. Raises: Unavailable, SchemaMismatch."""
    connection = await connect(dsn, password=password)
    try:
        await act_as_owner(connection)
        await fetch(connection, RECORD_VERIFICATION, verdict.pages, len(verdict.findings))
    finally:
        await connection.close()


async def read_heads(connection: Connection) -> dict[str, Link]:
    """The ends of the chains."""
    moment = (await fetch(connection, READ_MOMENT))[0]
    origin = Origin(moment.system_identifier, moment.timeline)
    return {head.chain: Link(head.sequence, head.at, head.sha256, origin) for head in await fetch(connection, READ_HEADS)}


@asynccontextmanager
async def reading(dsn: str, password: str | None) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the owner's that sees one moment and changes nothing. Raises: Unavailable, SchemaMismatch."""
    async with _connection(dsn, password) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        yield connection


@asynccontextmanager
async def _connection(dsn: str, password: str | None) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the owner's that changes nothing and plans each statement for its own window."""
    connection = await connect(dsn, password=password)
    try:
        await act_as_owner(connection)
        await connection.execute(
            "SET default_transaction_read_only = on; SET plan_cache_mode = force_custom_plan; SET jit = off; SET enable_seqscan = off; "
            "SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET max_parallel_workers_per_gather = 0"
        )
        yield connection
    finally:
        await connection.close()


def _first_id(at: datetime) -> UUID:
    """The lowest time-ordered id of a time."""
    return UUID(int=round(at.timestamp() * 1000) << 80)
