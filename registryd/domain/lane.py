"""What a lane does next: which rows it reads, what it pushes, and what an answer means. Pure: the caller brings the rows, the answers and
the time, and carries out what is decided (delivery/lane.py), in the daemon as in thirty hours of a test's time.

Invariants: no notification is pushed by two pushes at once, however often its row is read. A failing endpoint closes the lane, and comes
back through one canary and a ramp; the canary is the notification that has failed least, and what failed comes back in half the batch, so
that one which breaks the endpoint cannot stand in the others' way. Content that is refused is split until the one item is found; an
endpoint that refuses everything is a failing one. Nothing is dropped: what was taken is settled or deferred.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import NamedTuple, assert_never
from uuid import UUID

from registryd.domain.notification import BEGINNING, Acknowledged, Attempt, Deferral, Failed, Key, Notification, Outcome, Rejected
from registryd.domain.pace import Pace, Throughput
from registryd.domain.schedule import PROBE_MAX, next_attempt, next_probe, presses

PAGE = 500
"""Rows read at once: what they cost to decode holds up everything else in the process."""
REFUSED_MAX = 10
"""Notifications refused one after the other, with no receipt between: it is the endpoint that is broken, and not their content."""
REFUSED_WITHIN = timedelta(minutes=5)
"""A refused notification is tried again."""
UNSETTLED_MAX = 10_000
HEAD = 100
REREAD_S = 5.0
"""In a long pass the first rows that no push has taken are looked at again after this: a commit that came late, or a backdated end, may
have an earlier deadline."""
LOOK_S = 0.5
"""A pass that has reached the end starts over after this, while pushes are still under way."""

Batch = Sequence[Notification]


class Read(NamedTuple):
    """Rows to read: so many after a key."""

    after: Key
    limit: int


class Gate(NamedTuple):
    """Why and until when the lane closes."""

    error: str
    until: datetime


class Settlement(NamedTuple):
    """What pushes came to, to be written in one transaction."""

    delivered: list[UUID]
    deferred: list[Deferral]
    attempts: list[Attempt]
    gate: Gate | None
    reopens: bool


class LaneState:
    """One lease of one lane. `jitter()` gives 0 to 1; `now_s` is a steady clock's seconds, `now` the time of day."""

    def __init__(self, batch_max: int, failures: int, pace: Pace, throughput: Throughput, jitter: Callable[[], float]) -> None:
        self._batch_max = batch_max
        self._pace = pace
        self._throughput = throughput
        self._jitter = jitter
        self.failures = failures
        self.in_flight = 0
        self.gate: Gate | None = None
        self.closed = False
        self._queue: deque[Batch] = deque()
        self._queued = 0
        self._taken: set[UUID] = set()
        self._read: Read | None = None
        """Under way."""
        self._gone: set[UUID] = set()
        """Settled while a read was under way: it may still bring them."""
        self._after = BEGINNING
        self._looked_s = -inf
        self._exhausted = False
        self._waits_s = 0.0
        self._refused = 0
        """Notifications since the last receipt."""
        self._delivered: list[UUID] = []
        self._deferred: list[Deferral] = []
        self._attempts: list[Attempt] = []
        if failures:
            pace.close()

    # -- Reading

    def reads(self, now_s: float) -> Read | None:
        """What to read next; None: there is enough, or nothing more. What is read must be offered."""
        self._read = self._reads(now_s)
        return self._read

    def _reads(self, now_s: float) -> Read | None:
        if self.gate or self.closed or len(self._taken) >= UNSETTLED_MAX:
            return None
        if self.failures:
            return Read(BEGINNING, PAGE) if not self.in_flight and not self._queue and not self._exhausted else None
        is_old = now_s - self._looked_s >= (LOOK_S if self._exhausted else REREAD_S)
        if self._after == BEGINNING:
            if self._exhausted and not is_old:
                return None
            self._looked_s = now_s
            return Read(BEGINNING, PAGE)
        if is_old:
            self._looked_s = now_s
            return Read(BEGINNING, len(self._taken) - self._queued + HEAD)
        return Read(self._after, PAGE) if self.hungry else None

    @property
    def hungry(self) -> bool:
        """The pushes may soon have nothing to take, though there is more to read."""
        soon = max(PAGE, min(4 * PAGE, self._pace.per_s / 2))
        return self._queued < soon and len(self._taken) < UNSETTLED_MAX and not self._exhausted and not self.failures

    def offer(self, rows: Sequence[Notification]) -> None:
        """The rows that were read as `reads` said, all there are up to its limit."""
        assert self._read is not None
        (after, limit), self._read = self._read, None
        fresh = [row for row in rows if row.notification_id not in self._taken and row.notification_id not in self._gone]
        self._gone.clear()
        if self.failures:
            if fresh:
                self._put([(min(fresh, key=lambda row: row.attempts),)])
            self._exhausted = not fresh
            return
        if after == BEGINNING == self._after:
            if len(rows) == limit:
                self._throughput.bulky.add(self)
            else:
                self._throughput.bulky.discard(self)
        if after == self._after:
            self._exhausted = len(rows) < limit
            self._after = BEGINNING if self._exhausted else (rows[-1].deadline_at, rows[-1].notification_id)
        else:
            fresh = [row for row in fresh if (row.deadline_at, row.notification_id) < self._after]
            if fresh and len(rows) == limit:
                self._looked_s = -inf  # there may be more of them
        self._put(_batches(fresh, self._batch_max))

    def _put(self, batches: Iterator[Batch] | list[Batch]) -> None:
        for batch in batches:
            self._taken.update(n.notification_id for n in batch)
            self._queued += len(batch)
            self._queue.append(batch)
        # A row read later may be due earlier.
        self._queue = deque(sorted(self._queue, key=lambda batch: batch[0].deadline_at))

    # -- Pushing

    @property
    def ready(self) -> bool:
        """Whether another push may begin, but for its pace."""
        return bool(self._queue) and self.in_flight < self._pace.width and self.gate is None and not self.closed

    def begin(self, now: datetime, now_s: float) -> Batch | None:
        """The next batch to push now, if the endpoint and its pace allow one."""
        if not self.ready:
            return None
        batch = self._queue[0]
        bound, paced = inf, float(len(batch))
        if self in self._throughput.bulky:
            bound = self._throughput.share_per_s(presses=presses(now, batch[0].terminated_at, batch[0].deadline_at))
            # Uneven gaps of the right mean: lanes that began together would else push together, and queries would wait for all of them.
            paced *= 0.5 + self._jitter()
        self._waits_s = self._pace.wait_s(now_s, bound)
        if self._waits_s > 0:
            return None
        self._queue.popleft()
        self._queued -= len(batch)
        self.in_flight += 1
        self._pace.begin(now_s, paced, bound)
        return batch

    def waits_s(self) -> float:
        """How long the pace keeps the next batch back."""
        return max(0.0, self._waits_s) if self._queue else 0.0

    def note(self, batch: Batch, outcome: Outcome, attempted_at: datetime, began_s: float, now: datetime, now_s: float) -> Attempt:
        """What a push came to; returns it as it is recorded."""
        self.in_flight -= 1
        latency_ms = int((now_s - began_s) * 1000)
        match outcome:
            case Acknowledged(status):
                attempt = Attempt(attempted_at, len(batch), "acknowledged", status, latency_ms, None)
                self._delivered += [n.notification_id for n in batch]
                self._refused = 0
                self._pace.receive(began_s, now_s, len(batch))
            case Rejected(status):
                attempt = Attempt(attempted_at, len(batch), "rejected", status, latency_ms, f"status {status}")
                if len(batch) > 1:
                    middle = len(batch) // 2
                    self._queue.extendleft((batch[middle:], batch[:middle]))
                    self._queued += len(batch)
                else:
                    self._refuse(batch, f"status {status}", attempted_at, now)
            case Failed(error, status):
                attempt = Attempt(attempted_at, len(batch), "failed", status, latency_ms, error)
                self._fail(batch, outcome, attempted_at, began_s, now, now_s)
            case _:
                assert_never(outcome)
        self._attempts.append(attempt)
        return attempt

    def _refuse(self, batch: Batch, error: str, attempted_at: datetime, now: datetime) -> None:
        self._refused += 1
        if self.failures or self._refused >= REFUSED_MAX:
            self.close(error, next_probe(attempted_at, self.failures + 1, self._jitter()))
        self._defer(batch, error, now, by=self.gate.until if self.gate and self.failures else now + REFUSED_WITHIN)

    def _fail(self, batch: Batch, failed: Failed, attempted_at: datetime, began_s: float, now: datetime, now_s: float) -> None:
        status, asked = failed.http_status, failed.retry_after
        too_fast = status is not None and (status == 429 or status >= 500) and not self.failures and not asked
        if too_fast and self._pace.overload(began_s, now_s, by_rate=status == 429):
            self._defer(batch, failed.error, now, by=now + PROBE_MAX)
            return
        if status == 410:
            asked = PROBE_MAX  # gone, the endpoint says: go on, and slowly
        self.close(failed.error, next_probe(attempted_at, self.failures + 1, self._jitter(), asked))
        assert self.gate is not None
        # Due by the next probe: else there might be nothing to probe with.
        self._defer(batch, failed.error, now, asked, by=self.gate.until if self.failures else now + PROBE_MAX)

    def close(self, error: str, until: datetime) -> None:
        """The endpoint cannot be pushed to: the lane closes once what is in flight has ended."""
        if self.gate is None:
            self.gate = Gate(error, until)
            self._pace.close()

    def _defer(self, batch: Batch, error: str, now: datetime, retry_after: timedelta | None = None, by: datetime | None = None) -> None:
        for n in batch:
            due = next_attempt(now, n.deadline_at, n.attempts + 1, self._jitter(), retry_after)
            self._deferred.append(Deferral(n.notification_id, min(due, by) if by else due, error))

    # -- Settling

    @property
    def unsettled(self) -> int:
        """Pushes that ended and are not written yet."""
        return len(self._attempts)

    def settle(self) -> Settlement | None:
        """What there is to write; `settled` or `unsettle` must follow. None: nothing."""
        gate = self.gate if not self.in_flight and not self.closed else None
        if not self._attempts and gate is None:
            return None
        settlement = Settlement(
            self._delivered, self._deferred, self._attempts, gate, reopens=bool(self._delivered and self.failures and not self.gate)
        )
        self._delivered, self._deferred, self._attempts = [], [], []
        return settlement

    def unsettle(self, settlement: Settlement) -> None:
        """It could not be written: it waits for the next time, with what has come since."""
        self._delivered = settlement.delivered + self._delivered
        self._deferred = settlement.deferred + self._deferred
        self._attempts = settlement.attempts + self._attempts

    def settled(self, settlement: Settlement) -> None:
        """It was written."""
        ended = [*settlement.delivered, *(d.notification_id for d in settlement.deferred)]
        self._taken.difference_update(ended)
        if self._read is not None:
            self._gone.update(ended)
        if settlement.reopens:
            self.failures = 0
            self._exhausted = False
        if settlement.gate is not None:
            self.gate, self.closed = None, True

    def end(self) -> None:
        """The lease is over: this lane no longer takes a share of the throughput."""
        self._throughput.bulky.discard(self)

    @property
    def idle(self) -> bool:
        """Nothing is left to do in this lease."""
        return not (self.in_flight or self._attempts or self.gate or (self._queue and not self.closed))


def _batches(rows: Sequence[Notification], batch_max: int) -> Iterator[Batch]:
    """Rows in batches, in order: those that failed n times in batches of `batch_max` / 2^n, so that a bad one is soon alone."""
    for attempts in {row.attempts for row in rows}:
        alike = [row for row in rows if row.attempts == attempts]
        size = max(1, batch_max >> attempts)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))
