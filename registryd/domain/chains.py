"""The walk along a hash chain of the evidence: what does not fit, and what does not fit the head that was kept elsewhere.

The entries come from store/audit.py. What the chain of the journal is: sql/code/seals.sql.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Literal, NamedTuple
from uuid import UUID

from registryd.domain.heads import Link, Origin

ZEROS = bytes(32)
RUN_MAX_PAGES = 1_000_000
"""How many pages are compared by one statement: some seconds, so that none holds PostgreSQL's horizon for long."""

Fault = Literal[
    "entry_missing",
    "entry_changed",
    "window_changed",
    "page_unsealed",
    "retention_early",
    "head_missing",
    "head_differs",
    "head_of_lost_timeline",
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
    pages_before: date


class Seal(NamedTuple):
    sequence: int
    sealed_at: datetime
    kind: str
    note: str
    from_at: datetime
    until_at: datetime
    pages: int
    system_identifier: int
    timeline: int
    previous: bytes
    sha256: bytes
    expected: bytes
    may_be_gone: date | None
    effective_from: datetime | None
    recorded_at: datetime | None
    journal_kept: str | None


class Run(NamedTuple):
    """Seals next to each other, of one day, whose windows are compared with their pages by one statement."""

    first_seal: int
    last_seal: int
    from_at: datetime
    until_at: datetime
    pages: int

    def holds(self, seal: Seal) -> bool:
        return seal.from_at.date() == self.from_at.date() and self.pages < RUN_MAX_PAGES


class Chain:
    """A chain, entry after entry. `since`: it is read from the kept head on; what lies before is not looked at."""

    def __init__(self, name: Literal["journal", "breakglass"], head: Link | None, *, since: bool) -> None:
        self.name = name
        self.head = head
        self.findings: list[Finding] = []
        self.count = 0
        self.began = self.sequence = head.sequence - 1 if head and since else 0
        self.sha256 = ZEROS

    def begins_after(self, sequence: int, sha256: bytes) -> None:
        """Nothing up to this entry is there or looked at; its hash is known."""
        self.began = self.sequence = sequence
        self.sha256 = sha256

    def step(self, sequence: int, previous: bytes, sha256: bytes, expected: bytes, origin: Origin) -> None:
        wanted = self.sequence + 1
        if sequence != wanted:
            self.find("entry_missing", wanted, f"{wanted} to {sequence - 1} are gone")
        elif previous != self.sha256:
            self.find("entry_changed", sequence, f"does not hold the hash of {self.sequence}: one of the two was changed or moved")
        if sha256 != expected:
            self.find("entry_changed", sequence, "its hash is not that of what it says")
        if self.head and self.head.sequence == sequence and self.head.sha256 != sha256:
            if self.head.origin != origin:
                self.lost(self.head, origin)
            else:
                self.find("head_differs", sequence, "is not what the kept head says: the chain was made anew from here or before")
        self.count += 1
        self.sequence, self.sha256 = sequence, sha256

    def end(self, now: Origin) -> None:
        """`now`: where the chain was read."""
        if self.head and self.head.sequence > self.sequence:
            if self.head.origin != now:
                self.lost(self.head, now)
            else:
                told = f"its head was kept, but the chain ends at {self.sequence}: it was cut off"
                self.find("head_missing", self.head.sequence, told)
        elif self.head and self.head.sequence < self.began:
            told = f"its head was kept, but the chain begins after {self.began}: verify with a head that is newer"
            self.find("head_missing", self.head.sequence, told)

    def lost(self, head: Link, now: Origin) -> None:
        told = (
            f"its head was kept on timeline {head.origin.timeline} of system {head.origin.system_identifier}, and the chain went on "
            f"without it on timeline {now.timeline} of system {now.system_identifier}: a promotion or a restore lost the end. "
            "Make sure that there was one, and keep a new head"
        )
        self.find("head_of_lost_timeline", head.sequence, told)

    def find(self, fault: Fault, entry: int, explanation: str) -> None:
        self.findings.append(Finding(fault, self.name, entry, None, explanation))


class Seals:
    """The journal's chain, and the runs of it that are to be compared with pages. Pages of days before `from_day` are not compared."""

    def __init__(self, head: Link | None, *, since: bool, from_day: date | None) -> None:
        self.chain = Chain("journal", head, since=since)
        self.first: Seal | None = None
        self.last: Seal | None = None
        self.runs: list[Run] = []
        self.let_go: dict[datetime, LetGo] = {}
        self.dropped_before: date | None = None
        self._from_day = from_day
        self._since = head.sequence if head and since else 0
        """The seal up to which nothing is compared."""
        self._retained: Seal | None = None

    def step(self, seal: Seal) -> None:
        if self.first is None:
            self.first = seal
            if not self._since:
                self.chain.begins_after(seal.sequence - 1, seal.previous if seal.sequence > 1 else ZEROS)
            elif seal.sequence == self.chain.sequence + 1:
                self.chain.begins_after(seal.sequence - 1, seal.previous)
        elif self.last is not None and seal.from_at != self.last.until_at and seal.sequence == self.last.sequence + 1:
            self.chain.find("entry_changed", seal.sequence, "its window does not begin where the one before ends")
        self.chain.step(seal.sequence, seal.previous, seal.sha256, seal.expected, Origin(seal.system_identifier, seal.timeline))
        if seal.kind == "retention":
            self._retain(seal)
        elif (
            seal.sequence > self._since
            and seal.from_at < seal.until_at
            and (self._from_day is None or seal.from_at.date() >= self._from_day)
        ):
            self._compare(seal)
        self.last = seal

    def end(self, now: Origin) -> None:
        self.chain.end(now)
        if self.first is None:
            self.chain.find("entry_missing", self.chain.sequence + 1, "there is no seal at all")
        elif not self._since and (gone := self.first.sequence - 1) > 0:
            told = self._retained
            if told is None or told.note.split(" ")[1:] != [str(gone), self.first.previous.hex()]:
                self.chain.find("entry_missing", 1, f"1 to {gone} are gone, and no seal says that they were let go")
            elif self.dropped_before is None or self.first.until_at > _midnight(self.dropped_before):
                explanation = f"seals up to {gone} went; the policy kept the pages from {self.dropped_before} on"
                self.chain.find("retention_early", told.sequence, explanation)

    def to_compare(self) -> list[Run]:
        """The runs whose pages the policy has not let go."""
        return [run for run in self.runs if self.dropped_before is None or run.from_at.date() >= self.dropped_before]

    def _compare(self, seal: Seal) -> None:
        if self.runs and self.runs[-1].holds(seal):
            self.runs[-1] = self.runs[-1]._replace(
                last_seal=seal.sequence, until_at=seal.until_at, pages=self.runs[-1].pages + max(0, seal.pages)
            )
        else:
            self.runs.append(Run(seal.sequence, seal.sequence, seal.from_at, seal.until_at, max(0, seal.pages)))

    def _retain(self, seal: Seal) -> None:
        try:
            before = date.fromisoformat(seal.note.split(" ")[0])
        except ValueError:
            self.chain.find("entry_changed", seal.sequence, "names no day")
            return
        if seal.may_be_gone is None or before > seal.may_be_gone:
            explanation = f"pages before {before} went; the policy kept those from {seal.may_be_gone} on"
            self.chain.find("retention_early", seal.sequence, explanation)
        self._retained = seal
        self.dropped_before = max(before, self.dropped_before or before)
        if seal.effective_from is None or seal.recorded_at is None or seal.journal_kept is None:
            return  # under no policy at all: a finding already
        policy = (seal.effective_from, seal.recorded_at, seal.journal_kept)
        told = self.let_go.get(seal.effective_from, LetGo(*policy, seal.sequence, seal.sequence, before))
        self.let_go[seal.effective_from] = told._replace(last_seal=seal.sequence, pages_before=max(told.pages_before, before))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)
