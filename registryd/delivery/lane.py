"""Works one messenger's lane from its lease to its release. The state in domain/lane.py decides; this carries out.

It reads what is due in the order of ids, earliest deadline first. Each of its runners pushes a batch, waits for the answer and takes the
next. Outcomes are written in batches while pushes run. No row is locked and no transaction is open during an HTTP request.

Invariants: a receipt is recorded even if the lane was lost meanwhile, and kept while the database is away; a failure is recorded only under
the lane's token. No push begins that could outlive the lease. Times here are seconds of a steady clock; what is written are waits, to which
the database adds its own time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from registryd import observe
from registryd.delivery.push import PUSH_MAX_S, Pusher
from registryd.delivery.settling import Turns, write
from registryd.delivery.signing import Signer
from registryd.delivery.timing import LEASE_MARGIN_S, Timing
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.lane import SETTLE_MAX, LaneState, Lease
from registryd.domain.notification import Acknowledged, Failed, Outcome
from registryd.domain.pace import Pace, Throughput
from registryd.domain.push_queue import Batch
from registryd.domain.reading import LOOK_S
from registryd.domain.schedule import next_probe
from registryd.exposition import PushMetrics
from registryd.store import lanes, notifications
from registryd.store.lanes import LEASE, Progress
from registryd.store.pool import Database
from registryd.store.secretbox import WrongSecretsKey

SECRETS_KEPT_S = 5.0
SETTLE_RETRY_S = 0.5
LINGER_S = 0.01
"""While pushes run, receipts gather this long for each lane at work, so that commits are few however many lanes share the database."""
LINGER_MAX_S = 0.5


class Lane:
    """Works one lease. `clock()` gives a steady clock's seconds, `jitter()` 0 to 1; `stop()` ends it after what is in flight."""

    def __init__(
        self,
        db: Database,
        pusher: Pusher,
        lease: Lease,
        pace: Pace,
        throughput: Throughput,
        turns: Turns,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        timing: Timing,
    ) -> None:
        self._db = db
        self._pusher = pusher
        self._channel = pusher.channel(lease.name, lease.endpoint_url)
        self._lease = lease
        self._throughput = throughput
        self._turns = turns
        self._clock = clock
        self._jitter = jitter
        self._timing = timing
        self._signer = Signer([])
        self._signer_read = self._renewed = clock()
        self._state = LaneState(lease, pace, throughput, jitter, self._renewed)
        self._metrics = PushMetrics(lease.name)
        self._repeats = observe.repeats()
        self._stop_by: float | None = None
        self._held = True
        self._ending = False
        self._succeeded = False
        self._fault: BaseException | None = None
        self._runners: set[asyncio.Task[None]] = set()
        self._stir = asyncio.Event()
        """A push has ended, there is something to look back for, or the lane is to stop."""
        self._turn_ends = self._renewed + timing.turn_s * (0.5 + jitter())

    @property
    def messenger_id(self) -> MessengerId:
        return self._lease.messenger_id

    def stop(self) -> None:
        self._stop_by = self._stop_by or self._clock() + self._timing.stop_patience_s
        self._stir.set()

    def hold(self) -> None:
        """Begins no further push: a person holds this messenger's notifications. What is in flight is settled."""
        self._ending = True
        self._stir.set()

    def wake(self, *, below_mark: bool) -> None:
        """Something new is owed: it is read at once. `below_mark`: it lies below the lane's mark."""
        self._state.reading.look_on()
        if below_mark:
            self._state.reading.look_back_by(self._clock())
        self._stir.set()

    async def run(self) -> None:
        """Works until nothing is due, the endpoint fails, the turn is over, the lease is lost or `stop` is called. Raises: Unavailable."""
        try:
            with suppress(Unavailable):  # nothing can be read, but what is in flight is still waited for and settled
                await self._work()
            await self._finish()
        finally:
            self._state.end()
            for runner in self._runners:
                runner.cancel()
        if self._held:
            await lanes.release(self._db, self._lease, self._progress(), succeeded=self._succeeded)

    def _progress(self) -> Progress:
        reading = self._state.reading
        return Progress(reading.low_water, timedelta(seconds=reading.look_back_in_s(self._clock())))

    async def _work(self) -> None:
        await self._read_signer()
        while self._may_push():
            # Both at once, so that neither a long page nor a slow commit leaves the runners without work.
            read, settled = await asyncio.gather(self._read(), self._settle(), return_exceptions=True)
            for ended in (read, settled, self._fault):
                if isinstance(ended, BaseException):
                    raise ended
            self._pump()
            if self._state.idle and not read:
                return
            await self._wait(settled=bool(settled))
            await self._keep_lease()

    async def _finish(self) -> None:
        """Waits for pushes in flight, and then for the database: a receipt that is not recorded means a notification sent twice."""
        self._ending = True
        settled = True
        while self._state.in_flight:
            await self._wait(settled=settled)
            settled = await self._settle()
            with suppress(Unavailable):
                await self._keep_lease()
        settled = False
        while not settled or self._state.unwritten:
            settled = await self._settle()
            if not settled:
                if self._stop_by is not None and self._clock() > self._stop_by:
                    raise Unavailable
                await asyncio.sleep(SETTLE_RETRY_S)

    async def _wait(self, *, settled: bool) -> None:
        """Waits until a push has ended, and a little longer while others run; or until the pace allows the next push. Not at all where
        the last outcomes were written and there are as many again as one transaction takes."""
        if settled and self._state.unwritten >= SETTLE_MAX:
            return
        seconds = LOOK_S if settled else SETTLE_RETRY_S
        seconds = min(seconds, max(self._state.waits_s(), LINGER_S)) if self._state.waits_s() else seconds
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stir.wait(), seconds)
        if self._state.in_flight and not self._state.hungry and self._stop_by is None:
            await asyncio.sleep(min(LINGER_S * self._throughput.lanes, LINGER_MAX_S, seconds))
        self._stir.clear()

    def _may_push(self) -> bool:
        now = self._clock()
        lease_safe_until = self._renewed + LEASE.total_seconds() - PUSH_MAX_S - LEASE_MARGIN_S
        is_open = self._state.gate is None and not self._state.closed and not self._ending
        return self._held and is_open and self._stop_by is None and now < min(self._turn_ends, lease_safe_until)

    async def _read(self) -> bool:
        """Reads more rows if the state wants them. Returns whether there were any. Raises: Unavailable."""
        began_s = self._clock()
        if self._state.wants_canary:
            rows = await notifications.find_canary(self._db, self._lease.messenger_id)
            self._state.offer_canary(rows, began_s)
        elif (read := self._state.reads(began_s)) is not None:
            try:
                rows = await notifications.read_due(self._db, self._lease.messenger_id, *read)
            except Unavailable:
                self._state.reading.give_up(self._clock(), self._clock() - began_s)
                raise
            self._state.offer(rows, self._clock(), self._clock() - began_s)
        else:
            return False
        self._pump()
        return bool(rows)

    def _pump(self) -> None:
        """Starts a runner for each further push that may begin now."""
        while (batch := self._begin()) is not None:
            runner = asyncio.create_task(self._run(batch))
            self._runners.add(runner)
            runner.add_done_callback(self._ran)

    def _ran(self, runner: asyncio.Task[None]) -> None:
        self._runners.discard(runner)
        if not runner.cancelled():
            self._fault = self._fault or runner.exception()
        self._stir.set()

    def _begin(self) -> Batch | None:
        return self._state.begin(self._clock()) if self._state.ready and self._may_push() else None

    async def _run(self, batch: Batch | None) -> None:
        """Pushes a batch, and then whatever is next."""
        while batch is not None:
            began_s = self._clock()
            try:
                outcome: Outcome = await self._channel.push(self._signer, batch, with_phone_number=self._lease.includes_phone_number)
            except Exception as error:
                # A fault of ours, with this content: it must not take the lane's other receipts with it.
                kind = type(error).__name__
                self._repeats.tell("background_failed", "error", kind=kind, facts={"where": "push", "kind": kind})
                outcome = Failed("the registry failed to push")
            self._note(batch, outcome, began_s)
            batch = self._begin()
            if self._state.ready:  # the width has grown
                self._pump()

    def _note(self, batch: Batch, outcome: Outcome, began_s: float) -> None:
        now_s = self._clock()
        attempt = self._state.note(batch, outcome, began_s, now_s)
        self._metrics.count(attempt.outcome, attempt.latency_ms / 1000)
        late = 0
        if isinstance(outcome, Acknowledged):
            late = sum(self._state.slack(n, now_s) < timedelta(0) and not n.replayed for n in batch)
        if late:
            observe.notifications_late.labels(self._lease.name).inc(late)
            facts = {"messenger": self._lease.name, "notifications": late}
            self._repeats.tell("notification_overdue", "error", kind="notification_overdue", facts=facts)
        elif attempt.http_status == 410:
            observe.event("endpoint_gone", "error", messenger=self._lease.name)
        self._stir.set()

    async def _settle(self) -> bool:
        """Writes outcomes of pushes, a lane with a backlog when it is its turn. Returns False while the database is away; they are then
        kept for the next call."""
        if not self._state.is_bulky:
            return await self._settle_next()
        async with self._turns.turn():
            return await self._settle_next()

    async def _settle_next(self) -> bool:
        settlement = self._state.settle()
        if settlement is None:
            return True
        try:
            settled = await write(self._db, self._lease, settlement, self._clock)
        except Unavailable:
            self._state.unsettle(settlement)
            return False
        except BaseException:
            self._state.unsettle(settlement)
            raise
        self._state.settled(settlement, self._clock())
        self._succeeded = self._succeeded or bool(settlement.delivered)
        observe.notifications_delivered.labels(self._lease.name, "push").inc(settled)
        if settlement.deferred:
            # Under a lost token nothing was deferred, and the same rows would be read again at once: look before going on.
            self._renewed = min(self._renewed, self._clock() - self._timing.renew_s)
        if settlement.reopens:
            observe.event("lane_opened", messenger=self._lease.name)
        if settlement.gate is not None:
            observe.lane_gates.labels(self._lease.name).inc()
            error, failures = settlement.gate.error, self._state.failures + 1
            observe.event("lane_gated", "warning", messenger=self._lease.name, error=error, failures=failures)
        return True

    async def _keep_lease(self) -> None:
        now = self._clock()
        if self._held and now - self._renewed >= self._timing.renew_s:
            self._held = await lanes.renew(self._db, self._lease, self._progress())
            self._renewed = now
            if not self._held:
                observe.event("lane_lost", "warning", messenger=self._lease.name)
        if now - self._signer_read > SECRETS_KEPT_S:
            await self._read_signer()

    async def _read_signer(self) -> None:
        """Reads the live secrets, which all sign. A rotated one stops within seconds. Raises: Unavailable."""
        try:
            self._signer = await self._pusher.signer(self._lease.messenger_id)
        except (WrongSecretsKey, ValueError) as error:
            observe.event("secrets_unreadable", "error", messenger=self._lease.name)
            wait = next_probe(self._state.failures + 1, self._jitter())
            cannot = "decrypted" if isinstance(error, WrongSecretsKey) else "used"
            self._state.close(f"signing secrets cannot be {cannot}", self._clock() + wait.total_seconds())
        self._signer_read = self._clock()
