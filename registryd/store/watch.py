"""The watch: its lease, and the backlogs that whoever holds it looks at."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from registryd.domain.backlog import Backlog
from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Database
from registryd.store.queries import Nothing, Query

LEASE = timedelta(seconds=15)
COUNTED_MAX = 20_000
"""How far a backlog is counted row by row; beyond it, it is estimated from a sample, and the overdue ones are told as so many at least."""


class Holder(NamedTuple):
    holder: str


class Sampled(NamedTuple):
    messenger_id: MessengerId
    pending: int


class Thresholds(NamedTuple):
    alarm_slack: list[timedelta]


TAKE_WATCH = Query("watch", "take_watch", Holder, str, timedelta)
LEAVE_WATCH = Query("watch", "leave_watch", Nothing, str)
READ_BACKLOGS = Query("watch", "read_backlogs", Backlog, int)
SAMPLE_PENDING = Query("watch", "sample_pending", Sampled)
READ_THRESHOLDS = Query("watch", "read_thresholds", Thresholds)


async def take(db: Database, worker: str) -> bool:
    """Whether `worker` is on watch, for another 15 s."""
    return bool(await db.fetch(TAKE_WATCH, worker, LEASE))


async def leave(db: Database, worker: str) -> None:
    await db.fetch(LEAVE_WATCH, worker)


async def read_backlogs(db: Database) -> list[Backlog]:
    """Every messenger's backlog; `pending` is exact up to 20,000 and an estimate beyond, the better the larger its share of the table."""
    backlogs = await db.fetch(READ_BACKLOGS, COUNTED_MAX)
    if all(backlog.pending < COUNTED_MAX for backlog in backlogs):
        return backlogs
    sampled = {row.messenger_id: row.pending for row in await db.fetch(SAMPLE_PENDING)}
    return [b if b.pending < COUNTED_MAX else b._replace(pending=max(b.pending, sampled.get(b.messenger_id, 0))) for b in backlogs]


async def read_thresholds(db: Database) -> list[timedelta]:
    """At what slack an alarm is raised, by the policy in force."""
    return [threshold for row in await db.fetch(READ_THRESHOLDS) for threshold in row.alarm_slack]
