"""Backlogs: what is owed to each messenger, and which alarms were raised for it."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from registryd.domain.backlog import Alarms, Backlog
from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query
from registryd.store.reading import Reader

LOOKED_MAX = 2_000
"""How far a backlog is counted row by row for somebody who only looks; beyond it, the figures of all statements are summed."""
COUNTED_MAX = 20_000
"""How far a backlog is counted row by row; beyond it, it is estimated from a sample, and the overdue ones are told as so many at least."""


class Sampled(NamedTuple):
    messenger_id: MessengerId
    pending: int


class Owed(NamedTuple):
    messenger_id: MessengerId
    pending: int
    """Without replayed ones."""
    overdue: int
    """By whole minutes."""


class Noted(NamedTuple):
    messenger_id: MessengerId


class Thresholds(NamedTuple):
    alarm_slack: list[timedelta]


class LateToday(NamedTuple):
    late: int


READ_BACKLOGS = Query("backlogs", "read_backlogs", Backlog, int)
SAMPLE_PENDING = Query("backlogs", "sample_pending", Sampled)
SUM_OWED = Query("backlogs", "sum_owed", Owed)
NOTE_ALARMS = Query("backlogs", "note_alarms", Noted, int, list[timedelta], bool, bool, list[timedelta], bool, bool)
READ_THRESHOLDS = Query("backlogs", "read_thresholds", Thresholds)
COUNT_LATE_TODAY = Query("backlogs", "count_late_today", LateToday)


async def read(db: Reader) -> list[Backlog]:
    """Every messenger's backlog; `pending` is exact up to 20,000 and an estimate beyond, the better the larger its share of the table."""
    backlogs = await db.fetch(READ_BACKLOGS, COUNTED_MAX)
    if all(backlog.pending < COUNTED_MAX for backlog in backlogs):
        return backlogs
    sampled = {row.messenger_id: row.pending for row in await db.fetch(SAMPLE_PENDING)}
    return [b if b.pending < COUNTED_MAX else b._replace(pending=max(b.pending, sampled.get(b.messenger_id, 0))) for b in backlogs]


async def look(db: Reader) -> list[Backlog]:
    """The same for somebody who looks again and again: a tenth of the cost in front of millions. What is refused is told up to 2,000."""
    backlogs = await db.fetch(READ_BACKLOGS, LOOKED_MAX)
    if all(backlog.pending < LOOKED_MAX for backlog in backlogs):
        return backlogs
    owed = {row.messenger_id: row for row in await db.fetch(SUM_OWED)}
    return [b if b.pending < LOOKED_MAX else _summed(b, owed.get(b.messenger_id)) for b in backlogs]


def _summed(b: Backlog, owed: Owed | None) -> Backlog:
    return b if owed is None else b._replace(pending=max(b.pending, owed.pending + b.replayed), overdue=max(b.overdue, owed.overdue))


async def late_today(db: Reader) -> int:
    """How many notifications were delivered today (UTC) after their deadline."""
    return (await db.fetch(COUNT_LATE_TODAY))[0].late


async def read_thresholds(db: Reader) -> list[timedelta]:
    """At what slack an alarm is raised, by the policy in force."""
    return [threshold for row in await db.fetch(READ_THRESHOLDS) for threshold in row.alarm_slack]


async def note_alarms(connection: Connection, backlog: Backlog, alarms: Alarms) -> bool:
    """Keeps what is being told now; False where another process has changed it since the backlog was read, and tells it."""
    return bool(await fetch(connection, NOTE_ALARMS, backlog.messenger_id, *backlog.raised, *alarms))
