"""Group commit of presence queries.

A lone query goes to the database at once. Queries that arrive while a statement is running ride together in the next one: one lookup,
one journal page, one commit, and each waiter gets its own answer. Batches have a line of their own, so that a large one does not hold up
single queries; within a line messengers take turns, so that none holds up another.

Invariants: an answer exists only once its journal page is committed; a database that is away is `Unavailable`, never "absent"; what
cannot be answered soon is refused at once. No two queries in this process's running statements name the same number or code of a messenger,
so two queries on one number end as if one had come after the other. Another process may name the same: then the statement that came second
is rolled back, and its binding queries are asked again one messenger at a time, so that no messenger's conflict costs another its answer.
Who conflicts goes on to bind in statements of its own, one at a time, beside which the others' run as if it were not there.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain, repeat
from operator import attrgetter
from typing import NamedTuple

from registryd import observe
from registryd.domain.binding import Bound, Outcome
from registryd.domain.errors import CodeInUse, NotComplete, RegistryError, Unavailable
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn, msisdn_digests, query_id
from registryd.domain.presence import Answer, PresenceQueries, PresenceQuery
from registryd.presence.conflicts import Conflicts
from registryd.presence.lines import BATCH_STATEMENTS_IN_FLIGHT, Lines
from registryd.presence.queue import Ask, Line, Named, rounds_of
from registryd.store import presence as store
from registryd.store.digest_keys import DigestKey
from registryd.store.pool import Database

BATCH_MAX_QUERIES = 10_000
BUSY_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Pauses before asking again for a contract that is being ended. Each asking is a page of the journal, so they are few."""
PARTS_AT_ONCE = 3
"""How many statements of all groups ask again after a conflict, at once: of some that wait for a lock, one does not hold up the others."""


def connections_needed(statements_in_flight: int) -> int:
    """How many connections an answerer uses at once: one for each group, and where groups ask again, PARTS_AT_ONCE for all of these."""
    return statements_in_flight + BATCH_STATEMENTS_IN_FLIGHT + PARTS_AT_ONCE - 1


class BatchAnswer(NamedTuple):
    batch_id: str
    present: str
    """A `0` or `1` for each query, in their order."""
    bound: list[Bound | None] | None
    """What became of the code of each query; None where no query had one."""
    received_at: datetime
    answered_at: datetime

    @property
    def answers(self) -> list[tuple[bool, Bound | None]]:
        """Whether each number is present, and what became of its code."""
        return [(bit == "1", bound) for bit, bound in zip(self.present, self.bound or [None] * len(self.present), strict=True)]


class Answerer:
    """Answers queries through `db`."""

    def __init__(self, db: Database, digest_key: DigestKey, *, statements_in_flight: int, group_max: int, queue_max: int) -> None:
        self._db = db
        self.digest_key = digest_key
        """The journal's digest key. It is set anew when a month begins."""
        self._lines = Lines(statements_in_flight, group_max, queue_max, max(10 * queue_max, BATCH_MAX_QUERIES))
        self._single, self._batch = self._lines
        self._named: Named = set()
        """Numbers and codes that the running statements may bind."""
        self._conflicts = Conflicts()
        self._places = asyncio.Semaphore(PARTS_AT_ONCE)
        self._workers: set[asyncio.Task[None]] = set()
        self._failed = False
        """Whether the database did not take the last group."""

    async def answer(self, messenger_id: MessengerId, query: PresenceQuery, received: float) -> Answer:
        """One query; `received`: time.monotonic() at its receipt. Raises: CodeInUse (journaled all the same), Unavailable."""
        queries = PresenceQueries((query.msisdn,), None if query.code is None else (query.code,))
        for pause_s in (*BUSY_PAUSES_S, 0.0):
            ask = Ask(messenger_id, queries, received)
            self._enqueue(self._single, messenger_id, (ask,))
            await ask.done
            bound = ask.bound[0] if ask.bound else None
            if bound is None or bound.outcome is not Outcome.BUSY:
                if bound is not None and bound.outcome is Outcome.CODE_IN_USE:
                    raise CodeInUse
                answered_at = ask.done.result()
                return Answer(query_id(ask.page_id, ask.first), ask.present == "1", bound, ask.received_at, answered_at)
            await asyncio.sleep(pause_s)
        raise Unavailable

    async def answer_batch(self, messenger_id: MessengerId, queries: PresenceQueries, received: float) -> BatchAnswer:
        """1 to 10,000 queries, answered as if one after another, those that name the same number or code in their order.

        Raises: Unavailable; what was recorded by then stays.
        """
        present = ["0"] * len(queries)
        outcomes: list[Bound | None] = [None] * len(queries)
        batch_id: str | None = None
        rounds = deque(rounds_of(queries))
        pauses_s = iter(BUSY_PAUSES_S)
        while rounds:
            indexes = rounds.popleft()
            part_max = self._lines.fit(self._batch)
            parts = [indexes[start : start + part_max] for start in range(0, len(indexes), part_max)]
            asks = [Ask(messenger_id, queries.at(part), received) for part in parts]
            self._enqueue(self._batch, messenger_id, asks)
            try:
                await asyncio.gather(*(ask.done for ask in asks))
            except BaseException:
                for ask in asks:  # those that still wait need not be asked any more
                    ask.done.cancel()
                raise
            batch_id = batch_id or query_id(asks[0].page_id, asks[0].first)
            if queries.codes is None:  # one round, and nobody is busy
                present = [ask.present for ask in asks]
                break
            busy: list[int] = []
            for part, ask in zip(parts, asks, strict=True):
                for index, bit in zip(part, ask.present, strict=True):
                    present[index] = bit
                for index, outcome in zip(part, ask.bound or (), strict=False):  # None where this part had no code
                    outcomes[index] = outcome
                    if outcome is not None and outcome.outcome is Outcome.BUSY:
                        busy.append(index)
            if busy:
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    raise Unavailable
                rounds.appendleft(busy)
                await asyncio.sleep(pause_s)
        assert batch_id is not None, "a batch holds a query at least"
        bound = None if queries.codes is None else outcomes
        return BatchAnswer(batch_id, "".join(present), bound, min(ask.received_at for ask in asks), max(ask.done.result() for ask in asks))

    async def look(self) -> str:
        """Why nothing can be answered now; empty where it can. After a group that failed the journal is tried until it takes a page.

        Raises: Unavailable.
        """
        if not await store.confirm_complete(self._db):
            return "the registry is not complete: import a whole snapshot, or say `registryd feed complete --reason`"
        if self._failed:
            await store.try_journal(self._db, self.digest_key.key_id)
            self._failed = False
        return ""

    async def drain(self) -> None:
        """Waits until every admitted query has its answer."""
        while self._workers:
            await asyncio.wait(self._workers)

    def _enqueue(self, line: Line, messenger_id: MessengerId, asks: Sequence[Ask]) -> None:
        """Raises: Unavailable."""
        line.admit(messenger_id, asks, self._lines.room(line))
        self._start_worker(line)

    def _start_worker(self, line: Line) -> None:
        if line.waiting and line.running < self._lines.room(line):
            line.running += 1
            worker = asyncio.create_task(self._work(line))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self, line: Line) -> None:
        """Answers groups until nobody waits, or only for what another statement names, or there are too many at it."""
        try:
            while line.running <= self._lines.room(line) and (group := self._take_group(line)):
                started = time.monotonic()
                if line is self._single:
                    overlap = asyncio.get_running_loop().call_later(self._lines.past_after_s(group), self._let_past, id(group))
                try:
                    await self._answer_group(group)
                except Exception as error:  # a fault of ours: each caller is told 500, and the log with it
                    self._failed = True
                    _fail(group, error)
                finally:
                    if line is self._single:
                        overlap.cancel()
                        line.slow.discard(id(group))
                    if line.alone is group:
                        line.alone = None
                    for ask in group:
                        self._named -= ask.names
                for waiting in (self._single, self._batch):
                    self._start_worker(waiting)
                seconds = time.monotonic() - started
                line.statement_s += (seconds - line.statement_s) / 8
                observe.child(observe.query_seconds, line.name).observe(seconds)
                observe.child(observe.query_groups, line.name).observe(sum(ask.count for ask in group))
                observe.child(observe.queries_waiting, line.name).set(line.length)
        finally:
            line.running -= 1

    def _take_group(self, line: Line) -> list[Ask]:
        self._lines.fit(line)
        return line.take_group(self._named, self._conflicts)

    def _let_past(self, group_id: int) -> None:
        """A single group's statement has met a slow disk or a lock, or may: others need not wait for it."""
        self._single.slow.add(group_id)
        self._start_worker(self._single)

    async def _answer_group(self, group: list[Ask]) -> None:
        """Answers or fails every ask of a group."""
        try:
            await self._commit(group)
            self._failed = False
            self._conflicts.acquit(_binding(group))
        except store.Conflict:
            await self._answer_apart(group)
        except RegistryError as error:
            self._failed = not isinstance(error, NotComplete)
            _fail(group, error)

    async def _answer_apart(self, group: list[Ask]) -> None:
        """After a conflict: what binds nothing, and what binds, a messenger at a time. One that waits or fails does so alone."""
        self._conflicts.note(_binding(group))
        parts: dict[MessengerId | None, list[Ask]] = {}
        for ask in group:
            parts.setdefault(ask.messenger_id if ask.names else None, []).append(ask)

        async def answer(part: list[Ask]) -> None:
            async with self._places:
                try:
                    await self._commit(part, again=True)
                    self._conflicts.acquit(_binding(part))
                except RegistryError as error:
                    _fail(part, error)

        for error in await asyncio.gather(*map(answer, parts.values()), return_exceptions=True):
            if error is not None:  # a fault of ours
                raise error

    async def _commit(self, group: list[Ask], *, again: bool = False) -> None:
        """Asks for a group by one statement and hands out the answers. Raises: store.Conflict, Unavailable."""
        key, sent = self.digest_key, time.monotonic()
        group.sort(key=attrgetter("messenger_id"))
        runs = store.Runs([], [], [])
        first, oldest = 0, 0.0
        for ask in group:
            if not runs.messenger_ids or runs.messenger_ids[-1] != ask.messenger_id:
                runs.messenger_ids.append(ask.messenger_id)
                runs.query_counts.append(0)
                runs.waited_ms.append(int((sent - ask.received) * 1000))
                oldest = ask.received
            elif ask.received < oldest:  # it was asked before, and its contract was being changed
                oldest = ask.received
                runs.waited_ms[-1] = int((sent - oldest) * 1000)
            runs.query_counts[-1] += ask.count
            ask.first = first
            first += ask.count
        msisdns, codes = _gathered(group)
        result = await store.answer(self._db, runs, msisdns, codes, msisdn_digests(key.key, msisdns), key.key_id, again=again)
        page_id = str(result.page_id)
        for ask in group:
            places = slice(ask.first, ask.first + ask.count)
            ask.page_id = page_id
            ask.received_at = result.answered_at - timedelta(seconds=sent - ask.received)
            ask.present = result.bits[places]
            ask.bound = None
            if isinstance(result, store.AnsweredAndBound):
                told = zip(result.outcomes[places], result.bound_at[places], result.generations[places], strict=True)
                ask.bound = [None if outcome is None else Bound(Outcome(outcome), at, generation) for outcome, at, generation in told]
            if not ask.done.done():
                ask.done.set_result(result.answered_at)


def _gathered(group: list[Ask]) -> tuple[Sequence[Msisdn], Sequence[IdentificationCode | None] | None]:
    """The numbers and the codes of a group; None where no query has a code."""
    if len(group) == 1:
        return group[0].queries.msisdns, group[0].queries.codes
    msisdns = list(chain.from_iterable([ask.queries.msisdns for ask in group]))
    if all(ask.queries.codes is None for ask in group):
        return msisdns, None
    return msisdns, list(chain.from_iterable([ask.queries.codes or repeat(None, ask.count) for ask in group]))


def _binding(group: list[Ask]) -> set[MessengerId]:
    """Whose asks of a group bind."""
    return {ask.messenger_id for ask in group if ask.names}


def _fail(group: list[Ask], error: Exception) -> None:
    for ask in group:
        if not ask.done.done():
            ask.done.set_exception(error)
