"""Group commit of presence queries.

A lone query goes to the database at once. Queries that arrive while a statement is running ride together in the next one: one lookup,
one journal page a messenger, one commit, and each waiter gets its own answer. Batches have a lane of their own, so that a large one
does not hold up single queries.

Invariants: an answer exists only once its journal page is committed; a database that is away is `Unavailable`, never "absent"; of all
queries in running statements no two name the same number or code of a messenger, so that the outcome of two queries on one is that of
some order of them, and a statement never waits for another's locks.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from registryd import observe
from registryd.domain.binding import Bound, Outcome
from registryd.domain.errors import CodeInUse, RegistryError, Unavailable
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn, msisdn_digest, query_id, time_ordered_id
from registryd.domain.presence import Answer, PresenceQuery
from registryd.store import presence as store
from registryd.store.pool import Database

BATCH_MAX_QUERIES = 10_000
BUSY_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Between asking again for a contract that is being ended. Each asking is journaled, so they are few."""


class DigestKey(NamedTuple):
    key_id: int
    key: bytes


class BatchAnswer(NamedTuple):
    batch_id: UUID
    answers: list[tuple[bool, Bound | None]]
    """In the order of the queries."""
    answered_at: datetime


class _Ask:
    """The queries of one caller that are answered together: after `done`, `page_id` to `bound` hold."""

    __slots__ = ("bound", "done", "first", "messenger_id", "names", "page_id", "present", "queries", "received_at")

    page_id: UUID
    first: int
    """The position of its first query on the page."""
    present: str
    bound: list[Bound | None] | None

    def __init__(
        self, messenger_id: MessengerId, queries: Sequence[PresenceQuery], received_at: datetime, done: asyncio.Future[datetime]
    ) -> None:
        self.messenger_id = messenger_id
        self.queries = queries
        self.names = frozenset((messenger_id, name) for query in queries if query.code is not None for name in (query.msisdn, query.code))
        """The numbers and codes that it may bind."""
        self.received_at = received_at
        self.done = done


class _Lane:
    """A queue of asks and the bounded number of statements that work it."""

    def __init__(self, name: str, db: Database, in_flight: int, group_max: int) -> None:
        self.name = name
        self.db = db
        self.in_flight = in_flight
        self.group_max = group_max
        self.waiting: deque[_Ask] = deque()
        self.waiting_queries = 0
        self.running = 0


class Resolver:
    """Answers queries: single ones through `db`, batches through `batches`. `random(n)` gives n random bytes; `clock()` the time, aware."""

    def __init__(
        self,
        db: Database,
        batches: Database,
        digest_key: DigestKey,
        *,
        statements_in_flight: int,
        group_max: int,
        queue_max: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._digest_key = digest_key
        self._clock = clock
        self._random = random
        self._queue_max = queue_max
        self._single = _Lane("single", db, statements_in_flight, group_max)
        self._batch = _Lane("batch", batches, 1, BATCH_MAX_QUERIES)
        self._named: set[tuple[MessengerId, Msisdn | IdentificationCode]] = set()
        self._workers: set[asyncio.Task[None]] = set()

    async def answer(self, messenger_id: MessengerId, query: PresenceQuery, received_at: datetime) -> Answer:
        """One query. Raises: CodeInUse (journaled all the same), Unavailable."""
        for pause_s in (*BUSY_PAUSES_S, 0.0):
            ask = await self._ask(self._single, messenger_id, (query,), received_at)
            bound = ask.bound[0] if ask.bound else None
            if bound is None or bound.outcome is not Outcome.BUSY:
                if bound is not None and bound.outcome is Outcome.CODE_IN_USE:
                    raise CodeInUse
                return Answer(query_id(ask.page_id, ask.first), ask.present == "1", bound, ask.done.result())
            await asyncio.sleep(pause_s)
        raise Unavailable

    async def answer_batch(self, messenger_id: MessengerId, queries: Sequence[PresenceQuery], received_at: datetime) -> BatchAnswer:
        """1 to 10,000 queries, answered as if one after another, those that name the same number or code in their order.

        Raises: Unavailable; what was recorded by then stays.
        """
        answers: list[tuple[bool, Bound | None]] = [(False, None)] * len(queries)
        batch_id: UUID | None = None
        rounds = deque(_rounds(queries))
        pauses_s = iter(BUSY_PAUSES_S)
        while rounds:
            indexes = rounds.popleft()
            ask = await self._ask(self._batch, messenger_id, [queries[i] for i in indexes], received_at)
            batch_id = batch_id or query_id(ask.page_id, ask.first)
            busy = []
            for place, index in enumerate(indexes):
                bound = ask.bound[place] if ask.bound else None
                answers[index] = (ask.present[place] == "1", bound)
                if bound is not None and bound.outcome is Outcome.BUSY:
                    busy.append(index)
            if busy:
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    raise Unavailable
                rounds.appendleft(busy)
                await asyncio.sleep(pause_s)
        assert batch_id is not None, "a batch holds a query at least"
        return BatchAnswer(batch_id, answers, self._clock())

    @property
    def waits_s(self) -> float | None:
        """How long the next single query has waited for a statement; None while no query is being answered."""
        if not self._workers:
            return None
        waiting = self._single.waiting
        return (self._clock() - waiting[0].received_at).total_seconds() if waiting else 0.0

    async def drain(self) -> None:
        """Waits until every admitted query has its answer."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def _ask(self, lane: _Lane, messenger_id: MessengerId, queries: Sequence[PresenceQuery], received_at: datetime) -> _Ask:
        if lane.waiting_queries + len(queries) > self._queue_max + lane.group_max:
            observe.queries_refused.labels("queue").inc()
            raise Unavailable
        ask = _Ask(messenger_id, queries, received_at, asyncio.get_running_loop().create_future())
        lane.waiting.append(ask)
        lane.waiting_queries += len(queries)
        self._start_worker(lane)
        await ask.done
        return ask

    def _start_worker(self, lane: _Lane) -> None:
        if lane.waiting and lane.running < lane.in_flight:
            lane.running += 1
            worker = asyncio.create_task(self._work(lane))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self, lane: _Lane) -> None:
        """Answers groups until nobody waits, or only for what another statement names."""
        try:
            while group := self._take_group(lane):
                started = time.perf_counter()
                try:
                    await self._answer_group(lane.db, group)
                except RegistryError as error:
                    observe.queries_refused.labels("database").inc(sum(len(ask.queries) for ask in group))
                    _fail(group, error)
                except Exception as error:
                    observe.event("background_failed", "error", where="resolver", kind=type(error).__name__)
                    _fail(group, Unavailable())
                finally:
                    for ask in group:
                        self._named -= ask.names
                for waiting in (self._single, self._batch):
                    self._start_worker(waiting)
                observe.query_seconds.labels(lane.name).observe(time.perf_counter() - started)
                observe.query_groups.labels(lane.name).observe(sum(len(ask.queries) for ask in group))
                observe.queries_waiting.labels(lane.name).set(lane.waiting_queries)
        finally:
            lane.running -= 1

    def _take_group(self, lane: _Lane) -> list[_Ask]:
        """The longest-waiting asks, up to the group's bound, that name nothing which a running statement, or one before them, names."""
        group: list[_Ask] = []
        later: list[_Ask] = []
        named_later: set[tuple[MessengerId, Msisdn | IdentificationCode]] = set()
        size = 0
        while lane.waiting and (not group or size + len(lane.waiting[0].queries) <= lane.group_max):
            ask = lane.waiting.popleft()
            if ask.done.done():  # its caller has gone
                lane.waiting_queries -= len(ask.queries)
            elif self._named.isdisjoint(ask.names) and named_later.isdisjoint(ask.names):
                self._named |= ask.names
                group.append(ask)
                size += len(ask.queries)
            else:
                named_later |= ask.names
                later.append(ask)
        lane.waiting.extendleft(reversed(later))
        lane.waiting_queries -= size
        return group

    async def _answer_group(self, db: Database, group: list[_Ask]) -> None:
        key = self._digest_key.key
        numbers: list[tuple[Msisdn, int, int, IdentificationCode | None]] = []
        pages: list[store.Page] = []
        digests: list[list[bytes]] = []
        page_of: dict[MessengerId, int] = {}
        milliseconds = int(self._clock().timestamp() * 1000)
        for ask in group:
            page = page_of.get(ask.messenger_id)
            if page is None:
                page = page_of[ask.messenger_id] = len(pages)
                page_id = time_ordered_id(milliseconds, self._random(10))
                pages.append(store.Page(page_id, ask.received_at, ask.messenger_id, b""))
                digests.append([])
            ask.page_id = pages[page].page_id
            ask.first = len(digests[page])
            for query in ask.queries:
                numbers.append((query.msisdn, page, len(digests[page]), query.code))
                digests[page].append(msisdn_digest(key, query.msisdn))
        numbers.sort()
        pages = [page._replace(digests=b"".join(of_page)) for page, of_page in zip(pages, digests, strict=True)]
        answered = await store.answer(db, numbers, pages, self._digest_key.key_id)
        now = self._clock()
        for ask in group:
            result = answered[page_of[ask.messenger_id]]
            places = slice(ask.first, ask.first + len(ask.queries))
            ask.present = result.bits[places]
            ask.bound = None
            if isinstance(result, store.BoundPage):
                pairs = zip(result.outcomes[places], result.bound_at[places], strict=True)
                ask.bound = [None if outcome is None else Bound(Outcome(outcome), bound_at) for outcome, bound_at in pairs]
            if not ask.done.done():
                ask.done.set_result(now)


def _rounds(queries: Sequence[PresenceQuery]) -> list[list[int]]:
    """The indexes of a batch by round: one that names a number or code again comes after the one that named it before. Mostly one round."""
    rounds: list[list[int]] = []
    after: dict[Msisdn | IdentificationCode, int] = {}
    for index, (msisdn, code) in enumerate(queries):
        turn = 0
        if code is not None:
            turn = max(after.get(msisdn, 0), after.get(code, 0))
            after[msisdn] = after[code] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(index)
    return rounds


def _fail(group: list[_Ask], error: RegistryError) -> None:
    for ask in group:
        if not ask.done.done():
            ask.done.set_exception(error)
