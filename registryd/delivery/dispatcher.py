"""Leases lanes that have something due and works each in a task of its own, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from registryd import observe
from registryd.delivery.lane import Lane
from registryd.delivery.push import Pusher
from registryd.domain.errors import Unavailable
from registryd.store import lanes
from registryd.store.lanes import Lease
from registryd.store.pool import Database

POLL_S = 0.5
LANES_MAX = 256
STOP_TIMEOUT_S = 25.0


class Dispatcher:
    """`owner` names this worker in the lanes it leases."""

    def __init__(self, db: Database, pusher: Pusher, owner: str, concurrency: int, jitter: Callable[[], float] = random.random) -> None:
        self._db = db
        self._pusher = pusher
        self._owner = owner
        self._concurrency = concurrency
        self._jitter = jitter
        self._lanes: dict[asyncio.Task[None], Lane] = {}
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Something may be due: look now, not at the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Until `stop`."""
        while not self._stopping:
            self._wake.clear()
            with contextlib.suppress(Unavailable):
                working = [lane.messenger_id for lane in self._lanes.values()]
                for lease in await lanes.lease(self._db, self._owner, LANES_MAX - len(working), working):
                    self._start(lease)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)

    async def stop(self) -> None:
        """Takes no more lanes; finishes what is in flight, settles it and gives the lanes back."""
        self._stopping = True
        self.wake()
        for lane in self._lanes.values():
            lane.stop()
        if self._lanes:
            _, left = await asyncio.wait(list(self._lanes), timeout=STOP_TIMEOUT_S)
            for task in left:
                task.cancel()

    def _start(self, lease: Lease) -> None:
        lane = Lane(self._db, self._pusher, lease, self._concurrency, self._jitter)
        task = asyncio.create_task(lane.run(), name=f"lane {lease.name}")
        self._lanes[task] = lane
        observe.lanes_leased.set(len(self._lanes))
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._lanes[task]
        observe.lanes_leased.set(len(self._lanes))
        error = None if task.cancelled() else task.exception()
        # A lane that ended with the database away is leased again once its lease lapses.
        if error is not None and not isinstance(error, Unavailable):
            observe.event("background_failed", "error", where="lane", kind=type(error).__name__)
