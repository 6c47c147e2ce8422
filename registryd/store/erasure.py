"""Erasure: ended contracts and bindings leave when the policy no longer keeps them. Which ones: sql/migrations/0009_evidence.sql."""

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
