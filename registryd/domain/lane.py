"""Decides what a lane pushes next, what an answer means, and what is written. It is pure: delivery/lane.py brings rows, answers and the
time, and carries out the decisions. A test runs thirty hours of it in seconds.

Invariants:
* No notification is in two pushes at once, however often its row is read.
* A failing endpoint closes the lane and comes back through one canary and a ramp.
* Notifications that are refused, or that break the endpoint, cannot hold up the others, however many they are: what was never tried goes
  first in seven pushes of eight, what failed a few times goes before what failed often, and a canary is one that was never tried.
* What failed is tried again in half the batch, and what is refused is split, so that the bad notification is soon alone.
* An endpoint that refuses one new notification after the other is a failing one, once it has refused the last ones too: one that takes
  some is never closed for what it refuses, as long as one of them is at hand.
* Nothing is dropped: what was taken is settled or deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import NamedTuple, assert_never
from uuid import UUID

from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import Acknowledged, Attempt, Deferral, Failed, Notification, Outcome, Rejected
from registryd.domain.pace import Pace, Throughput
from registryd.domain.push_queue import Batch, PushQueue
from registryd.domain.reading import LOOK_S, PAGE, Read, Reading
from registryd.domain.schedule import PROBE_MAX, next_attempt, next_attempt_of_refused, next_probe, presses

NO_CANARY_S = 5.0
DOUBT_AFTER = 5
"""So many notifications refused for the first time, with no receipt between them, raise the doubt whether the endpoint is broken."""
ASKED_MAX = 5
"""So many of those that are pushed to settle that doubt, refused as well, mean that it is."""
REFUSED_MAX = 10
"""So many refused mean the same where there is nothing left to settle it with."""
SETTLE_MAX = 1_000
"""Rows of each kind that one transaction writes. What it flushes at its commit, queries wait for."""


class Lease(NamedTuple):
    """A lane that this process holds, with what it needs of its messenger."""

    messenger_id: MessengerId
    token: int
    failures: int
    low_water: UUID
    look_back_in: timedelta
    leased_at: datetime
    """By the database's clock."""
    name: str
    endpoint_url: str
    batch_max: int
    includes_phone_number: bool


class Gate(NamedTuple):
    """Why the lane closes, and until when, by the steady clock."""

    error: str
    until_s: float


class Settlement(NamedTuple):
    """The outcomes of pushes, to be written in one transaction."""

    delivered: list[UUID]
    deferred: list[Deferral]
    attempts: list[Attempt]
    gate: Gate | None
    reopens: bool


class LaneState:
    """One lease of one lane. `jitter()` gives 0 to 1; `now_s` is a steady clock's seconds."""

    def __init__(self, lease: Lease, pace: Pace, throughput: Throughput, jitter: Callable[[], float], now_s: float) -> None:
        self._zero = lease.leased_at - timedelta(seconds=now_s)
        """The database's time at the steady clock's zero."""
        self._pace = pace
        self._throughput = throughput
        self._jitter = jitter
        self.reading = Reading(lease.low_water, lease.look_back_in.total_seconds(), now_s)
        self.failures = lease.failures
        self.in_flight = 0
        self.gate: Gate | None = None
        self.closed = False
        self._queue = PushQueue(lease.batch_max)
        self._has_canary = True
        """False once a read for a canary has found none."""
        self._waits_s = 0.0
        self._refused = 0
        """Notifications refused for the first time since the last receipt."""
        self._refused_in_doubt = 0
        """Of those pushed from the end of the queue, one after the other."""
        self._asked: UUID | None = None
        """That of them which is under way."""
        self._delivered: list[UUID] = []
        self._deferred: list[Deferral] = []
        self._attempts: list[Attempt] = []
        if self.failures:
            pace.close()

    # -- Reading

    @property
    def wants_canary(self) -> bool:
        """The endpoint failed: one notification is to be read, and offered by `offer_canary`."""
        return bool(self.failures and self._has_canary and not (self.reading.taken or self.gate or self.closed))

    def offer_canary(self, rows: Sequence[Notification], now_s: float) -> None:
        """Takes the notification to probe with. None means that nothing is due: the lane is looked at again in some seconds."""
        self._has_canary = bool(rows)
        if not rows:
            self.reading.put_off(now_s + NO_CANARY_S)
        self.reading.take(row.notification_id for row in self._queue.put(rows))

    def reads(self, now_s: float) -> Read | None:
        """What to read next; None: there is enough, or nothing more. What is read must be offered."""
        return None if self.failures or self.gate or self.closed else self.reading.next(now_s, hungry=self.hungry)

    @property
    def hungry(self) -> bool:
        """Whether pushes may soon run out of notifications though there are more to read."""
        soon = max(PAGE, min(4 * PAGE, self._pace.per_s / 2))
        return self._queue.new < soon and not self.reading.exhausted and not self.failures

    def offer(self, rows: Sequence[Notification], now_s: float, took_s: float) -> None:
        """The rows that were read as `reads` said, all there are up to its limit."""
        fresh = self.reading.offer(rows, now_s, took_s)
        if len(rows) >= PAGE:
            self._throughput.bulky.add(self)
        elif not self._queue:
            self._throughput.bulky.discard(self)
        queued = self._queue.put(fresh)
        self.reading.take(row.notification_id for row in queued)
        if len(queued) < len(fresh):
            self.reading.look_back_by(now_s + LOOK_S)

    # -- Pushing

    @property
    def ready(self) -> bool:
        """Whether another push may begin, but for its pace."""
        return bool(self._queue) and self.in_flight < self._pace.width and not (self._asked or self.gate or self.closed)

    def begin(self, now_s: float) -> Batch | None:
        """The next batch to push now, if the endpoint and its pace allow one."""
        if not self.ready:
            return None
        batch = self._queue.first
        bound, paced = inf, float(len(batch))
        if self.is_bulky:
            is_pressing = presses(self._now(now_s), batch[0].terminated_at, batch[0].deadline_at)
            bound = self._throughput.share_per_s(presses=is_pressing)
            # Uneven gaps with the right mean: otherwise lanes that began together would push together, and queries would wait for all of
            # them.
            paced *= 0.5 + self._jitter()
        self._waits_s = self._pace.wait_s(now_s, bound)
        if self._waits_s > 0:
            return None
        self._queue.pop()
        if self._queue.from_end:
            self._asked = batch[0].notification_id
        self.in_flight += 1
        self._pace.begin(now_s, paced, bound)
        return batch

    def waits_s(self) -> float:
        """How long the pace keeps the next batch back."""
        return max(0.0, self._waits_s) if self._queue else 0.0

    def note(self, batch: Batch, outcome: Outcome, began_s: float, now_s: float) -> Attempt:
        """Takes in the outcome of a push. Returns the attempt as it is recorded."""
        self.in_flight -= 1
        latency_ms = int((now_s - began_s) * 1000)
        is_asked = batch[0].notification_id == self._asked
        if is_asked:
            self._asked = None
        match outcome:
            case Acknowledged(status):
                attempt = Attempt(self._now(began_s), len(batch), "acknowledged", status, latency_ms, None)
                self._delivered += [n.notification_id for n in batch]
                self._trust()
                self._pace.receive(began_s, now_s, len(batch))
            case Rejected(status):
                attempt = Attempt(self._now(began_s), len(batch), "rejected", status, latency_ms, f"status {status}")
                if len(batch) > 1:
                    self._queue.split(batch)
                else:
                    self._refuse(batch[0], f"status {status}", began_s, now_s, is_asked=is_asked)
            case Failed(error, status):
                attempt = Attempt(self._now(began_s), len(batch), "failed", status, latency_ms, error)
                self._fail(batch, outcome, began_s, now_s)
            case _:
                assert_never(outcome)
        self._attempts.append(attempt)
        return attempt

    def slack(self, notification: Notification, now_s: float) -> timedelta:
        """What is left to its deadline by the database's clock; negative: it is overdue."""
        return notification.deadline_at - self._now(now_s)

    def _refuse(self, refused: Notification, error: str, began_s: float, now_s: float, *, is_asked: bool) -> None:
        if not refused.attempts:
            self._refused += 1
            self._refused_in_doubt += is_asked
            self._queue.from_end = self._refused >= DOUBT_AFTER
        is_settled = self._refused_in_doubt >= ASKED_MAX or not (self._queue.new or self.in_flight)
        if self.failures or (is_settled and self._refused >= REFUSED_MAX):
            self.close(error, began_s + next_probe(self.failures + 1, self._jitter()).total_seconds())
        wait = next_attempt_of_refused(self.slack(refused, now_s), refused.attempts + 1, self._jitter())
        self._defer(refused, now_s + wait.total_seconds(), error)

    def _trust(self) -> None:
        """A receipt: the endpoint works, whatever else it refuses."""
        self._refused = self._refused_in_doubt = 0
        self._queue.from_end = False

    def _fail(self, batch: Batch, failed: Failed, began_s: float, now_s: float) -> None:
        status, asked = failed.http_status, failed.retry_after
        too_fast = status is not None and (status == 429 or status >= 500) and not self.failures and not asked
        latest_s = now_s + PROBE_MAX.total_seconds()
        if not (too_fast and self._pace.overload(began_s, now_s, by_rate=status == 429)):
            if status == 410:
                asked = PROBE_MAX  # 410: the endpoint says that it is gone; go on slowly
            self.close(failed.error, began_s + next_probe(self.failures + 1, self._jitter(), asked).total_seconds())
            assert self.gate is not None
            # Due by the next probe; otherwise there might be nothing to probe with.
            latest_s = self.gate.until_s if self.failures else latest_s
        for n in batch:
            wait = next_attempt(self.slack(n, now_s), n.attempts + 1, self._jitter(), asked)
            self._defer(n, min(now_s + wait.total_seconds(), latest_s), failed.error)

    def _defer(self, notification: Notification, due_s: float, error: str) -> None:
        self._deferred.append(Deferral(notification.notification_id, due_s, error))
        self.reading.look_back_by(due_s)

    def close(self, error: str, until_s: float) -> None:
        """The endpoint cannot be pushed to: the lane closes once what is in flight has ended."""
        if self.gate is None:
            self.gate = Gate(error, until_s)
            self._pace.close()

    def _now(self, now_s: float) -> datetime:
        """The database's time."""
        return self._zero + timedelta(seconds=now_s)

    # -- Settling

    def settle(self) -> Settlement | None:
        """What to write next, up to `SETTLE_MAX` of each kind; None: nothing. The caller must call `settled` or `unsettle` afterwards."""
        rest = self._delivered[SETTLE_MAX:], self._deferred[SETTLE_MAX:], self._attempts[SETTLE_MAX:]
        gate = None if self.in_flight or self.closed or any(rest) else self.gate
        if not self.unwritten and gate is None:
            return None
        first = self._delivered[:SETTLE_MAX], self._deferred[:SETTLE_MAX], self._attempts[:SETTLE_MAX]
        self._delivered, self._deferred, self._attempts = rest
        return Settlement(*first, gate, reopens=bool(first[0] and self.failures and not self.gate))

    @property
    def unwritten(self) -> int:
        """How many outcomes of one kind are still to be written."""
        return max(len(self._delivered), len(self._deferred), len(self._attempts))

    @property
    def is_bulky(self) -> bool:
        """Whether the lane has a backlog."""
        return self in self._throughput.bulky

    def unsettle(self, settlement: Settlement) -> None:
        """Keeps a settlement that could not be written for the next time, together with what came since."""
        self._delivered = settlement.delivered + self._delivered
        self._deferred = settlement.deferred + self._deferred
        self._attempts = settlement.attempts + self._attempts

    def settled(self, settlement: Settlement, now_s: float) -> None:
        """Forgets a settlement that was written."""
        self.reading.settle([*settlement.delivered, *(d.notification_id for d in settlement.deferred)])
        if settlement.reopens:
            self.failures = 0
            self.reading.look_back_by(now_s)
        if settlement.gate is not None:
            self.gate, self.closed = None, True

    def end(self) -> None:
        """The lease is over: this lane no longer takes a share of the throughput."""
        self._throughput.bulky.discard(self)

    @property
    def idle(self) -> bool:
        """Nothing is left to do in this lease."""
        return not (self.in_flight or self.unwritten or self.gate or (self._queue and not self.closed))
