"""Shows what stands in tables and changes slowly: digests, replays, partitions, keys' ends, when the evidence was verified, break-glass."""

from __future__ import annotations

from registryd import observe
from registryd.store import standing
from registryd.store.pool import Database


async def watch(db: Database) -> None:
    """Every operate process looks and shows. Raises: Unavailable."""
    found = (await db.fetch(standing.READ_STANDING))[0]
    observe.digests_undelivered.set(found.digests_undelivered)
    observe.replays_waiting.set(found.replays_waiting)
    observe.changes_waiting.set(found.changes_waiting)
    observe.partitions_ahead.set(found.partitions_ahead.total_seconds())
    observe.evidence_verified.set(0 if found.verified_at is None else found.verified_at.timestamp())
    observe.evidence_findings.set(found.findings)
    for taken in await db.fetch(standing.COUNT_STEPS):
        observe.breakglass_steps.labels(taken.step).set(taken.steps)
    ends = await db.fetch(standing.READ_KEY_ENDS)
    observe.keys_end.clear()
    for key in ends:
        observe.keys_end.labels(key.caller).set(key.ends_at.timestamp())
