"""The days of the journal, of deliveries and of attempts.

A day's partition is made ahead, closed (its figures are written down) when the day is over, and dropped when the policy in force keeps
it no longer. What may be dropped is decided by the database alone: sql/migrations/0005_retention.sql.
"""

from __future__ import annotations

from datetime import date
from typing import Any, NamedTuple

from registryd import observe
from registryd.store.digest_keys import DESTROY_KEYS
from registryd.store.pool import Database
from registryd.store.queries import Query

DAYS_AHEAD = 7
FAMILIES = ("journal_page", "notification_delivered", "delivery_attempt")
COUNTING_TIMEOUT_S = 900.0
"""Closing reads a whole day of the journal."""


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


async def keep_days(db: Database) -> None:
    """Makes the days ahead, folds movements, closes days that are over, drops one of each family that the policy no longer keeps, and
    destroys the digest keys of which nothing is left.

    One, because each makes queries wait for some milliseconds: a policy that keeps less than before takes effect over many calls. Any
    number of workers may call it; they skip what another is doing.
    """
    await make_partitions(db)
    await _call(db, FOLD_MOVEMENTS)
    for family in FAMILIES:
        while day := await _call(db, CLOSE_DAY, family):
            observe.event("day_closed", family=family, day=day.isoformat())
        if day := await _call(db, DROP_DAY, family):
            observe.days_dropped.labels(family).inc()
            observe.event("day_dropped", family=family, day=day.isoformat())
    for gone in await db.fetch(DESTROY_KEYS):
        observe.digest_keys_destroyed.inc()
        observe.event("digest_key_destroyed", month=f"{gone.month:%Y-%m}")
    for state in await db.fetch(READ_RETENTION):
        observe.unplaced_rows.labels(state.family).set(state.unplaced_rows)
        observe.days_over.labels(state.family).set(state.days_over)
        if state.unplaced_rows:
            observe.event("rows_unplaced", "warning", family=state.family, rows=state.unplaced_rows)


async def _call(db: Database, query: Query[Any], *words: str) -> Any:
    """What a function of the database returned that may have much to count."""
    async with db.connection() as connection:
        return await connection.fetchval(query.sql, *words, timeout=COUNTING_TIMEOUT_S)
