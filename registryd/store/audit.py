"""Verifies the evidence: the chain of seals, the pages they cover, the break-glass log, and the heads that were kept elsewhere.

Owns: the walk along the chain and the verdict. Never does: a change; trust in a function of the database's own (sql/queries/audit.sql
brings its own hashes). What the chain is: sql/code/seals.sql.
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
WIDE = timedelta(days=31)
FORGOTTEN_AFTER = timedelta(days=1)
"""A seal goes so long after its pages."""
LAST_MS = 253_402_214_400_000
"""The last day that Python knows: an id that was tampered with may lie beyond it."""

Fault = Literal[
    "entry_missing",
    "entry_changed",
    "page_missing",
    "page_changed",
    "page_unsealed",
    "retention_early",
    "head_missing",
    "head_differs",
]


class Finding(NamedTuple):
    """Something that is not as it was written. `entry`: a sequence of the chain: a seal of the journal, or a row of the break-glass log."""

    fault: Fault
    chain: Literal["journal", "breakglass"]
    entry: int | None
    page_id: UUID | None
    explanation: str


class LetGo(NamedTuple):
    """What the chain says went under one policy row, for a reader to judge that row: no seal covers the policy."""

    effective_from: datetime
    recorded_at: datetime
    """What the row says of itself."""
    journal_kept: str
    first_seal: int
    last_seal: int
    pages_before: date | None
    """None: seals alone went."""


class Verdict(NamedTuple):
    seals: int
    pages: int
    """Pages that the seals cover, those that the policy has dropped since included."""
    log_entries: int
    """Rows of the break-glass log."""
    dropped_before: date | None
    """Before this day only the chain is verified: the policy has let the pages go."""
    let_go: list[LetGo]
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
    effective_from: datetime | None
    recorded_at: datetime | None
    journal_kept: str | None


class Broken(NamedTuple):
    sequence: int
    fault: str
    page_id: UUID | None


class PageId(NamedTuple):
    page_id: UUID


class Entry(NamedTuple):
    sequence: int
    previous: bytes
    sha256: bytes
    expected: bytes


class Days(NamedTuple):
    days: list[date]
    sealed_until: datetime


class Head(NamedTuple):
    chain: str
    sequence: int
    at: datetime
    sha256: bytes


READ_CHAIN = Query("audit", "read_chain", Seal)
FIND_BROKEN_SEALS = Query("audit", "find_broken_seals", Broken, int, int, UUID, UUID, UUID)
FIND_UNSEALED_PAGES = Query("audit", "find_unsealed_pages", PageId, UUID, UUID, int, int)
READ_DAYS = Query("audit", "read_days", Days)
READ_HEADS = Query("audit", "read_heads", Head)
READ_LOG = Query("audit", "read_log", Entry)


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


class _Chain:
    """A chain, entry after entry: what does not fit, and what does not fit the head that was kept."""

    def __init__(self, name: Literal["journal", "breakglass"], head: Link | None) -> None:
        self.name = name
        self.head = head
        self.findings: list[Finding] = []
        self.count = 0
        self.begins_after(0, ZEROS)

    def begins_after(self, sequence: int, sha256: bytes) -> None:
        """Nothing up to this entry is there any more; its hash is known."""
        self._began = self.sequence = sequence
        self.sha256 = sha256
        self._hold_to_head(sequence, sha256)

    def step(self, sequence: int, previous: bytes, sha256: bytes, expected: bytes) -> None:
        wanted = self.sequence + 1
        if sequence != wanted:
            self.find("entry_missing", wanted, f"{wanted} to {sequence - 1} are gone")
        elif previous != self.sha256:
            self.find("entry_changed", sequence, f"does not hold the hash of {self.sequence}: one of the two was changed or moved")
        if sha256 != expected:
            self.find("entry_changed", sequence, "its hash is not that of what it says")
        self._hold_to_head(sequence, sha256)
        self.count += 1
        self.sequence, self.sha256 = sequence, sha256

    def end(self) -> None:
        if self.head and self.head.sequence > self.sequence:
            self.find("head_missing", self.head.sequence, f"its head was kept, but the chain ends at {self.sequence}: it was cut off")
        elif self.head and self.head.sequence < self._began:
            explanation = f"its head was kept, but the chain begins after {self._began}: verify with a head that is newer"
            self.find("head_missing", self.head.sequence, explanation)

    def _hold_to_head(self, sequence: int, sha256: bytes) -> None:
        if self.head and self.head.sequence == sequence and self.head.sha256 != sha256:
            self.find("head_differs", sequence, "is not what the kept head says: the chain was made anew from here or before")

    def find(self, fault: Fault, entry: int, explanation: str) -> None:
        self.findings.append(Finding(fault, self.name, entry, None, explanation))


class _Seals:
    """The journal's chain, and what of it is to be compared with pages."""

    def __init__(self, head: Link | None) -> None:
        self.chain = _Chain("journal", head)
        self.runs = [_Run()]
        self.first: Seal | None = None
        self._forgotten: Seal | None = None
        self.dropped_before: date | None = None
        self.let_go: dict[datetime, LetGo] = {}
        self.by_day: dict[date, tuple[int, int]] = {}
        """The first and last seal of each day's pages."""
        self.wide: tuple[int, int] | None = None
        """The first and last seal whose pages lie further apart than those of a worker do."""

    def step(self, seal: Seal) -> None:
        if self.first is None:
            self.first = seal
            self.chain.begins_after(seal.sequence - 1, seal.previous if seal.sequence > 1 else ZEROS)
        self.chain.step(seal.sequence, seal.previous, seal.sha256, seal.expected)
        if seal.kind == "retention":
            self._retain(seal)
        elif seal.kind == "forgotten":
            self._forgotten = seal
            self._tell(seal, None)
        if seal.first_page is not None and seal.last_page is not None:
            first, last = _day_of(seal.first_page), _day_of(seal.last_page)
            if last - first > WIDE:
                self.wide = (self.wide[0] if self.wide else seal.sequence, seal.sequence)
            for day in {first, last} if last - first > WIDE else _days(first, last):
                self.by_day[day] = (self.by_day.get(day, (seal.sequence, 0))[0], seal.sequence)
            if self.runs[-1].full:
                self.runs.append(_Run())
            self.runs[-1].add(seal)

    def seals_of(self, start: datetime, end: datetime) -> tuple[int, int]:
        """The first and last seal that may cover a page from `start` to `end`; (1, 0) for none."""
        spans = [span for day, span in self.by_day.items() if start.date() <= day <= end.date()]
        spans += [self.wide] if self.wide else []
        return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else (1, 0)

    def end(self) -> None:
        self.chain.end()
        if self.first is None:
            self.chain.find("entry_missing", 1, "there is no seal at all")
        elif (gone := self.first.sequence - 1) > 0:
            told = self._forgotten
            if told is None or told.note != f"{gone} {self.first.previous.hex()}":
                self.chain.find("entry_missing", 1, f"1 to {gone} are gone, and no seal says that they were let go")
            elif told.may_be_gone is None or self.first.sealed_at.astimezone(UTC).date() >= told.may_be_gone - FORGOTTEN_AFTER:
                explanation = f"seals up to {gone} went; the policy kept the pages from {told.may_be_gone} on"
                self.chain.find("retention_early", told.sequence, explanation)

    def _retain(self, seal: Seal) -> None:
        try:
            before = date.fromisoformat(seal.note)
        except ValueError:
            self.chain.find("entry_changed", seal.sequence, "names no day")
            return
        if seal.may_be_gone is None or before > seal.may_be_gone:
            explanation = f"pages before {before} went; the policy kept those from {seal.may_be_gone} on"
            self.chain.find("retention_early", seal.sequence, explanation)
        self.dropped_before = max(before, self.dropped_before or before)
        self._tell(seal, before)

    def _tell(self, seal: Seal, before: date | None) -> None:
        if seal.effective_from is None or seal.recorded_at is None or seal.journal_kept is None:
            return  # under no policy at all: a finding already
        policy = (seal.effective_from, seal.recorded_at, seal.journal_kept)
        told = self.let_go.get(seal.effective_from, LetGo(*policy, seal.sequence, seal.sequence, before))
        days = [day for day in (told.pages_before, before) if day]
        self.let_go[seal.effective_from] = told._replace(last_seal=seal.sequence, pages_before=max(days, default=None))


async def verify(connection: Connection, heads: Mapping[str, Link], progress: Callable[[int, int], None] = lambda *_: None) -> Verdict:
    """Compares everything there is with the chain, and the chain with `heads`. `progress(pages so far, of all)`."""
    log = _Chain("breakglass", heads.get("breakglass"))
    async for record in connection.cursor(READ_LOG.sql, prefetch=5_000):
        log.step(*Entry(*record.values()))
    log.end()
    seals = _Seals(heads.get("journal"))
    async for record in connection.cursor(READ_CHAIN.sql, prefetch=5_000):
        seals.step(Seal(*record.values()))
    seals.end()
    findings = log.findings + seals.chain.findings
    pages, total = 0, sum(run.pages for run in seals.runs)
    dropped_before = datetime.combine(seals.dropped_before or date(1970, 1, 1), datetime.min.time(), UTC)
    for run in seals.runs:
        if run.seals and run.last_page >= _first_id(dropped_before):
            limits = (run.seals[0], run.seals[-1], max(run.first_page, _first_id(dropped_before)), run.last_page, _first_id(dropped_before))
            findings += [_explained(broken) for broken in await fetch(connection, FIND_BROKEN_SEALS, *limits)]
        pages += run.pages
        progress(pages, total)
    if seals.first:
        findings += await _unsealed(connection, seals, max(seals.first.sealed_at, dropped_before))
    return Verdict(seals.chain.count, total, log.count, seals.dropped_before, list(seals.let_go.values()), findings)


async def _unsealed(connection: Connection, seals: _Seals, since: datetime) -> list[Finding]:
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
        rows = await fetch(connection, FIND_UNSEALED_PAGES, _first_id(start), _first_id(end), *seals.seals_of(start, end))
        found += [
            Finding("page_unsealed", "journal", None, row.page_id, "no seal covers it: it was inserted, or its worker was killed")
            for row in rows
        ]
    return found


def _explained(broken: Broken) -> Finding:
    match broken.fault:
        case "missing":
            return Finding("page_missing", "journal", broken.sequence, broken.page_id, "the seal covers a page that is gone")
        case "changed":
            return Finding("page_changed", "journal", broken.sequence, broken.page_id, "the page is not what was sealed")
        case _:
            explanation = "its content is not that of its pages: one of them was changed, and its mark with it"
            return Finding("entry_changed", "journal", broken.sequence, None, explanation)


async def read_heads(connection: Connection) -> dict[str, Link]:
    """The ends of the chains."""
    return {head.chain: Link(head.sequence, head.at, head.sha256) for head in await fetch(connection, READ_HEADS)}


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
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=min(page_id.int >> 80, LAST_MS))).date()


def _days(start: date, end: date) -> list[date]:
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]
