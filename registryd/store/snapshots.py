"""Compares billing's whole table with the registry and applies only the differences, in one transaction.

A contract that the registry learned of after the snapshot was taken is left as it is, so a snapshot may be older than applied events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

from registryd.domain.files import ImportRefused
from registryd.store import bounds, contracts, imports, ranges
from registryd.store.bounds import ContractsMax
from registryd.store.pool import fetch
from registryd.store.queries import Nothing, Query
from registryd.store.staging import Staged, StagingMade, importing, refuse_lines, stage


class Compared(NamedTuple):
    """How many live contracts there are, how many the file lacks, and how many of its lines and numbers have no live contract."""

    live: int
    missing: int
    unknown: int
    unknown_numbers: int


class LockedContracts(NamedTuple):
    contracts: int


class Kind(NamedTuple):
    kind: str
    contracts: int


class Turned(NamedTuple):
    absent: int
    near: int


class Declared(NamedTuple):
    declared: bool


class Fed(NamedTuple):
    fed: bool


class Noted(NamedTuple):
    noted: bool


class AppliedChanges(NamedTuple):
    ended: int
    updated: int
    started: int


class Owed(NamedTuple):
    """The notifications that a snapshot's ends cause for one messenger, and what bounds their speed."""

    messenger: str
    notifications: int
    batch_max: int
    latency_ms: float | None
    """How long a push took in the last day; None where none was acknowledged."""
    echo_per_s: int | None
    """The policy's bound on notifications a second, for all messengers together; None where there is none."""


IS_FED = Query("snapshots", "is_fed", Fed, datetime)
COMPARE_SNAPSHOT = Query("snapshots", "compare_snapshot", Compared, datetime, list[int])
ANALYZE_CHANGES = Query("snapshots", "analyze_changes", StagingMade)
LOCK_CHANGING = Query("snapshots", "lock_changing", LockedContracts)
YIELD_CHANGED = Query("snapshots", "yield_changed", Nothing, datetime)
FOLLOW_EARLIER = Query("snapshots", "follow_earlier", Nothing, datetime)
COUNT_CHANGES = Query("snapshots", "count_changes", Kind)
COUNT_TURNED = Query("snapshots", "count_turned", Turned)
DECLARE_COMPLETE = Query("snapshots", "declare_complete", Declared, datetime, str)
COUNT_OWED = Query("snapshots", "count_owed", Owed, bool)
APPLY_CHANGES = Query("snapshots", "apply_changes", AppliedChanges, datetime)
NOTE_SNAPSHOT = Query("snapshots", "note_snapshot", Noted, datetime, int, int, int, int, int)


KINDS = ("activated", "terminated", "holder_changed", "updated", "newer", "unread")


class Snapshot(NamedTuple):
    """A file of live contracts as they were at `as_of`. Once it is read, `unread()` gives the numbers on its bad lines, of which there are
    `rejects()`.
    """

    file: Staged
    as_of: datetime
    unread: Callable[[], Sequence[int]]
    rejects: Callable[[], int] = lambda: 0


class Reconciled(NamedTuple):
    """What a snapshot changed, or would change: contracts, and the notifications owed for their ends."""

    lines: int
    live: int
    """How many live contracts there were before."""
    activated: int
    terminated: int
    holder_changed: int
    updated: int
    newer: int
    """Contracts left as they are because the registry learned of them after the snapshot was taken."""
    unread: int
    """Contracts left as they are because their lines are bad."""
    owed: list[Owed]
    absent: int = 0
    """Contracts that turn from present to absent by the policy in force: by their end, or by another status or end user."""
    near: int = 0
    """Of those that pass to the next holder, how many do so within a day of their start."""
    is_complete: bool = False
    """Whether the snapshot declares the registry complete: it was applied, it is the newest, and no line of it was bad."""

    outside: int | None = None
    """How many live contracts lie outside the numbering capacity now; None where nothing was applied."""

    @property
    def ends(self) -> int:
        return self.terminated + self.holder_changed

    @property
    def notifications(self) -> int:
        return sum(owed.notifications for owed in self.owed)

    def delivery_hours(self, concurrency: int) -> float | None:
        """How long one process would take to deliver all of them, at `concurrency` pushes a messenger, the latency of the last day and
        the policy's bound. None where a messenger received no push that would tell its latency.
        """
        hours = 0.0
        for owed in self.owed:
            if owed.latency_ms is None:
                return None
            per_s = concurrency * owed.batch_max / (max(owed.latency_ms, 1.0) / 1000)
            hours = max(hours, owed.notifications / per_s / 3600)
            if owed.echo_per_s is not None:
                hours = max(hours, self.notifications / owed.echo_per_s / 3600)
        return hours


class TooManyEnds(ImportRefused):
    """A snapshot would end, or turn absent, more contracts than it may."""

    def __init__(self, would: Reconciled, allowed: bounds.Bounds) -> None:
        told = bounds.too_many("the snapshot", would.ends, would.absent, would.live, allowed)
        near = f". {would.near:,} of them would pass to the next holder within a day of their start: does billing write another time now?"
        super().__init__(told + (near if would.near else ""))
        self.would = would


async def is_fed(connection: asyncpg.Connection[asyncpg.Record], around: datetime) -> bool:
    """Whether any event was applied since one day before `around`."""
    return (await fetch(connection, IS_FED, around))[0].fed


async def reconcile(
    connection: asyncpg.Connection[asyncpg.Record],
    snapshot: Snapshot,
    *,
    ends_max: ContractsMax | None = None,
    absent_max: ContractsMax | None = None,
    dry_run: bool,
    progress: Callable[[str], None] = lambda _: None,
) -> Reconciled:
    """Makes the registry's live contracts those of the snapshot. `ends_max(live)` and `absent_max(live)` say how many may end and turn
    absent, where a person gave that; else the policy does. `progress(step)` is called before each step.

    Raises: TooManyEnds, ImportRefused, Unavailable; nothing was changed then.
    """
    async with importing(connection, dry_run=dry_run):
        lines = await stage(connection, snapshot.file)
        if not dry_run and (await fetch(connection, imports.IS_EMPTY))[0].empty:
            progress("loading")
            loaded = Reconciled(lines, 0, await imports.load_first(connection, snapshot.file, snapshot.as_of), 0, 0, 0, 0, 0, [])
            return await _finish(connection, snapshot, loaded)
        progress("comparing")
        found = (await fetch(connection, COMPARE_SNAPSHOT, snapshot.as_of, snapshot.unread()))[0]
        if lines - found.unknown != found.live - found.missing or found.unknown != found.unknown_numbers:
            await refuse_lines(connection, imports.FIND_REPEATED_LINES, snapshot.file)
        await fetch(connection, ANALYZE_CHANGES)
        if not dry_run:
            progress("applying")
            # Locked only now: until here events went on being applied, and the steps below leave alone what they changed.
            await contracts.lock_feed(connection)
            await fetch(connection, LOCK_CHANGING)
        await fetch(connection, YIELD_CHANGED, snapshot.as_of)
        await fetch(connection, FOLLOW_EARLIER, snapshot.as_of)
        turned = (await fetch(connection, COUNT_TURNED))[0]
        would = (await _count(connection, lines, found.live, is_applied=False))._replace(**turned._asdict())
        allowed = await bounds.bounds(connection, found.live, ends_max, absent_max)
        if would.ends > allowed.ends or would.absent > allowed.absent:
            raise TooManyEnds(would, allowed)
        if dry_run:
            return would
        if would.ends > allowed.left:
            await bounds.allow_now(connection, would.ends, f"an import of a snapshot with --max-terminations for {would.ends} ends")
        await _apply(connection, would, snapshot.as_of)
        done = (await _count(connection, lines, found.live, is_applied=True))._replace(**turned._asdict())
        return await _finish(connection, snapshot, done)


async def _count(connection: asyncpg.Connection[asyncpg.Record], lines: int, live: int, *, is_applied: bool) -> Reconciled:
    of = {row.kind: row.contracts for row in await fetch(connection, COUNT_CHANGES)}
    owed = await fetch(connection, COUNT_OWED, is_applied)
    activated, terminated, holder_changed, updated, newer, unread = (of.get(kind, 0) for kind in KINDS)
    return Reconciled(lines, live, activated, terminated, holder_changed, updated, newer, unread, owed)


async def _finish(connection: asyncpg.Connection[asyncpg.Record], snapshot: Snapshot, done: Reconciled) -> Reconciled:
    outside = await ranges.count_outside(connection)
    started = done.activated + done.holder_changed
    await fetch(connection, NOTE_SNAPSHOT, snapshot.as_of, done.lines, snapshot.rejects(), started, done.updated, done.ends)
    return done._replace(is_complete=await _declare(connection, snapshot, done.lines), outside=outside)


async def _declare(connection: asyncpg.Connection[asyncpg.Record], snapshot: Snapshot, lines: int) -> bool:
    """Declares the registry complete, unless a newer snapshot was applied before, or a line was bad: it may be of a new subscriber.

    Nobody's whole table is empty.
    """
    if snapshot.unread() or lines == 0:
        return False
    reason = f"a snapshot of {lines} lines as of {snapshot.as_of:%Y-%m-%dT%H:%M:%S%z}"
    return bool(await fetch(connection, DECLARE_COMPLETE, snapshot.as_of, reason))


async def _apply(connection: asyncpg.Connection[asyncpg.Record], found: Reconciled, as_of: datetime) -> None:
    done = (await fetch(connection, APPLY_CHANGES, as_of))[0]
    if done != (found.ends, found.updated, found.activated + found.holder_changed):
        raise AssertionError(f"a snapshot changed {done}, where {found} was locked for it")
