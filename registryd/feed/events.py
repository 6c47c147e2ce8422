"""Applies billing's contract events: in order, one transaction a call, each event once. What they do is decided in domain/events.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b

from registryd import observe
from registryd.domain.contract import Event, Result
from registryd.domain.errors import Unavailable
from registryd.domain.events import Decided, decide
from registryd.store import contracts
from registryd.store.failures import CONFLICTS
from registryd.store.pool import Database


class ContractFeed:
    """`digest_key` keys the digests by which a repeated event is told from a reused id."""

    def __init__(self, db: Database, digest_key: bytes, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._db = db
        self._digest_key = digest_key
        self._clock = clock

    async def apply(self, events: Sequence[Event]) -> list[Result]:
        """One result an event, in their order. Raises: Unavailable; nothing is then applied."""
        try:
            decided = await self._apply(events)
        except CONFLICTS:
            # Another writer took the number between our look and our write. Nothing was applied; the next call sees the new state.
            raise Unavailable from None
        for event, result in zip(events, decided.results, strict=True):
            observe.events_applied.labels(event.type, result.outcome).inc()
        return decided.results

    async def _apply(self, events: Sequence[Event]) -> Decided:
        now = self._clock()
        # Both loops take a tenth of a second for ten thousand events: in a thread, so that this process's loop goes on meanwhile.
        with_content = await asyncio.to_thread(lambda: [(event, self._content(event)) for event in events])
        async with self._db.transaction() as connection:
            await contracts.lock_feed(connection)
            past = await contracts.find_events(connection, [event.event_id for event in events])
            msisdns = sorted({event.msisdn for event in events if event.event_id not in past})
            before = await contracts.find_latest(connection, msisdns)
            # find_latest may have waited for another writer's lock while the number got its next holder. A second look sees that one.
            before |= await contracts.find_latest(connection, [msisdn for msisdn, contract in before.items() if contract.ended_at])
            decided = await asyncio.to_thread(decide, with_content, past, before, now)
            await contracts.record_events(connection, decided.applied, decided.refused)
            await contracts.write(connection, decided.updated, decided.inserted)
        return decided

    def _content(self, event: Event) -> bytes:
        parts = (event.type, event.msisdn, event.occurred_at.timestamp(), event.holder, event.end_user)
        return blake2b(repr(parts).encode(), digest_size=16, key=self._digest_key).digest()
