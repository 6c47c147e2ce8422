"""Erasure: what the policy no longer keeps leaves in small batches.

Which ended contracts and bindings: sql/migrations/0009_evidence.sql; which seals and replays:
0011_forgetting.sql; billing's events: 0012_present_contract.sql.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from registryd import observe
from registryd.store.pool import Database
from registryd.store.queries import Query

BATCH_ROWS = 2_000
RUN_MAX_BATCHES = 500
PAUSE_S = 0.05
"""Between batches: whoever else needs the disk gets it."""


class Purged(NamedTuple):
    bindings: int
    contracts: int


class Forgotten(NamedTuple):
    seals: int
    replayed_notifications: int
    events: int


class Count(NamedTuple):
    forgotten: int


FORGET_SEALS = Query("erasure", "forget_seals", Count, int)
FORGET_REPLAYS = Query("erasure", "forget_replays", Count, int)
FORGET_EVENTS = Query("erasure", "forget_events", Count, int)
PURGE_ENDED = Query("erasure", "purge_ended", Purged, int)


async def purge_ended(db: Database, batch_rows: int = BATCH_ROWS) -> Purged:
    """Purges what is over, batch by batch up to a bound, and tells how much. Any number of workers may call it; one is at it."""
    bindings = contracts = 0
    for _ in range(RUN_MAX_BATCHES):
        purged = await db.fetch(PURGE_ENDED, batch_rows)
        if not purged:
            break
        bindings, contracts = bindings + purged[0].bindings, contracts + purged[0].contracts
        if max(purged[0]) < batch_rows:
            break
        await asyncio.sleep(PAUSE_S)
    if bindings or contracts:
        observe.child(observe.ended_purged, "binding").inc(bindings)
        observe.child(observe.ended_purged, "contract").inc(contracts)
        observe.event("ended_purged", bindings=bindings, contracts=contracts)
    return Purged(bindings, contracts)


async def forget(db: Database, batch_rows: int = BATCH_ROWS) -> Forgotten:
    """Forgets seals whose pages are gone, replays and billing's events of long ago, likewise."""
    forgotten = Forgotten(*[await _forget(db, query, batch_rows) for query in (FORGET_SEALS, FORGET_REPLAYS, FORGET_EVENTS)])
    if any(forgotten):
        observe.event("forgotten", **forgotten._asdict())
    return forgotten


async def _forget(db: Database, query: Query[Count], batch_rows: int) -> int:
    total = 0
    for _ in range(RUN_MAX_BATCHES):
        total += (gone := (await db.fetch(query, batch_rows))[0].forgotten)
        if gone < batch_rows:
            break
        await asyncio.sleep(PAUSE_S)
    return total


async def erase(db: Database) -> None:
    """All of it."""
    await purge_ended(db)
    await forget(db)
