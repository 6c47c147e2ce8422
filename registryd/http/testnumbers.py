"""Answers queries for test numbers (domain/testnumbers.py): before quota, guard, journal and figures, from their digits alone.

Where test numbers are on, `messenger.py` puts these routes in the place of those that ask for numbers. What asks for real numbers goes on
to the route's own handler. Where they are off nothing here runs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from math import ceil

from registryd.domain.binding import Bound, Outcome
from registryd.domain.errors import CodeInUse, NotPresent, TooManyCalls, Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.presence import Answer, PresenceQueries, PresenceQuery, by_columns
from registryd.domain.testnumbers import FIRST, ID_PREFIX, Kind, kind_of
from registryd.http import problems
from registryd.http.presence import PresenceHandlers
from registryd.http.reply import Reply
from registryd.http.routes import Call, Route
from registryd.presence.answerer import BatchAnswer
from registryd.presence.bucket import TokenBucket
from registryd.store.messengers import Messenger

HEADER = {"x-test-number": "true"}
"""Every answer that a test number has a part in carries it."""
NUMBERS_PER_MINUTE = 60_000
"""What one messenger may ask of one process: no quota holds these back, and a batch of them costs time of the others."""
SLOW_S = 3.0
GENERATION = 1


class NumbersForTests:
    """`in_demo`: with the kinds that exist in the demo alone."""

    def __init__(self, presence: PresenceHandlers, *, in_demo: bool) -> None:
        self._presence = presence
        self._in_demo = in_demo
        self._buckets: defaultdict[MessengerId, TokenBucket] = defaultdict(TokenBucket)

    def single(self, route: Route[Messenger], tell: Callable[[Answer], Reply]) -> Route[Messenger]:
        """A route that asks for one number; `tell` makes the reply of an answer, or raises NotPresent."""

        async def handle(call: Call[Messenger]) -> Reply:
            query: PresenceQuery = call.content
            if query.msisdn < FIRST:
                return await route.handle(call)
            self._take(call.caller, 1)
            try:
                await self._obey([query])
                reply = tell(self._answer(query, call.received))
            except (CodeInUse, NotPresent, Unavailable) as error:
                reply = problems.respond(error)
            return _marked(reply)

        return route._replace(handle=handle, numbers=_count_one)

    def batch(self, route: Route[Messenger]) -> Route[Messenger]:
        """A route that asks for many numbers. Those that are no test numbers are asked as a batch of their own."""

        async def handle(call: Call[Messenger]) -> Reply:
            queries: PresenceQueries = call.content
            if max(queries.msisdns) < FIRST:
                return await route.handle(call)
            self._take(call.caller, len(queries) - _count(queries))
            try:
                await self._obey(queries)
            except Unavailable as error:
                return _marked(problems.respond(error))
            return _marked(self._presence.tell_batch(await self._answer_batch(call, queries)))

        return route._replace(handle=handle, numbers=_count)

    def _take(self, messenger: Messenger, numbers: int) -> None:
        """Raises: TooManyCalls."""
        wait_s = self._buckets[messenger.messenger_id].take(time.monotonic(), numbers, NUMBERS_PER_MINUTE)
        if wait_s:
            raise TooManyCalls(ceil(wait_s))

    async def _obey(self, queries: Iterable[PresenceQuery]) -> None:
        """Waits, or fails, where one of the test numbers says so. Raises: Unavailable."""
        kinds = {self._kind(query) for query in queries if query.msisdn >= FIRST}
        if Kind.UNAVAILABLE in kinds:
            raise Unavailable(1)
        if Kind.SLOW in kinds:
            await asyncio.sleep(SLOW_S)

    def _answer(self, query: PresenceQuery, received: float) -> Answer:
        """Raises: CodeInUse."""
        present, bound = self._verdict(query)
        if bound is not None and bound.outcome is Outcome.CODE_IN_USE:
            raise CodeInUse
        return Answer(_new_id(), present, bound, *_times(received))

    async def _answer_batch(self, call: Call[Messenger], queries: PresenceQueries) -> BatchAnswer:
        """Raises: Unavailable, where the registry cannot answer for the others."""
        others = by_columns(query for query in queries if query.msisdn < FIRST)
        if len(others):
            answered = await self._presence.ask_batch(call, others)
        else:
            answered = BatchAnswer(_new_id(), "", None, *_times(call.received))
        of_others = iter(answered.answers)
        answers = [self._verdict(query) if query.msisdn >= FIRST else next(of_others) for query in queries]
        bound = [bound for _, bound in answers]
        present = "".join("1" if present else "0" for present, _ in answers)
        return answered._replace(present=present, bound=bound if any(bound) else None)

    def _verdict(self, query: PresenceQuery) -> tuple[bool, Bound | None]:
        """Whether a test number is present, and what becomes of the code. It is kept nowhere, so it is always new."""
        kind = self._kind(query)
        if kind is Kind.ABSENT:
            return False, None
        if query.code is None:
            return True, None
        if kind is Kind.CODE_IN_USE:
            return True, Bound(Outcome.CODE_IN_USE, None, None)
        return True, Bound(Outcome.RECORDED, datetime.now(UTC), GENERATION)

    def _kind(self, query: PresenceQuery) -> Kind:
        return kind_of(query.msisdn, in_demo=self._in_demo)


def _marked(reply: Reply) -> Reply:
    reply.headers = {**reply.headers, **HEADER}
    return reply


def _new_id() -> str:
    return f"{ID_PREFIX}{random.getrandbits(48):012x}"


def _times(received: float) -> tuple[datetime, datetime]:
    """Received and answered. They are told and kept nowhere, so this process's clock does."""
    now = datetime.now(UTC)
    return now - timedelta(seconds=time.monotonic() - received), now


def _count_one(query: PresenceQuery) -> int:
    return query.msisdn < FIRST


def _count(queries: PresenceQueries) -> int:
    """How many of them are no test numbers."""
    return len(queries) if max(queries.msisdns) < FIRST else sum(msisdn < FIRST for msisdn in queries.msisdns)
