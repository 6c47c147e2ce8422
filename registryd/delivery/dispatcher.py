"""Leases lanes that have something due and works each in a task of its own, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence

from registryd import observe
from registryd.delivery.lane import Lane
from registryd.delivery.push import Pusher
from registryd.delivery.settling import Turns
from registryd.delivery.timing import TIMING, Timing
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.lane import Lease
from registryd.domain.pace import Pace, Throughput
from registryd.store import holds, lanes
from registryd.store.pool import Database

REST = 10
REST_MAX_S = 5.0
"""A look for what is due is followed by a rest of ten times its own time, up to this, so that looking never takes more than a tenth."""
ECHO_S = 5.0
"""How often the policy's bound and the number of processes that deliver are read."""
LANES_MAX = 256


def rest_s(look_took_s: float) -> float:
    """How long to rest after a look for due lanes that took `took_s`."""
    return min(REST * look_took_s, REST_MAX_S)


class Dispatcher:
    """`owner` names this process in the lanes it leases; `concurrency`: pushes at once to one messenger."""

    def __init__(
        self,
        db: Database,
        pusher: Pusher,
        owner: str,
        concurrency: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        timing: Timing = TIMING,
    ) -> None:
        self._db = db
        self._pusher = pusher
        self._owner = owner
        self._concurrency = concurrency
        self._clock = clock
        self._jitter = jitter
        self._timing = timing
        self._lanes: dict[asyncio.Task[None], Lane] = {}
        self._paces: dict[MessengerId, Pace] = {}
        self._throughput = Throughput()
        self._turns = Turns()
        self._echo_read = -ECHO_S
        self._resting: set[MessengerId] = set()
        self._repeats = observe.repeats()
        self._fault = ""
        """The kind of the exception that kept the last look from its lanes; empty where it found them."""
        self._to_look_back: set[MessengerId] = set()
        self._all_look_back = True
        self._leasing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._rest_s = 0.0
        self._stopped = asyncio.Event()

    def wake(self, messenger_id: MessengerId, *, below_mark: bool) -> None:
        """Something new is owed to a messenger: its lane reads on at once, or is looked for. `below_mark`: it has to look back."""
        if below_mark:
            self._to_look_back.add(messenger_id)
        for lane in self._lanes.values():
            if lane.messenger_id == messenger_id:
                lane.wake(below_mark=below_mark)
        self._wake.set()

    def look_back(self) -> None:
        """Something may be due in any lane, and below its mark."""
        self._all_look_back = True
        for lane in self._lanes.values():
            lane.wake(below_mark=True)
        self._wake.set()

    async def run(self) -> None:
        """Dispatches until `stop`, through every failure: nobody else would deliver."""
        braking = asyncio.create_task(self._brake(), name="brake")
        try:
            await self._dispatch()
        finally:
            braking.cancel()

    async def _brake(self) -> None:
        """Ends the lanes of those whose notifications a person holds. They are not leased again until the hold is released."""
        while True:
            try:
                for hold in await holds.in_force(self._db):
                    for lane in self._lanes.values():
                        if hold.messenger_id in (None, lane.messenger_id):
                            lane.hold()
            except Unavailable:
                pass
            except Exception as error:
                self._tell_fault("brake", error)
            await asyncio.sleep(self._timing.poll_s)

    async def _dispatch(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                await self._lease()
                await self._share()
                self._fault = ""
            except Unavailable:
                pass
            except Exception as error:
                self._fault = type(error).__name__
                self._tell_fault("dispatcher", error)
            await self._pause()

    async def look(self) -> str:
        """Why no lane can be worked now; empty where they can be."""
        return f"lanes cannot be leased ({self._fault}); see background_failed in the log" if self._fault else ""

    def _tell_fault(self, where: str, error: BaseException) -> None:
        kind = type(error).__name__
        self._repeats.tell("background_failed", "error", kind=(where, kind), facts={"where": where, "kind": kind})

    async def _pause(self) -> None:
        """Waits until it is time to look again. A wake cannot cut the rest after a slow look short."""
        for event, seconds in ((self._stopped, self._rest_s), (self._wake, self._timing.poll_s)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)

    async def stop(self) -> None:
        """Takes no more lanes; finishes what is in flight, settles it and gives the lanes back."""
        self._stopped.set()
        self._wake.set()
        for lane in self._lanes.values():
            lane.stop()
        async with self._leasing:  # what a statement under way has leased is given back too
            left = set(self._lanes)
        if left:
            _, left = await asyncio.wait(left, timeout=self._timing.stop_timeout_s)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _lease(self) -> None:
        async with self._leasing:
            if self._stopped.is_set():
                return
            busy = {*(lane.messenger_id for lane in self._lanes.values()), *self._resting}
            every_lane, these = self._all_look_back, self._to_look_back
            # A lane that is busy may have read for the last time: it is looked back for once more when it is free.
            self._all_look_back, self._to_look_back = False, set(busy) if every_lane else these & busy
            try:
                leases = await self._look([*busy], None if every_lane else [*(these - busy)])
            except BaseException:
                self._all_look_back |= every_lane
                self._to_look_back |= these
                raise
            for lease in leases:
                self._start(lease)

    async def _look(self, busy: Sequence[MessengerId], to_look_back: Sequence[MessengerId] | None) -> list[Lease]:
        async with self._db.connection() as connection:  # waiting for one says nothing of what a look costs
            began = self._clock()
            try:
                return await lanes.lease(connection, self._owner, LANES_MAX - len(self._lanes), busy, to_look_back)
            finally:
                self._rest_s = rest_s(self._clock() - began)

    async def _share(self) -> None:
        """Reads the bound on what all processes push together."""
        if self._clock() - self._echo_read >= ECHO_S:
            self._throughput.echo_per_s = await lanes.echo_per_s(self._db)
            self._echo_read = self._clock()

    def _start(self, lease: Lease) -> None:
        pace = self._paces.setdefault(lease.messenger_id, Pace(self._concurrency))
        lane = Lane(self._db, self._pusher, lease, pace, self._throughput, self._turns, self._clock, self._jitter, self._timing)
        if self._stopped.is_set():
            lane.stop()
        if self._all_look_back or lease.messenger_id in self._to_look_back:  # told while the lane was being leased
            lane.wake(below_mark=True)
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
        if error is None:
            self._wake.set()  # what came while it ended is found at once
        # A lane that ended because the database is away is still ours. It is leased anew once the database is back.
        if error is not None and not isinstance(error, Unavailable):
            self._tell_fault("lane", error)
            self._resting.add(lane.messenger_id)
            asyncio.get_running_loop().call_later(self._timing.rest_s, self._resting.discard, lane.messenger_id)
