"""Applies billing's contract events: in order, one transaction a call, each event once. What they do is decided in domain/events.py.

They are judged by the database's clock. Calls are applied one at a time in any case, so a call waits for its turn here, without a
connection: else a few calls that wait would hold the whole pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b

from registryd import observe
from registryd.domain.contract import Event, Result
from registryd.domain.errors import Unavailable
from registryd.domain.events import Decided, decide
from registryd.store import contracts
from registryd.store.failures import CONFLICTS
from registryd.store.pool import Database

CALLS_WAITING_MAX = 16
TURN_WAIT_S = 5.0
"""How long a call waits for its turn before it is told to come again: another process's call, or a snapshot, may take longer."""


class ContractFeed:
    """`digest_key` keys the digests by which a repeated event is told from a reused id."""

    def __init__(self, db: Database, digest_key: bytes) -> None:
        self._db = db
        self._digest_key = digest_key
        self._turn = asyncio.Lock()
        self._waiting = 0

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
        # Both loops take a tenth of a second for ten thousand events: in a thread, so that this process's loop goes on meanwhile.
        with_content = await asyncio.to_thread(lambda: [(event, self._content(event)) for event in events])
        async with self._taking_turns(), self._db.transaction() as connection:
            call = await contracts.open_call(connection, [event.event_id for event in events])
            msisdns = sorted({event.msisdn for event in events if event.event_id not in call.past})
            before = await contracts.find_known(connection, msisdns)
            decided = await asyncio.to_thread(decide, with_content, call.past, before, call.now, call.ends_left)
            await contracts.write(connection, decided)
        return decided

    @asynccontextmanager
    async def _taking_turns(self) -> AsyncIterator[None]:
        """Raises: Unavailable, where too many calls wait, or one waits for too long."""
        if self._waiting == CALLS_WAITING_MAX:
            raise Unavailable(reason="feed")
        self._waiting += 1
        try:
            async with asyncio.timeout(TURN_WAIT_S):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable(reason="feed") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    def _content(self, event: Event) -> bytes:
        parts = (event.type, event.msisdn, event.occurred_at.timestamp(), event.holder, event.end_user)
        return blake2b(repr(parts).encode(), digest_size=16, key=self._digest_key).digest()
