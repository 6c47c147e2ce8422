"""Group commit of presence queries.

A lone query goes to the database at once. Queries that arrive while a statement is running ride together in the next one: one lookup,
one journal page a messenger, one commit, and each waiter gets its own answer. Batches have a line of their own, so that a large one
does not hold up single queries; within a line messengers take turns, so that none holds up another.

Invariants: an answer exists only once its journal page is committed; a database that is away is `Unavailable`, never "absent"; what
cannot be answered soon is refused at once; of all queries in running statements no two name the same number or code of a messenger, so
that the outcome of two queries on one is that of some order of them, and a statement never waits for another's locks.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from registryd import observe
from registryd.domain.binding import Bound, Outcome
from registryd.domain.errors import CodeInUse, RegistryError, Unavailable
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn, msisdn_digests, query_id, time_ordered_id
from registryd.domain.presence import Answer, PresenceQuery
from registryd.presence.queue import Ask, Line, Named
from registryd.store import presence as store
from registryd.store.digest_keys import DigestKey
from registryd.store.pool import Database

BATCH_MAX_QUERIES = 10_000
BATCH_STATEMENTS_IN_FLIGHT = 3
"""Some are looked up while another's answers are handed out."""
SINGLES_ASKED_S = 0.1
"""So long after a single query, batches leave the processors to such: one statement at a time."""
BATCH_GROUP_MAX = 1_000
"""A batch is asked in parts of this size: larger ones save nothing more, and single queries wait a millisecond for one, not ten."""
BUSY_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Between asking again for a contract that is being ended. Each asking is journaled, so they are few."""


def connections_needed(statements_in_flight: int) -> int:
    """How many connections an answerer uses at once, for single queries and for batches."""
    return statements_in_flight + BATCH_STATEMENTS_IN_FLIGHT


class BatchAnswer(NamedTuple):
    batch_id: str
    answers: list[tuple[bool, Bound | None]]
    """In the order of the queries."""
    received_at: datetime
    answered_at: datetime


class Answerer:
    """Answers queries through `db`. `random(n)` gives n random bytes; `clock()` the time, aware; `note_pages` hears of each page
    before it is written."""

    def __init__(
        self,
        db: Database,
        digest_key: DigestKey,
        *,
        statements_in_flight: int,
        group_max: int,
        queue_max: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
        note_pages: Callable[[Iterable[UUID]], None] = lambda _: None,
    ) -> None:
        self._db = db
        self.digest_key = digest_key
        """The journal's; set anew when a month begins."""
        self._clock = clock
        self._random = random
        self._note_pages = note_pages
        self._single = Line("single", statements_in_flight, group_max, queue_max)
        self._batch = Line("batch", BATCH_STATEMENTS_IN_FLIGHT, BATCH_GROUP_MAX, max(10 * queue_max, BATCH_MAX_QUERIES))
        self._named: Named = set()
        """What the running statements name."""
        self._workers: set[asyncio.Task[None]] = set()

    async def answer(self, messenger_id: MessengerId, query: PresenceQuery, received: float) -> Answer:
        """One query; `received`: time.monotonic() at its receipt. Raises: CodeInUse (journaled all the same), Unavailable."""
        for pause_s in (*BUSY_PAUSES_S, 0.0):
            ask = Ask(messenger_id, (query,), received)
            self._enqueue(self._single, messenger_id, (ask,))
            await ask.done
            bound = ask.bound[0] if ask.bound else None
            if bound is None or bound.outcome is not Outcome.BUSY:
                if bound is not None and bound.outcome is Outcome.CODE_IN_USE:
                    raise CodeInUse
                answered_at = ask.done.result()
                return Answer(query_id(ask.page_id, ask.first), ask.present == "1", bound, answered_at - ask.waited, answered_at)
            await asyncio.sleep(pause_s)
        raise Unavailable

    async def answer_batch(self, messenger_id: MessengerId, queries: Sequence[PresenceQuery], received: float) -> BatchAnswer:
        """1 to 10,000 queries, answered as if one after another, those that name the same number or code in their order.

        Raises: Unavailable; what was recorded by then stays.
        """
        answers: list[tuple[bool, Bound | None]] = [(False, None)] * len(queries)
        batch_id: str | None = None
        rounds = deque(_rounds(queries))
        pauses_s = iter(BUSY_PAUSES_S)
        while rounds:
            indexes = rounds.popleft()
            parts = [indexes[start : start + BATCH_GROUP_MAX] for start in range(0, len(indexes), BATCH_GROUP_MAX)]
            asks = [Ask(messenger_id, [queries[i] for i in part], received) for part in parts]
            self._enqueue(self._batch, messenger_id, asks)
            try:
                await asyncio.gather(*(ask.done for ask in asks))
            except BaseException:
                for ask in asks:  # what still waits need not be asked any more
                    ask.done.cancel()
                raise
            batch_id = batch_id or query_id(asks[0].page_id, asks[0].first)
            busy = []
            for part, ask in zip(parts, asks, strict=True):
                for index, bit, bound in zip(part, ask.present, ask.bound or [None] * len(part), strict=True):
                    answers[index] = (bit == "1", bound)
                    if bound is not None and bound.outcome is Outcome.BUSY:
                        busy.append(index)
            if busy:
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    raise Unavailable
                rounds.appendleft(busy)
                await asyncio.sleep(pause_s)
        assert batch_id is not None, "a batch holds a query at least"
        answered_at = max(ask.done.result() for ask in asks)
        return BatchAnswer(batch_id, answers, answered_at - max(ask.waited for ask in asks), answered_at)

    async def drain(self) -> None:
        """Waits until every admitted query has its answer."""
        while self._workers:
            await asyncio.wait(self._workers)

    def _enqueue(self, line: Line, messenger_id: MessengerId, asks: Sequence[Ask]) -> None:
        """Raises: Unavailable."""
        line.admit(messenger_id, asks)
        self._start_worker(line)

    def _room(self, line: Line) -> int:
        """How many statements may work a line now."""
        if line is self._batch and time.monotonic() - self._single.asked_at < SINGLES_ASKED_S:
            return 1
        return line.in_flight

    def _start_worker(self, line: Line) -> None:
        if line.waiting and line.running < self._room(line):
            line.running += 1
            worker = asyncio.create_task(self._work(line))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self, line: Line) -> None:
        """Answers groups until nobody waits, or only for what another statement names, or there are too many at it."""
        try:
            while line.running <= self._room(line) and (group := line.take_group(self._named)):
                started = time.perf_counter()
                size = sum(len(ask.queries) for ask in group)
                try:
                    await self._answer_group(group)
                except RegistryError as error:
                    _fail(group, error)
                except Exception as error:
                    observe.event("background_failed", "error", where="answerer", kind=type(error).__name__)
                    _fail(group, Unavailable())
                finally:
                    for ask in group:
                        self._named -= ask.names
                for waiting in (self._single, self._batch):
                    self._start_worker(waiting)
                seconds = time.perf_counter() - started
                line.statement_s += (seconds - line.statement_s) / 8
                observe.child(observe.query_seconds, line.name).observe(seconds)
                observe.child(observe.query_groups, line.name).observe(size)
                observe.child(observe.queries_waiting, line.name).set(line.length)
        finally:
            line.running -= 1

    async def _answer_group(self, group: list[Ask]) -> None:
        now, sent = self._clock(), time.monotonic()
        milliseconds = int(now.timestamp() * 1000)
        pages: dict[MessengerId, store.Page] = {}
        key = self.digest_key
        for ask in group:
            ask.waited = timedelta(seconds=sent - ask.received)
            page = pages.get(ask.messenger_id)
            if page is None:
                page_id = time_ordered_id(milliseconds, self._random(10))
                page = pages[ask.messenger_id] = store.Page(page_id, now - ask.waited, ask.messenger_id)
            ask.page_id = str(page.page_id)
            ask.first = page.add(ask.queries, msisdn_digests(key.key, [query.msisdn for query in ask.queries]))
        self._note_pages(page.page_id for page in pages.values())
        answered = await store.answer(self._db, list(pages.values()), key.key_id)
        results: dict[MessengerId, store.AnsweredPage | store.BoundPage] = dict(zip(pages, answered, strict=True))
        for ask in group:
            result = results[ask.messenger_id]
            places = slice(ask.first, ask.first + len(ask.queries))
            ask.present = result.bits[places]
            ask.bound = None
            if isinstance(result, store.BoundPage):
                pairs = zip(result.outcomes[places], result.bound_at[places], strict=True)
                ask.bound = [None if outcome is None else Bound(Outcome(outcome), bound_at) for outcome, bound_at in pairs]
            if not ask.done.done():
                ask.done.set_result(result.answered_at)


def _rounds(queries: Sequence[PresenceQuery]) -> list[Sequence[int]]:
    """The indexes of a batch by round: one that names a number or code again comes after the one that named it before. Mostly one round."""
    if all(query.code is None for query in queries):
        return [range(len(queries))]
    rounds: list[list[int]] = []
    after: dict[Msisdn | IdentificationCode, int] = {}
    for index, query in enumerate(queries):
        turn = 0
        if query.code is not None:
            turn = max(after.get(query.msisdn, 0), after.get(query.code, 0))
            after[query.msisdn] = after[query.code] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(index)
    return [*rounds]


def _fail(group: list[Ask], error: RegistryError) -> None:
    for ask in group:
        if not ask.done.done():
            ask.done.set_exception(error)
