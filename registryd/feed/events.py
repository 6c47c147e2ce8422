"""Applies billing's contract events: in order, in one transaction a call, each once.

The rule for one event is domain/contract.py's; here its results are gathered, so that a call of ten thousand events is a handful of
statements. A replayed event changes nothing: applied ones come back as duplicates, refused ones as refused with their first reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b

from registryd import observe
from registryd.domain import contract as rule
from registryd.domain.contract import Contract, Event, Refused, Result
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import Msisdn
from registryd.store import contracts
from registryd.store.pool import CONFLICTS, Database


class ContractFeed:
    """`digest_key` keys the digests that tell a replay from a reused id. `on_ended()` is called after contracts ended."""

    def __init__(
        self, db: Database, digest_key: bytes, on_ended: Callable[[], None], clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._db = db
        self._digest_key = digest_key
        self._on_ended = on_ended
        self._clock = clock

    async def apply(self, events: Sequence[Event]) -> list[Result]:
        """One result an event, in their order. Raises: Unavailable; nothing is then applied."""
        try:
            results, ended = await self._apply(events)
        except CONFLICTS:
            # A DBA or another writer took the number between our look and our write: nothing was applied, and a retry sees what is now.
            raise Unavailable from None
        for event, result in zip(events, results, strict=True):
            observe.events_applied.labels(event.type, result.outcome).inc()
        if ended:
            self._on_ended()
        return results

    async def _apply(self, events: Sequence[Event]) -> tuple[list[Result], bool]:
        now = self._clock()
        contents = [self._digest(event) for event in events]
        async with self._db.transaction() as connection:
            await contracts.lock_feed(connection)
            past = await contracts.find_events(connection, [event.event_id for event in events])
            seen = {
                event_id: Result(event_id, "refused" if row.outcome == "refused" else "duplicate", row.reason)
                for event_id, row in past.items()
            }
            content_of = {event_id: row.content for event_id, row in past.items()}
            msisdns = sorted({event.msisdn for event in events if event.event_id not in seen})
            before = await contracts.find_latest(connection, msisdns)
            # While that waited for a DBA's lock, the number may have got its next holder: a second look, under the lock, sees it.
            before |= await contracts.find_latest(connection, [msisdn for msisdn, contract in before.items() if contract.ended_at])
            latest = dict(before)
            written: dict[tuple[Msisdn, int], Contract] = {}
            applied: list[contracts.EventRow] = []
            refused: list[contracts.RefusedRow] = []
            results: list[Result] = []
            for event, content in zip(events, contents, strict=True):
                known = seen.get(event.event_id)
                if known is not None:
                    results.append(known if content == content_of[event.event_id] else _reused(event))
                    continue
                content_of[event.event_id] = content
                try:
                    rows = rule.apply(latest.get(event.msisdn), event, now)
                except Refused as refusal:
                    result = Result(event.event_id, "refused", str(refusal))
                    refused.append(contracts.RefusedRow(event.event_id, event.type, content, str(refusal), event.occurred_at))
                    seen[event.event_id] = result
                else:
                    for row in rows:
                        written[row.msisdn, row.generation] = latest[row.msisdn] = row
                    result = Result(event.event_id, "applied")
                    applied.append(contracts.EventRow(event.event_id, event.type, content, event.occurred_at))
                    seen[event.event_id] = Result(event.event_id, "duplicate")
                results.append(result)
            if applied or refused:
                await contracts.record_events(connection, applied, refused)
            updated = [row for row in written.values() if _existed(before, row)]
            inserted = [row for row in written.values() if not _existed(before, row)]
            await contracts.write(connection, updated, inserted)
        return results, any(row.ended_at is not None for row in updated)

    def _digest(self, event: Event) -> bytes:
        parts = (event.type, event.msisdn, event.occurred_at.timestamp(), event.holder, event.end_user)
        return blake2b(repr(parts).encode(), digest_size=16, key=self._digest_key).digest()


def _existed(before: dict[Msisdn, Contract], row: Contract) -> bool:
    former = before.get(row.msisdn)
    return former is not None and former.generation == row.generation


def _reused(event: Event) -> Result:
    return Result(event.event_id, "refused", "this eventId was used before for a different event: send it under an id of its own")
