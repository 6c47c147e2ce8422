"""Applies billing's contract events: in order, one transaction a call, each event once. What they do is decided in domain/events.py.

They are judged by the database's clock. Calls are applied one at a time in any case, so a call waits for its turn here, without a
connection: else a few calls that wait would hold the whole pool.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product

from registryd import observe
from registryd.domain.contract import EVENT_TYPES, OUTCOMES, Event, NotYet, Result
from registryd.domain.errors import Unavailable
from registryd.domain.events import Call, decide
from registryd.domain.files import ImportRefused
from registryd.store import bounds, contracts
from registryd.store.failures import CONFLICTS, ODD_ROWS
from registryd.store.pool import Connection, Database

CALLS_WAITING_MAX = 16
NOBODY: Mapping[str, str] = {}
TURN_WAIT_S = 5.0
"""How long a call waits for its turn before it is told to come again: another process's call, or a snapshot, may take longer."""


@dataclass
class Limits:
    """What all calls of one file together may do, and what they have done."""

    ends: int | None
    """How many contracts may end, where a person has said so; None: as many as the policy lets, as calls of the API."""
    absent: int
    """How many numbers may turn from present to absent."""
    ended: int = 0
    turned_absent: int = 0


class TooManyAbsent(ImportRefused):
    """A file's events would turn more numbers absent than they may."""

    def __init__(self, would: int, may: int) -> None:
        super().__init__(
            f"the file's events up to here would turn {would:,} numbers from present to absent, where {may:,} may; those of this portion "
            "were not applied. Look at what is gone; if it is right, import the whole file again with a larger --max-absent"
        )


class ContractFeed:
    """`digest_key` keys the digests by which a repeated event is told from a reused id."""

    def __init__(self, db: Database, digest_key: bytes) -> None:
        self.db = db
        self._digest_key = digest_key
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._repeats = observe.repeats()
        for kind, outcome in product(EVENT_TYPES, OUTCOMES):
            observe.events_applied.labels(kind, outcome)

    async def apply(self, events: Sequence[Event], sender: Mapping[str, str] = NOBODY, limits: Limits | None = None) -> list[Result]:
        """One result an event, in their order. `sender`: who sent them, for the log.

        Raises: Unavailable, TooManyAbsent; nothing is then applied.
        """
        # This loop and that of `decide` take a tenth of a second for ten thousand events: in a thread, so that this process's loop goes on.
        with_content = await asyncio.to_thread(self.with_content, events)
        async with self._taking_turns():
            results = await self._judge_at_once(with_content, limits)
            if results is None:
                async with self.db.transaction() as connection:
                    results = await self._judge_apart(connection, with_content, sender, limits)
        await asyncio.to_thread(_count, events, results)
        return results

    async def _judge_at_once(self, events: Sequence[tuple[Event, bytes]], limits: Limits | None) -> list[Result] | None:
        """None where the registry fails on one of them, for which nothing is applied."""
        for _ in range(2):
            try:
                async with self.db.transaction() as connection:
                    return await self._judge(connection, events, limits)
            except CONFLICTS:  # another writer may have taken a number between our look and our write: a second look sees that
                continue
            except ODD_ROWS:
                break
        return None

    async def _judge(self, connection: Connection, events: Sequence[tuple[Event, bytes]], limits: Limits | None) -> list[Result]:
        call = await contracts.open_call(connection, [event for event, _ in events])
        msisdns = await asyncio.to_thread(lambda: sorted({event.msisdn for event, _ in events if event.event_id not in call.past}))
        before = await contracts.find_known(connection, msisdns)
        ends_left = call.ends_left if limits is None or limits.ends is None else limits.ends - limits.ended
        decided = await asyncio.to_thread(decide, events, call.past, before, call.now, ends_left)
        absent = 0 if limits is None else await contracts.count_absent(connection, decided.changed)
        if limits is not None and limits.turned_absent + absent > limits.absent:
            raise TooManyAbsent(limits.turned_absent + absent, limits.absent)
        if decided.ends > call.ends_left:
            await bounds.allow_now(connection, decided.ends, f"an import of events with --max-terminations for {decided.ends} ends")
        await contracts.write(connection, decided)
        if limits is not None:
            limits.ended += decided.ends
            limits.turned_absent += absent
        return decided.results

    async def _judge_apart(
        self, connection: Connection, events: Sequence[tuple[Event, bytes]], sender: Mapping[str, str], limits: Limits | None
    ) -> list[Result]:
        """Judges a call that the registry failed on by halves, in its order, until only the event is left out that it fails on. That is a
        fault of ours and is told as one, but it must not stop billing's feed: the event waits.
        """
        try:
            async with connection.transaction():
                return await self._judge(connection, events, limits)
        except ODD_ROWS as error:
            if len(events) > 1:
                half = len(events) // 2
                first = await self._judge_apart(connection, events[:half], sender, limits)
                return [*first, *await self._judge_apart(connection, events[half:], sender, limits)]
            [(event, _)] = events
            facts = {"type": event.type, "kind": type(error).__name__, "at": observe.place(error)}
            self._repeats.tell("event_failed", "error", kind=(*facts.values(), sender.get("caller")), facts={**facts, **sender})
            failed = NotYet("registry_failed", "the registry failed on this event and has told its operators; send it again")
            await contracts.note_waiting(connection, [(event, failed.lack)])
            return [Result(event.event_id, "not_yet", str(failed))]

    def with_content(self, events: Sequence[Event]) -> list[tuple[Event, bytes]]:
        return [(event, self._content(event)) for event in events]

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


def _count(events: Sequence[Event], results: Sequence[Result]) -> None:
    now = time.time()
    for event, result in zip(events, results, strict=True):
        if result.outcome == "applied":
            observe.event_lag.observe(max(now - event.occurred_at.timestamp(), 0))
    for (kind, outcome), count in Counter((e.type, r.outcome) for e, r in zip(events, results, strict=True)).items():
        observe.events_applied.labels(kind, outcome).inc(count)


class Rehearsal:
    """Judges a file's events one after another as they would be applied, and writes nothing."""

    def __init__(self, feed: ContractFeed) -> None:
        self._feed = feed
        self._call: Call | None = None

    async def apply(self, events: Sequence[Event]) -> list[Result]:
        """What each event would be told, if no bound stopped its end. Raises: Unavailable."""
        with_content = await asyncio.to_thread(self._feed.with_content, events)
        async with self._feed.db.transaction() as connection:
            opened = await contracts.open_call(connection, events)
            call = self._call = self._call or Call(opened.now, sys.maxsize)
            before = await contracts.find_known(connection, sorted({e.msisdn for e in events if not call.knows(e.msisdn)}))
        call.learn(opened.past, before)
        return await asyncio.to_thread(lambda: [call.take(event, content) for event, content in with_content])

    async def count(self) -> tuple[int, int]:
        """How many contracts would end, and how many numbers turn absent. Raises: Unavailable."""
        decided = self._call.decided() if self._call else None
        if decided is None:
            return 0, 0
        async with self._feed.db.connection() as connection:
            return decided.ends, await contracts.count_absent(connection, decided.changed)
