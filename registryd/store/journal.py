"""The journal's partitions, and the count of what each messenger asked, shared by all workers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Database
from registryd.store.queries import Nothing, Query

DAYS_AHEAD = 7


class Made(NamedTuple):
    made: int


class Usage(NamedTuple):
    messenger_id: MessengerId
    used: int
    absent: int


MAKE_PARTITIONS = Query("journal", "make_partitions", Made, int)
ADD_USAGE = Query("journal", "add_usage", Nothing, list[int], list[date], list[int], list[int])
READ_USAGE = Query("journal", "read_usage", Usage, date)


async def make_partitions(db: Database) -> int:
    """Makes the partitions of today and a week ahead; returns how many were missing."""
    return (await db.fetch(MAKE_PARTITIONS, DAYS_AHEAD + 1))[0].made


async def exchange_usage(db: Database, day: date, added: Sequence[tuple[MessengerId, date, int, int]]) -> list[Usage]:
    """Adds (messenger, day, used, absent) of this worker and returns the day's sums over all workers."""
    async with db.transaction() as connection:
        if added:
            await connection.fetch(ADD_USAGE.sql, *map(list, zip(*added, strict=True)))
        return [Usage(*row.values()) for row in await connection.fetch(READ_USAGE.sql, day)]
