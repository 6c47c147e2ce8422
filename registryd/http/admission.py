"""Admission: the one place that decides whether a request reaches its handler, and that counts refusals by caller and reason.

In this order: the key and the client certificate (auth.py, whose copy is at most 5 s old), what the caller may do (suspension, scope),
the route's budget, the daily quota and an alarm's trickle, the caller's share of the small pool. Each refusal is counted once, in
`registryd_requests_refused`; 404, 409 and 422 are answers, not refusals, and are not counted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from math import ceil
from typing import Generic

from aiohttp.web import BaseRequest

from registryd import observe
from registryd.domain.errors import Reason, TooManyCalls
from registryd.http import limits
from registryd.http.auth import Keys
from registryd.http.reply import NO_HEADERS
from registryd.http.routes import Caller, Route
from registryd.presence.bucket import Limit, TokenBucket
from registryd.presence.quota import Reservation

POOL_SHARE = 2
"""How many statements one caller may run in the small pool at once. The pool has four connections or more, so no caller can take all."""
POOL_REST = 3
POOL_REST_MAX_S = 0.05
"""After a call of the small pool the caller's place rests for so many times what the call took. Calls without a pause are then half of
a processor's work, and not all that there is.
"""
POOL_WAIT_S = 1.0
assert POOL_WAIT_S > POOL_REST_MAX_S
REFUSALS_PER_MINUTE = 600
"""How many refusals of one caller a minute are answered at once."""
HELD_S = 4.0
HELD_SPREAD_S = 4.0
"""Further ones are answered so much later, and not all at one moment: a client that asks again at once then costs the process little."""
NOBODY = "-"
"""The name of all who have shown no valid key. No messenger can have it."""


class Standing:
    """What one caller is doing in this process."""

    __slots__ = ("calls", "pool", "refusals", "running")

    def __init__(self) -> None:
        self.running: defaultdict[str, int] = defaultdict(int)
        self.calls: defaultdict[str, TokenBucket] = defaultdict(TokenBucket)
        self.refusals = TokenBucket()
        self.pool = asyncio.Semaphore(POOL_SHARE)


class Admission(Generic[Caller]):
    """The admission of one API. `may(caller, route)` raises where the caller must not; `reserve` holds numbers of its quota."""

    def __init__(
        self,
        keys: Keys[Caller],
        may: Callable[[Caller, Route[Caller]], None],
        reserve: Callable[[Caller, int], Reservation] | None = None,
        label: str = "",
        note: Callable[[Caller, Reason], None] | None = None,
        limits_of: Callable[[Caller], list[Limit]] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._keys = keys
        self._may = may
        self._reserve = reserve
        self._label = label
        """Stands before a caller's name in the metric."""
        self._note = note
        """Counts a caller's refusals for the database."""
        self._limits_of = limits_of
        """What is left of a caller's quota. None: the API tells no limits."""
        self._jitter = jitter
        self._standings: defaultdict[str, Standing] = defaultdict(Standing)

    def identify(self, request: BaseRequest) -> Caller:
        """Raises: Unauthenticated, Unavailable."""
        return self._keys.authenticate(request)

    def enter(self, caller: Caller, route: Route[Caller]) -> Standing:
        """Takes a place in the route's budget until `leave` gives it back. Raises: PermissionDenied, OutOfScope, TooManyCalls."""
        self._may(caller, route)
        standing = self._standings[caller.name]
        budget = route.budget
        if standing.running[route.name] >= budget.at_once:
            raise TooManyCalls(1)
        if budget.per_minute is not None:
            wait_s = standing.calls[route.name].take(time.monotonic(), 1, budget.per_minute)
            if wait_s:
                raise TooManyCalls(ceil(wait_s))
        standing.running[route.name] += 1
        return standing

    def leave(self, standing: Standing, route: Route[Caller]) -> None:
        standing.running[route.name] -= 1

    def reserve(self, caller: Caller, numbers: int) -> Reservation:
        """Holds numbers of the caller's quota. Raises: QuotaExceeded, Throttled."""
        assert self._reserve is not None, "an API whose routes ask for numbers has a quota"
        return self._reserve(caller, numbers)

    def limits(self, caller: Caller, route: Route[Caller]) -> Mapping[str, str]:
        """The fields that tell what is left of the limits of a route, from what is in memory."""
        if self._limits_of is None:
            return NO_HEADERS
        known = self._limits_of(caller) if route.numbers is not None else []
        if route.budget.per_minute is not None:
            calls = self._standings[caller.name].calls[route.name]
            known.append(calls.limit(route.name.replace("_", "-"), time.monotonic(), route.budget.per_minute))
        return limits.fields(known)

    @asynccontextmanager
    async def pool_share(self, standing: Standing) -> AsyncIterator[None]:
        """Waits for the caller's share of the small pool. Raises: TooManyCalls."""
        try:
            async with asyncio.timeout(POOL_WAIT_S):
                await standing.pool.acquire()
        except TimeoutError:
            raise TooManyCalls(1) from None
        began = time.monotonic()
        try:
            yield
        finally:
            asyncio.get_running_loop().call_later(pool_rest_s(time.monotonic() - began), standing.pool.release)

    def key_id(self, request: BaseRequest) -> str | None:
        """The id of the key that was shown, where it is one of ours."""
        return self._keys.key_id(request)

    async def refuse(self, caller: Caller | None, reason: Reason, *, is_ours: bool = False) -> None:
        """Counts a refusal, and holds its answer where the caller has had many. `is_ours`: it is no fault of the caller's: never held."""
        name = NOBODY if caller is None else caller.name
        observe.child(observe.requests_refused, NOBODY if caller is None else self._label + name, reason).inc()
        if caller is not None and self._note is not None:
            self._note(caller, reason)
        if not is_ours and self._standings[name].refusals.take(time.monotonic(), 1, REFUSALS_PER_MINUTE):
            await asyncio.sleep(HELD_S + HELD_SPREAD_S * self._jitter())


def pool_rest_s(took_s: float) -> float:
    """How long a caller's place in the small pool rests after a call."""
    return min(POOL_REST * took_s, POOL_REST_MAX_S)
