"""The partitions of the journal, of deliveries and of attempts: made ahead, and dropped when the policy in force keeps them no longer.

What may be dropped is decided by the database alone: sql/code/days.sql.
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


class PartitionReader(NamedTuple):
    holder: str


class Dropped(NamedTuple):
    day: date | None


class Folded(NamedTuple):
    folded: bool


class Retention(NamedTuple):
    family: str
    unplaced_rows: int
    parts_over: int


MAKE_PARTITIONS = Query("days", "make_partitions", Made, int)
PARTITIONS_WAIT_FOR = Query("days", "partitions_wait_for", PartitionReader)
DROP_PART = Query("days", "drop_part", Dropped, str)
FOLD_MOVEMENTS = Query("days", "fold_movements", Folded)
FOLD_ENDS = Query("days", "fold_ends", Folded)
READ_RETENTION = Query("days", "read_retention", Retention)


async def make_partitions(db: Database) -> int:
    """Makes the partitions of today and a week ahead; returns how many were missing. Raises: Unavailable."""
    return (await db.fetch(MAKE_PARTITIONS, DAYS_AHEAD + 1))[0].made
