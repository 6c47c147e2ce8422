"""The state of billing's feed: whether the registry is complete, when billing last spoke, what waits, and how many contracts may end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from registryd.domain.errors import Refusal
from registryd.store.pool import Connection, fetch, first
from registryd.store.queries import Query
from registryd.store.reading import Reader


class FeedStatus(NamedTuple):
    complete: bool
    complete_since: datetime | None
    source: str | None
    declared_by: str | None
    reason: str | None
    last_event_at: datetime | None
    last_snapshot_at: datetime | None
    waiting: int
    oldest_waiting_at: datetime | None
    ends_last_hour: int
    ends_bound: int
    ends_allowed: int
    """What allowances in force let through beyond the bound."""
    ends_left: int
    now: datetime


class WaitingEvent(NamedTuple):
    event_id: str
    type: str
    reason: str
    occurred_at: datetime
    first_at: datetime
    last_at: datetime
    calls: int


class Declared(NamedTuple):
    declared: bool


class WaitingCount(NamedTuple):
    reason: str
    events: int


class LongWaiting(NamedTuple):
    events: int


class Lag(NamedTuple):
    """Today's events of one type and outcome, and how long after they happened they were recorded."""

    type: str
    outcome: str
    events: int
    mean_lag: timedelta
    worst_lag: timedelta


class MinuteRow(NamedTuple):
    minute: datetime
    events: int


class RefusedReason(NamedTuple):
    reason: str
    events: int


class SnapshotRow(NamedTuple):
    """The newest snapshot; all but the first is None where a history said as of when it was."""

    as_of: datetime
    applied_at: datetime | None
    lines: int | None
    rejects: int | None
    started: int | None
    changed: int | None
    ended: int | None


class Allowance(NamedTuple):
    allowance_id: int
    ends: int
    used: int
    until_at: datetime
    reason: str
    made_by: str
    made_at: datetime


class WaitingAlarm(NamedTuple):
    """So many events of one kind have waited for 15 minutes, or, `grave`, for half of the notice period since the end."""

    type: str
    reason: str
    grave: bool
    events: int


COUNTED_MAX = 20_000
"""How many of the newest events are looked at one by one."""

READ_STATUS = Query("feed", "read_status", FeedStatus)
READ_WAITING = Query("feed", "read_waiting", WaitingEvent, int)
COUNT_WAITING = Query("feed", "count_waiting", WaitingCount)
COUNT_LONG_WAITING = Query("feed", "count_long_waiting", LongWaiting)
READ_LAG = Query("feed", "read_lag", Lag)
READ_MINUTES = Query("feed", "read_minutes", MinuteRow, int, int)
READ_REFUSED = Query("feed", "read_refused", RefusedReason, int)
READ_SNAPSHOT = Query("feed", "read_snapshot", SnapshotRow)
READ_ALLOWANCES = Query("feed", "read_allowances", Allowance)
ALLOW_ENDS = Query("feed", "allow_ends", Allowance, int, datetime, str, str)
DECLARE_COMPLETE = Query("feed", "declare_complete", Declared, str, str)
DECLARE_INCOMPLETE = Query("feed", "declare_incomplete", Declared, str)
NOTE_WAITING_ALARMS = Query("feed", "note_waiting_alarms", WaitingAlarm)


async def read_status(connection: Connection) -> FeedStatus:
    return (await fetch(connection, READ_STATUS))[0]


async def read_waiting(connection: Connection, limit: int) -> list[WaitingEvent]:
    """The events that have waited longest."""
    return await fetch(connection, READ_WAITING, limit)


async def count_long_waiting(db: Reader) -> int:
    """How many events have waited for longer than 15 minutes."""
    return (await db.fetch(COUNT_LONG_WAITING))[0].events


async def count_waiting(db: Reader) -> dict[str, int]:
    """How many events wait, by what they wait for."""
    return {row.reason: row.events for row in await db.fetch(COUNT_WAITING)}


async def read_lag(connection: Connection) -> list[Lag]:
    return await fetch(connection, READ_LAG)


async def read_minutes(db: Reader, minutes: int) -> list[MinuteRow]:
    """Events by whole minute, the oldest first: of the last ones, as far as the newest COUNTED_MAX events go back."""
    return await db.fetch(READ_MINUTES, minutes, COUNTED_MAX)


async def read_refused(db: Reader) -> list[RefusedReason]:
    """Today's refused events among the newest COUNTED_MAX, by reason, the most first."""
    return await db.fetch(READ_REFUSED, COUNTED_MAX)


async def read_snapshot(db: Reader) -> SnapshotRow | None:
    rows = await db.fetch(READ_SNAPSHOT)
    return rows[0] if rows else None


async def read_allowances(connection: Connection) -> list[Allowance]:
    """Those in force, the oldest first."""
    return await fetch(connection, READ_ALLOWANCES)


async def allow_ends(connection: Connection, ends: int, until: datetime, reason: str, who: str | None = None) -> Allowance:
    """Lets so many ends through beyond the bound. `who`: None: our database user. Raises: Refusal."""
    made = await first(connection, ALLOW_ENDS, ends, until, reason, who)
    if made is None:
        raise Refusal("--until lies in the past by the database's clock, or more than a week ahead: name when the wave will be over")
    return made


async def declare_complete(connection: Connection, reason: str) -> None:
    await fetch(connection, DECLARE_COMPLETE, "person", reason)


async def declare_incomplete(connection: Connection, reason: str) -> None:
    await fetch(connection, DECLARE_INCOMPLETE, reason)


async def note_alarms(connection: Connection) -> list[WaitingAlarm]:
    """What is to be told now of events that wait. Each is told once, and an end once more."""
    return await fetch(connection, NOTE_WAITING_ALARMS)
