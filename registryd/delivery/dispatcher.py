"""Leases lanes that have something due and works each in a task of its own, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

from registryd import observe
from registryd.delivery.lane import Lane
from registryd.delivery.push import Pusher
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.pace import Pace, Throughput
from registryd.store import lanes
from registryd.store.lanes import Lease
from registryd.store.pool import Database

POLL_S = 0.5
SLOW_LOOK_S = 0.05
REST_MAX_S = 5.0
"""A look for what is due may take seconds beside one statement that owes millions, and has not committed. After a slow one comes a rest of
ten times as long, up to this."""
ECHO_S = 5.0
"""How often the policy's bound and the number of workers are read."""
LANES_MAX = 256
REST_S = 30.0
"""How long a lane whose work failed unexpectedly is left alone."""
STOP_TIMEOUT_S = 25.0


class Dispatcher:
    """`owner` names this process in the lanes it leases."""

    def __init__(
        self,
        db: Database,
        pusher: Pusher,
        owner: str,
        concurrency: int,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._db = db
        self._pusher = pusher
        self._owner = owner
        self._concurrency = concurrency
        self._jitter = jitter
        self._lanes: dict[asyncio.Task[None], Lane] = {}
        self._paces: dict[MessengerId, Pace] = {}
        self._throughput = Throughput()
        self._echo_read = -ECHO_S
        self._resting: set[MessengerId] = set()
        self._leasing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._rests_until = 0.0
        self._stopping = False

    def wake(self) -> None:
        """Something may be due: look now, not at the next poll, unless looking has just been slow."""
        if time.monotonic() >= self._rests_until:
            self._wake.set()

    async def run(self) -> None:
        """Until `stop`, through every failure: nobody else would deliver."""
        while not self._stopping:
            self._wake.clear()
            try:
                await self._lease()
                await self._share()
            except Unavailable:
                pass
            except Exception as error:
                observe.event("background_failed", "error", where="dispatcher", kind=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(POLL_S, self._rests_until - time.monotonic()))

    async def stop(self) -> None:
        """Takes no more lanes; finishes what is in flight, settles it and gives the lanes back."""
        self._stopping = True
        self._wake.set()
        for lane in self._lanes.values():
            lane.stop()
        async with self._leasing:  # what a statement under way has leased is given back too
            left = set(self._lanes)
        if left:
            _, left = await asyncio.wait(left, timeout=STOP_TIMEOUT_S)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _lease(self) -> None:
        async with self._leasing:
            if self._stopping:
                return
            busy = [*(lane.messenger_id for lane in self._lanes.values()), *self._resting]
            async with self._db.connection() as connection:
                began = time.monotonic()
                try:
                    leases = await lanes.lease(connection, self._owner, LANES_MAX - len(self._lanes), busy)
                finally:
                    self._rest(time.monotonic() - began)
            for lease in leases:
                self._start(lease)

    def _rest(self, took_s: float) -> None:
        if took_s > SLOW_LOOK_S:
            self._rests_until = time.monotonic() + min(10 * took_s, REST_MAX_S)

    async def _share(self) -> None:
        """What bounds the lanes of all workers together."""
        if time.monotonic() - self._echo_read >= ECHO_S:
            self._throughput.echo_per_s = await lanes.echo_per_s(self._db)
            self._echo_read = time.monotonic()

    def _start(self, lease: Lease) -> None:
        pace = self._paces.setdefault(lease.messenger_id, Pace(self._concurrency))
        lane = Lane(self._db, self._pusher, lease, pace, self._throughput, self._jitter)
        if self._stopping:
            lane.stop()
        task = asyncio.create_task(lane.run(), name=f"lane {lease.name}")
        self._lanes[task] = lane
        self._count()
        task.add_done_callback(self._ended)

    def _count(self) -> None:
        self._throughput.lanes = len(self._lanes)
        observe.lanes_leased.set(len(self._lanes))

    def _ended(self, task: asyncio.Task[None]) -> None:
        lane = self._lanes.pop(task)
        self._count()
        error = None if task.cancelled() else task.exception()
        # A lane that ended with the database away is still ours, and leased anew once the database is back.
        if error is not None and not isinstance(error, Unavailable):
            observe.event("background_failed", "error", where="lane", kind=type(error).__name__)
            self._resting.add(lane.messenger_id)
            asyncio.get_running_loop().call_later(REST_S, self._resting.discard, lane.messenger_id)
