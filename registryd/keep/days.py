"""Days: partitions are made ahead, days that are over are closed, days that the policy no longer keeps are dropped with their keys."""

from __future__ import annotations

from typing import Any

from registryd import observe
from registryd.store import journal
from registryd.store.digest_keys import DESTROY_KEYS
from registryd.store.jobs import exclusively
from registryd.store.pool import Database, fetch
from registryd.store.queries import Query

COUNTING_TIMEOUT_S = 900.0
"""Closing a day reads a whole day of the journal."""


async def keep_days(db: Database) -> None:
    """Does all of it, but drops at most one day of each family, because a drop makes queries wait for some milliseconds.

    Raises: Unavailable.
    """
    await journal.make_partitions(db)
    await _call(db, journal.FOLD_MOVEMENTS)
    for family in journal.FAMILIES:
        while day := await _call(db, journal.CLOSE_DAY, family):
            observe.event("day_closed", family=family, day=day.isoformat())
        if day := await _call(db, journal.DROP_DAY, family):
            observe.days_dropped.labels(family).inc()
            observe.event("day_dropped", family=family, day=day.isoformat())
    async with exclusively(db, "days") as connection:
        for gone in await fetch(connection, DESTROY_KEYS) if connection else ():
            observe.digest_keys_destroyed.inc()
            observe.event("digest_key_destroyed", month=f"{gone.month:%Y-%m}")
    for state in await db.fetch(journal.READ_RETENTION):
        observe.unplaced_rows.labels(state.family).set(state.unplaced_rows)
        observe.days_over.labels(state.family).set(state.days_over)
        if state.unplaced_rows:
            observe.event("rows_unplaced", "warning", family=state.family, rows=state.unplaced_rows)


async def _call(db: Database, query: Query[Any], *words: str) -> Any:
    """What a function of the database returned; None where another process is at it."""
    async with exclusively(db, "days") as connection:
        return await connection.fetchval(query.sql, *words, timeout=COUNTING_TIMEOUT_S) if connection else None
