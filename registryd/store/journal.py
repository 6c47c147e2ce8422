"""The days of the journal, of deliveries and of attempts.

A day's partition is made ahead, closed (its figures are written down) when the day is over, and dropped when the policy in force keeps
it no longer. The database alone decides what may be dropped; keep/days.py asks it to.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from registryd.store.pool import Database
from registryd.store.queries import Query

DAYS_AHEAD = 7
FAMILIES = ("journal_page", "notification_delivered", "delivery_attempt")


class Made(NamedTuple):
    made: int


class Day(NamedTuple):
    day: date | None


class Folded(NamedTuple):
    folded: bool


class Retention(NamedTuple):
    family: str
    unplaced_rows: int
    days_over: int


MAKE_PARTITIONS = Query("journal", "make_partitions", Made, int)
CLOSE_DAY = Query("journal", "close_day", Day, str)
DROP_DAY = Query("journal", "drop_day", Day, str)
FOLD_MOVEMENTS = Query("journal", "fold_movements", Folded)
READ_RETENTION = Query("journal", "read_retention", Retention)


async def make_partitions(db: Database) -> int:
    """Makes the partitions of today and a week ahead; returns how many were missing."""
    return (await db.fetch(MAKE_PARTITIONS, DAYS_AHEAD + 1))[0].made
