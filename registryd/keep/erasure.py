"""Erasure deletes in small batches what the policy no longer keeps: ended contracts, bindings, replays, billing's events."""

from __future__ import annotations

import asyncio

from registryd import observe
from registryd.store import erasure
from registryd.store.erasure import Forgotten, Purged
from registryd.store.jobs import exclusively
from registryd.store.pool import Database
from registryd.store.queries import Query

BATCH_ROWS = 2_000
RUN_MAX_BATCHES = 500
PAUSE_S = 0.05
"""Between batches, so that others get at the disk."""


async def erase(db: Database) -> None:
    """Deletes all that may go. Raises: Unavailable."""
    await purge_ended(db)
    await forget(db)


async def purge_ended(db: Database, batch_rows: int = BATCH_ROWS) -> Purged:
    """Deletes ended contracts and bindings, batch by batch up to a bound. Returns how many. Raises: Unavailable."""
    bindings = contracts = 0
    for _ in range(RUN_MAX_BATCHES):
        async with exclusively(db, "erasure") as connection:
            if connection is None:
                break
            purged = await erasure.purge_ended(connection, batch_rows)
        bindings, contracts = bindings + purged.bindings, contracts + purged.contracts
        if max(purged) < batch_rows:
            break
        await asyncio.sleep(PAUSE_S)
    observe.child(observe.ended_purged, "binding").inc(bindings)
    observe.child(observe.ended_purged, "contract").inc(contracts)
    if bindings or contracts:
        observe.event("ended_purged", bindings=bindings, contracts=contracts)
    return Purged(bindings, contracts)


async def forget(db: Database, batch_rows: int = BATCH_ROWS) -> Forgotten:
    """Deletes replays, billing's events and old records. Returns how many of each. Raises: Unavailable."""
    queries = (erasure.FORGET_REPLAYS, erasure.FORGET_EVENTS, erasure.FORGET_RECORDS)
    forgotten = Forgotten(*[await _forget(db, query, batch_rows) for query in queries])
    if any(forgotten):
        observe.event("forgotten", **forgotten._asdict())
    return forgotten


async def _forget(db: Database, query: Query[erasure.Count], batch_rows: int) -> int:
    total = 0
    for _ in range(RUN_MAX_BATCHES):
        async with exclusively(db, "erasure") as connection:
            if connection is None:
                break
            gone = await erasure.forget(connection, query, batch_rows)
        total += gone
        if gone < batch_rows:
            break
        await asyncio.sleep(PAUSE_S)
    return total
