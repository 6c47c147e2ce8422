"""The enumeration guard: each messenger's budget of numbers a day, and what happens to one that searches for subscribers.

Each worker counts and judges in memory (domain/enumeration.py) and exchanges its counts and alarms with the others through the database
about once a second, so that the guard costs the hot path no statement. So the budget may be overrun by what the workers answer within
that second, and evidence is each worker's own: of two that share a scan, the first to have seen enough throttles it for both. The
journal is the proof, this is the guard.

An alarm never changes an answer and never stops a messenger: it slows it down to the policy's trickle, because the alarm may be false
and the duty to answer is not. It lasts until the policy's time after the last sign, or until the operator clears it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from math import ceil
from typing import NamedTuple

from registryd import observe
from registryd.domain.enumeration import Sign, Watch, Weights, weigh
from registryd.domain.errors import QuotaExceeded, Throttled
from registryd.domain.identifiers import MessengerId
from registryd.store import guard
from registryd.store.pool import Database

MINUTE = timedelta(minutes=1)


class Usage(NamedTuple):
    day: date
    used: int
    absent: int


class Trickle:
    """What an alarm leaves a messenger: so many numbers a minute, of which a minute's may be saved up.

    Kept as the time by which what was taken is paid for (the generic cell rate algorithm, ITU-T I.371).
    """

    __slots__ = ("_paid_at", "until")

    def __init__(self, now: datetime, until: datetime) -> None:
        self.until = until
        self._paid_at = now

    def take(self, now: datetime, numbers: int, per_minute: int) -> None:
        """Raises: Throttled, until when so many are there; until the alarm's end, if they never will be."""
        paid_at = max(self._paid_at, now) + numbers * MINUTE / per_minute
        if paid_at > now + MINUTE:
            wait = self.until - now if numbers > per_minute else min(self.until, paid_at - MINUTE) - now
            raise Throttled(max(1, ceil(wait.total_seconds())))
        self._paid_at = paid_at


class QuotaGuard:
    """Judges nothing before the first `exchange`, which the daemon awaits before it listens."""

    def __init__(self, db: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._db = db
        self._clock = clock
        self._shared: dict[MessengerId, tuple[int, int]] = {}
        self._shared_day = date.min
        self._own: dict[tuple[MessengerId, date], tuple[int, int]] = {}
        self._sent: dict[tuple[MessengerId, date], tuple[int, int]] = {}
        self._in_flight: Counter[MessengerId] = Counter()
        self._weights: Weights | None = None
        self._canaries: frozenset[int] = frozenset()
        self._alarm_lasts = timedelta(0)
        self._per_minute = 1
        self._watches: dict[MessengerId, Watch] = {}
        self._trickles: dict[MessengerId, Trickle] = {}
        self._signs: set[tuple[MessengerId, Sign]] = set()

    def reserve(self, messenger_id: MessengerId, daily_quota: int | None, numbers: int) -> None:
        """Holds `numbers` of the day's budget until `release`, so that requests in flight do not overrun it together.

        Raises: QuotaExceeded, where the budget does not hold them; Throttled, where an alarm's trickle does not.
        """
        if daily_quota is not None and self.usage(messenger_id).used + self._in_flight[messenger_id] + numbers > daily_quota:
            observe.queries_refused.labels("quota").inc(numbers)
            now = self._clock()
            midnight = datetime.combine(now.date() + timedelta(days=1), time(tzinfo=UTC))
            raise QuotaExceeded(max(1, int((midnight - now).total_seconds())))
        if messenger_id in self._trickles:
            self._slow_down(messenger_id, numbers)
        self._in_flight[messenger_id] += numbers

    def release(self, messenger_id: MessengerId, numbers: int) -> None:
        """Gives back what `reserve` held: it is answered, or never will be."""
        self._in_flight[messenger_id] -= numbers

    def record(self, messenger_id: MessengerId, numbers: Sequence[int], presents: Sequence[bool]) -> None:
        """Counts answered numbers against the budget and looks whether they are a sign of a search. In the order they were asked."""
        self._add((messenger_id, self._clock().date()), len(numbers), presents.count(False))
        if self._weights is None:
            return
        watch = self._watches.get(messenger_id)
        if watch is None:
            watch = self._watches[messenger_id] = Watch()
        sign = watch.see(self._weights, numbers, presents)
        if not self._canaries.isdisjoint(numbers) and self._asks_for_canary(numbers, presents):
            sign = "canary"
        if sign is not None:
            self._alarm(messenger_id, sign)

    def usage(self, messenger_id: MessengerId) -> Usage:
        """What the messenger asked today, over all workers, up to a second ago, and over this one up to now."""
        today = self._clock().date()
        shared = self._shared.get(messenger_id, (0, 0)) if self._shared_day == today else (0, 0)
        sent = self._sent.get((messenger_id, today), (0, 0))
        own = self._own.get((messenger_id, today), (0, 0))
        return Usage(today, shared[0] + sent[0] + own[0], shared[1] + sent[1] + own[1])

    async def exchange(self) -> None:
        """Shares this worker's counts and signs; learns the sums, the alarms and the measures. Raises: Unavailable; nothing is lost."""
        self._sent, self._own = self._own, {}
        signs, self._signs = self._signs, set()
        today = self._clock().date()
        try:
            shared = await guard.exchange(self._db, today, [(*key, *count) for key, count in self._sent.items()], sorted(signs))
        except BaseException:
            for key, count in self._sent.items():
                self._add(key, *count)
            self._signs |= signs
            raise
        finally:
            self._sent = {}
        self._shared = {row.messenger_id: (row.used, row.absent) for row in shared.usage}
        self._shared_day = today
        self._take_measures(shared.measures)
        self._take_alarms(shared.throttled)
        for raised in shared.raised:
            observe.enumeration_alarms.labels(raised.name, raised.kind).inc()
            if raised.is_new:
                observe.event("enumeration_alarm", "warning", messenger=raised.name, kind=raised.kind)

    def _add(self, key: tuple[MessengerId, date], used: int, absent: int) -> None:
        used_before, absent_before = self._own.get(key, (0, 0))
        self._own[key] = (used_before + used, absent_before + absent)

    def _asks_for_canary(self, numbers: Sequence[int], presents: Sequence[bool]) -> bool:
        # One that is present was issued since the last exchange: it is somebody's number.
        return any(number in self._canaries and not present for number, present in zip(numbers, presents, strict=True))

    def _take_measures(self, measures: guard.Measures) -> None:
        self._weights = weigh(
            honest_absent_ratio=measures.honest_absent_ratio,
            scan_absent_ratio=measures.scan_absent_ratio,
            honest_density=measures.honest_density,
            honest_queries_per_alarm=measures.honest_queries_per_alarm,
        )
        self._canaries = frozenset(measures.canaries)
        self._alarm_lasts = measures.alarm_lasts
        self._per_minute = measures.alarm_queries_per_minute

    def _take_alarms(self, throttled: Sequence[guard.Throttled]) -> None:
        """The database's alarms are the alarms, and those that came up while it was asked."""
        now = self._clock()
        ends = {row.messenger_id: now + row.remaining for row in throttled}
        ends |= {messenger_id: now + self._alarm_lasts for messenger_id, _ in self._signs}
        for messenger_id in self._trickles.keys() - ends.keys():
            del self._trickles[messenger_id]
            self._watches.pop(messenger_id, None)
        for messenger_id, until in ends.items():
            self._throttle(messenger_id, now, until)
        observe.messengers_throttled.set(len(self._trickles))

    def _alarm(self, messenger_id: MessengerId, sign: Sign) -> None:
        self._signs.add((messenger_id, sign))
        now = self._clock()
        self._throttle(messenger_id, now, now + self._alarm_lasts)

    def _throttle(self, messenger_id: MessengerId, now: datetime, until: datetime) -> None:
        trickle = self._trickles.get(messenger_id)
        if trickle is None:
            self._trickles[messenger_id] = Trickle(now, until)
        else:
            trickle.until = until

    def _slow_down(self, messenger_id: MessengerId, numbers: int) -> None:
        """Raises: Throttled."""
        now = self._clock()
        trickle = self._trickles[messenger_id]
        if trickle.until <= now:  # the database is away, or has not been asked yet
            return
        try:
            trickle.take(now, numbers, self._per_minute)
        except Throttled:
            observe.queries_refused.labels("alarm").inc(numbers)
            raise
