"""Verifies the evidence: the chain of seals, the pages they cover, and the heads that were kept elsewhere.

Owns: the walk along the chain and the verdict. Never does: a change; trust in a function of the database's own (sql/queries/audit.sql
brings its own hashes). What the chain is: sql/migrations/0009_evidence.sql.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from registryd.domain.heads import Link
from registryd.store.migrations import act_as_owner
from registryd.store.pool import Connection, connect, fetch, first
from registryd.store.queries import Query

RUN_MAX_PAGES = 100_000
RUN_MAX_SEALS = 20_000
"""How much is compared by one statement."""
ZEROS = bytes(32)

Fault = Literal[
    "seal_missing",
    "seal_changed",
    "page_missing",
    "page_changed",
    "page_unsealed",
    "retention_early",
    "head_missing",
    "head_differs",
]


class Finding(NamedTuple):
    """Something that is not as it was written. `entry`: the seal's sequence."""

    fault: Fault
    entry: int | None
    page_id: UUID | None
    explanation: str


class Verdict(NamedTuple):
    seals: int
    pages: int
    """Pages that the seals cover, those that the policy has dropped since included."""
    dropped_before: date | None
    """Before this day only the chain is verified: the policy has let the pages go."""
    findings: list[Finding]


class Seal(NamedTuple):
    sequence: int
    sealed_at: datetime
    kind: str
    note: str
    pages: int
    first_page: UUID | None
    last_page: UUID | None
    content: bytes
    previous: bytes
    sha256: bytes
    expected: bytes
    may_be_gone: date | None


class Broken(NamedTuple):
    sequence: int
    fault: str
    page_id: UUID | None


class PageId(NamedTuple):
    page_id: UUID


class Days(NamedTuple):
    days: list[date]
    sealed_until: datetime


class Head(NamedTuple):
    sequence: int
    sealed_at: datetime
    sha256: bytes


READ_CHAIN = Query("audit", "read_chain", Seal)
FIND_BROKEN_SEALS = Query("audit", "find_broken_seals", Broken, int, int, UUID, UUID, UUID)
FIND_UNSEALED_PAGES = Query("audit", "find_unsealed_pages", PageId, UUID, UUID, int, int)
READ_DAYS = Query("audit", "read_days", Days)
READ_HEAD = Query("audit", "read_head", Head)


class _Run:
    """Seals next to each other that are compared with their pages by one statement."""

    def __init__(self) -> None:
        self.seals: list[int] = []
        self.pages = 0
        self.first_page, self.last_page = UUID(int=2**128 - 1), UUID(int=0)

    def add(self, seal: Seal) -> None:
        self.seals.append(seal.sequence)
        self.pages += seal.pages
        if seal.first_page is not None and seal.last_page is not None:
            self.first_page, self.last_page = min(self.first_page, seal.first_page), max(self.last_page, seal.last_page)

    @property
    def full(self) -> bool:
        return self.pages >= RUN_MAX_PAGES or len(self.seals) >= RUN_MAX_SEALS


class _Walk:
    """The chain, seal after seal: what does not fit, and what is to be compared with pages."""

    def __init__(self, heads: Mapping[str, Link]) -> None:
        self.head = heads.get("journal")
        self.findings: list[Finding] = []
        self.runs = [_Run()]
        self.began: datetime | None = None
        self.last: Seal | None = None
        self.count = 0
        self.dropped_before: date | None = None
        self.by_day: dict[date, tuple[int, int]] = {}
        """The first and last seal of each day's pages."""

    def step(self, seal: Seal) -> None:
        self.count += 1
        wanted = self.last.sequence + 1 if self.last else 1
        if seal.sequence != wanted:
            self._find("seal_missing", wanted, f"seals {wanted} to {seal.sequence - 1} are gone")
        elif seal.previous != (self.last.sha256 if self.last else ZEROS):
            self._find("seal_changed", seal.sequence, f"does not hold the hash of seal {wanted - 1}: one of the two was changed or moved")
        if seal.sha256 != seal.expected:
            self._find("seal_changed", seal.sequence, "its hash is not that of what it says")
        if self.head and self.head.sequence == seal.sequence and self.head.sha256 != seal.sha256:
            self._find("head_differs", seal.sequence, "is not the seal whose head was kept: the chain was made anew from here or before")
        self.began = self.began or seal.sealed_at
        self.last = seal
        if seal.kind == "retention":
            self._retain(seal)
        if seal.first_page is not None and seal.last_page is not None:
            for day in _days(_day_of(seal.first_page), _day_of(seal.last_page)):
                self.by_day[day] = (self.by_day.get(day, (seal.sequence, 0))[0], seal.sequence)
            if self.runs[-1].full:
                self.runs.append(_Run())
            self.runs[-1].add(seal)

    def end(self) -> None:
        last = self.last.sequence if self.last else 0
        if not self.last:
            self._find("seal_missing", 1, "there is no seal at all")
        if self.head and self.head.sequence > last:
            self._find("head_missing", self.head.sequence, f"its head was kept, but the chain ends at seal {last}: it was cut off")

    def seals_of(self, start: datetime, end: datetime) -> tuple[int, int]:
        """The first and last seal that may cover a page from `start` to `end`; (1, 0) for none."""
        spans = [span for day, span in self.by_day.items() if start.date() <= day <= end.date()]
        return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else (1, 0)

    def _retain(self, seal: Seal) -> None:
        try:
            before = date.fromisoformat(seal.note)
        except ValueError:
            self._find("seal_changed", seal.sequence, "names no day")
            return
        if seal.may_be_gone is None or before > seal.may_be_gone:
            self._find("retention_early", seal.sequence, f"pages before {before} went; the policy kept those from {seal.may_be_gone} on")
        self.dropped_before = max(before, self.dropped_before or before)

    def _find(self, fault: Fault, sequence: int, explanation: str) -> None:
        self.findings.append(Finding(fault, sequence, None, explanation))


async def verify(connection: Connection, heads: Mapping[str, Link], progress: Callable[[int, int], None] = lambda *_: None) -> Verdict:
    """Compares everything there is with the chain, and the chain with `heads`. `progress(pages so far, of all)`."""
    walk = _Walk(heads)
    async for record in connection.cursor(READ_CHAIN.sql, prefetch=5_000):
        walk.step(Seal(*record.values()))
    walk.end()
    findings = walk.findings
    pages, total = 0, sum(run.pages for run in walk.runs)
    dropped_before = datetime.combine(walk.dropped_before or date(1970, 1, 1), datetime.min.time(), UTC)
    for run in walk.runs:
        if run.seals and run.last_page >= _first_id(dropped_before):
            limits = (run.seals[0], run.seals[-1], max(run.first_page, _first_id(dropped_before)), run.last_page, _first_id(dropped_before))
            findings += [_explained(broken) for broken in await fetch(connection, FIND_BROKEN_SEALS, *limits)]
        pages += run.pages
        progress(pages, total)
    if walk.began:
        findings += await _unsealed(connection, walk, max(walk.began, dropped_before))
    return Verdict(walk.count, total, walk.dropped_before, findings)


async def _unsealed(connection: Connection, walk: _Walk, since: datetime) -> list[Finding]:
    """Pages that no seal covers, day by day so that each look-up is bounded; what no day's partition took is among them."""
    there = await first(connection, READ_DAYS)
    assert there is not None, "the statement aggregates"
    ahead = there.sealed_until + timedelta(days=1)
    midnights = {datetime.combine(day + timedelta(days=n), datetime.min.time(), UTC) for day in there.days for n in (0, 1)}
    cuts = [since, *sorted(cut for cut in midnights if since < cut < there.sealed_until), there.sealed_until]
    # What claims to be from tomorrow is looked at too.
    windows = [*pairwise(cuts), (ahead, datetime(9999, 1, 1, tzinfo=UTC))]
    found = []
    for start, end in windows:
        rows = await fetch(connection, FIND_UNSEALED_PAGES, _first_id(start), _first_id(end), *walk.seals_of(start, end))
        found += [
            Finding("page_unsealed", None, row.page_id, "no seal covers it: it was inserted, or its worker was killed") for row in rows
        ]
    return found


def _explained(broken: Broken) -> Finding:
    match broken.fault:
        case "missing":
            return Finding("page_missing", broken.sequence, broken.page_id, "the seal covers a page that is gone")
        case "changed":
            return Finding("page_changed", broken.sequence, broken.page_id, "the page is not what was sealed")
        case _:
            return Finding(
                "seal_changed", broken.sequence, None, "its content is not that of its pages: their list, its note or a page was changed"
            )


async def read_heads(connection: Connection) -> dict[str, Link]:
    """The ends of the chains."""
    head = await first(connection, READ_HEAD)
    return {"journal": Link(*head)} if head else {}


@asynccontextmanager
async def reading(dsn: str, password: str | None) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the owner's that sees one moment and changes nothing. Raises: Unavailable, SchemaMismatch."""
    connection = await connect(dsn, password=password)
    try:
        await act_as_owner(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("SET LOCAL work_mem = '256MB'; SET LOCAL jit = off; SET LOCAL enable_nestloop = off")
            yield connection
    finally:
        await connection.close()


def _first_id(at: datetime) -> UUID:
    """The lowest time-ordered id of a time."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def _day_of(page_id: UUID) -> date:
    return datetime.fromtimestamp((page_id.int >> 80) / 1000, UTC).date()


def _days(start: date, end: date) -> list[date]:
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]
