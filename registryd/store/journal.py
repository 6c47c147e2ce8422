"""The journal's partitions."""

from __future__ import annotations

from typing import NamedTuple

from registryd.store.pool import Database
from registryd.store.queries import Query

DAYS_AHEAD = 7


class Made(NamedTuple):
    made: int


MAKE_PARTITIONS = Query("journal", "make_partitions", Made, int)


async def make_partitions(db: Database) -> int:
    """Makes the partitions of today and a week ahead; returns how many were missing."""
    return (await db.fetch(MAKE_PARTITIONS, DAYS_AHEAD + 1))[0].made
