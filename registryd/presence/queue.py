"""The queues of queries that wait for a statement, and the turns of messengers.

Messengers take turns, so that none holds up another. Per messenger it is first in, first out: an ask that would bind a number or code
which a running statement may bind is skipped, and so is every later ask for that number or code. What cannot be answered soon is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Container, Generator, Sequence
from datetime import datetime
from math import ceil, inf

from registryd.domain.binding import Bound
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.domain.presence import PresenceQueries

WAIT_MAX_S = 10.0
"""A query that would wait longer for a statement is refused: its caller has given up by then."""

Named = set[tuple[MessengerId, Msisdn | IdentificationCode]]
"""Numbers and codes that a messenger binds."""


class Ask:
    """The queries of one caller that are answered together. Attributes declared without a value are set when `done` is."""

    __slots__ = (
        "asked_at",
        "bound",
        "count",
        "done",
        "first",
        "messenger_id",
        "names",
        "page_id",
        "present",
        "queries",
        "received",
        "received_at",
    )

    page_id: str
    first: int
    """The position of its first query on the page."""
    present: str
    """A `0` or `1` for each query."""
    bound: list[Bound | None] | None
    received_at: datetime
    """When it was received, by the database's clock: the time of the answer less the wait."""

    def __init__(self, messenger_id: MessengerId, queries: PresenceQueries, received: float) -> None:
        self.messenger_id = messenger_id
        self.queries = queries
        self.count = len(queries.msisdns)
        self.names = set() if queries.codes is None else _names(messenger_id, queries)
        """The numbers and codes that it may bind."""
        self.received = received
        """time.monotonic() at its receipt."""
        self.asked_at = time.monotonic()
        self.done: asyncio.Future[datetime] = asyncio.get_running_loop().create_future()


class Queue:
    """The asks of one messenger in a line."""

    __slots__ = ("asks", "queries")

    def __init__(self) -> None:
        self.asks: deque[Ask] = deque()
        self.queries = 0

    def put(self, ask: Ask) -> None:
        self.asks.append(ask)
        self.queries += ask.count

    def put_back(self, ask: Ask) -> None:
        self.asks.appendleft(ask)
        self.queries += ask.count

    def take(self, named: Named) -> Generator[Ask, None, None]:
        """Takes out, one by one and in order, the asks that name nothing in `named` and nothing that a skipped ask before them names."""
        left: list[Ask] = []
        named_left: Named = set()
        waited_too_long = time.monotonic() - WAIT_MAX_S
        try:
            while self.asks:
                ask = self.asks.popleft()
                self.queries -= ask.count
                if ask.done.done():  # its caller has gone away
                    continue
                if ask.asked_at < waited_too_long:
                    ask.done.set_exception(Unavailable(1, "queue"))
                elif named.isdisjoint(ask.names) and named_left.isdisjoint(ask.names):
                    yield ask
                else:
                    left.append(ask)
                    named_left |= ask.names
        finally:
            for ask in reversed(left):
                self.put_back(ask)


class Line:
    """A queue for each messenger that waits, and a bound on the statements that work on them."""

    def __init__(self, name: str, in_flight: int, group_max: int, queue_max: int) -> None:
        self.name = name
        self.in_flight = in_flight
        self.group_max = group_max
        """How many queries a statement may hold. A batch's statement may hold less while single queries come: then this is set anew."""
        self.queue_max = queue_max
        self.waiting: dict[MessengerId, Queue] = {}
        """In the order of their turns."""
        self.running = 0
        self.slow: set[int] = set()
        """The ids of the running groups whose statements have met a slow disk or a lock, or may meet one."""
        self.alone: list[Ask] | None = None
        """The running group that shares no statement with others, because its messenger had conflicts. There is one at a time."""
        self.statement_s = 0.0
        """How long a statement took lately."""
        self.asked_at = -inf
        """When a query last came, by the monotonic clock."""

    def admit(self, messenger_id: MessengerId, asks: Sequence[Ask], at_once: int) -> None:
        """Queues a messenger's asks, all or none. Raises: Unavailable, where its share of the queue is full or the wait would be too long.

        A messenger with nothing in the queue is always admitted: neither the others' queues nor a slow statement in the past shut it out.
        `at_once`: how many statements may work the line now.
        """
        queue = self.waiting.get(messenger_id)
        if queue is None:
            queue = self.waiting[messenger_id] = Queue()
        else:
            asked = sum(ask.count for ask in asks)
            ahead = (queue.queries + asked) * len(self.waiting)
            wait_s = (1 + ahead // self.group_max) * self.statement_s / at_once
            if ahead > self.queue_max or wait_s > WAIT_MAX_S:
                raise Unavailable(max(1, ceil(wait_s)), "queue")
        for ask in asks:
            queue.put(ask)
            self.asked_at = ask.asked_at

    @property
    def length(self) -> int:
        """How many queries wait."""
        return sum(queue.queries for queue in self.waiting.values())

    def take_group(self, named: Named, apart: Container[MessengerId] = ()) -> list[Ask]:
        """Takes the asks of the next statement, one of each messenger in turn, up to the group's bound. What they name is added to `named`.

        What a messenger of `apart` binds shares no statement with others' asks, and waits while another such group runs.
        """
        group: list[Ask] = []
        room = self.group_max
        turns = deque((queue, queue.take(named)) for queue in self.waiting.values())
        alone: MessengerId | None = None
        while turns:
            queue, asks = turns.popleft()
            ask = next(asks, None)
            if ask is None:
                continue
            parts = bool(ask.names) and ask.messenger_id in apart
            fits = not group or (ask.count <= room and (ask.messenger_id == alone if alone is not None else not parts))
            if fits and not (parts and self.alone):
                alone = ask.messenger_id if parts and not group else alone
                named |= ask.names
                group.append(ask)
                room -= ask.count
                turns.append((queue, asks))
            else:
                queue.put_back(ask)
                asks.close()
        if alone is not None:
            self.alone = group
        served = {ask.messenger_id for ask in group}
        in_turn = sorted(self.waiting, key=served.__contains__)
        self.waiting = {messenger_id: self.waiting[messenger_id] for messenger_id in in_turn if self.waiting[messenger_id].asks}
        return group


def _names(messenger_id: MessengerId, queries: PresenceQueries) -> Named:
    return {(messenger_id, name) for query in queries if query.code is not None for name in (query.msisdn, query.code)}


def rounds_of(queries: PresenceQueries) -> list[Sequence[int]]:
    """The indexes of a batch by round: one that names a number or code again comes after the one that named it before. Mostly one round."""
    if queries.codes is None:
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
