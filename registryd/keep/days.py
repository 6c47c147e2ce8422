"""Partitions are made ahead, those that the policy no longer keeps are dropped with their digest keys, and figures are folded."""

from __future__ import annotations

from typing import Any

from registryd import observe
from registryd.domain.errors import Unavailable
from registryd.store import days
from registryd.store.digest_keys import DESTROY_KEYS
from registryd.store.failures import WAITED
from registryd.store.jobs import exclusively
from registryd.store.pool import Database, fetch
from registryd.store.queries import Query

FOLDING_TIMEOUT_S = 60.0


async def keep_days(db: Database) -> None:
    """Does all of it, but drops at most one partition of each table, because a drop makes queries wait for some milliseconds.

    Raises: Unavailable.
    """
    try:
        await days.make_partitions(db)
    except Unavailable as error:
        if not isinstance(error.__cause__, WAITED):
            raise
        # A transaction that began before the first day's midnight may hold them off, such as a dump. Rows lie in the default partition
        # meanwhile, and move when the partition can be made.
        readers = [reader.holder for reader in await db.fetch(days.PARTITIONS_WAIT_FOR)]
        if not readers:
            raise
        observe.event("partitions_missing", "error", waits_for=readers)
    await _call(db, days.FOLD_MOVEMENTS)
    for family in days.FAMILIES:
        if day := await _call(db, days.DROP_PART, family):
            observe.partitions_dropped.labels(family).inc()
            observe.event("partition_dropped", family=family, day=day.isoformat())
    async with exclusively(db, "days") as connection:
        for gone in await fetch(connection, DESTROY_KEYS) if connection else ():
            observe.digest_keys_destroyed.inc()
            observe.event("digest_key_destroyed", month=f"{gone.month:%Y-%m}")
    for state in await db.fetch(days.READ_RETENTION):
        observe.unplaced_rows.labels(state.family).set(state.unplaced_rows)
        observe.partitions_over.labels(state.family).set(state.parts_over)
        observe.partitions_dropped.labels(state.family)
        if state.unplaced_rows:
            observe.event("rows_unplaced", "warning", family=state.family, rows=state.unplaced_rows)


async def fold_ends(db: Database) -> None:
    """Folds what ended in the last hour. Raises: Unavailable."""
    await db.fetch(days.FOLD_ENDS)


async def _call(db: Database, query: Query[Any], *words: str) -> Any:
    """What a function of the database returned; None where another process is at it."""
    async with exclusively(db, "days") as connection:
        return await connection.fetchval(query.sql, *words, timeout=FOLDING_TIMEOUT_S) if connection else None
