"""The enumeration guard: each messenger's daily quota of numbers, and what happens to a messenger that searches for subscribers.

Each process counts and judges in memory (domain/enumeration.py). About once a second it exchanges its counts and alarms with the others
through the database, so the guard costs the hot path no statement. The price: the quota may be overrun by what the processes answer within
that second, and each process judges by what it has seen itself. Of two that share a scan, the first to have seen enough throttles it for
both.

An alarm never changes an answer and never stops a messenger: it slows it down to the policy's trickle, because the alarm may be false
and the duty to answer is not. It lasts until the policy's time after the last sign, or until the operator clears it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from math import ceil
from typing import NamedTuple

from registryd import observe
from registryd.domain.enumeration import Evidence, Sign, Weights, weigh
from registryd.domain.errors import QuotaExceeded, Throttled
from registryd.domain.identifiers import MessengerId
from registryd.presence.bucket import Limit, TokenBucket
from registryd.store import guard
from registryd.store.commits import was_committed
from registryd.store.messengers import Messenger
from registryd.store.pool import Database

DAY_S = 86_400
EPOCH = date(1970, 1, 1)
PER_MINUTE_MAX = 2_147_483_647
"""The policy's alarm_queries_per_minute that raises alarms and slows nobody down."""


class Usage(NamedTuple):
    day: date
    used: int
    absent: int


class Throttle:
    """What a messenger with an alarm may still ask until `until`: the policy's numbers a minute."""

    __slots__ = ("_bucket", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self._bucket = TokenBucket()

    def take(self, now: float, numbers: int, per_minute: int) -> None:
        """Raises: Throttled with the time until so many numbers are free, or until the alarm's end where they never will be."""
        wait_s = self._bucket.take(now, numbers, per_minute)
        if wait_s:
            remaining_s = self.until - now
            raise Throttled(max(1, ceil(remaining_s if numbers > per_minute else min(remaining_s, wait_s))))

    def limit(self, now: float, per_minute: int) -> Limit:
        return self._bucket.limit("slowed-down", now, per_minute)


class Reservation:
    """Numbers of a messenger's quota that a request holds until they are answered or given up."""

    __slots__ = ("_guard", "_held", "_messenger")

    def __init__(self, guard: QuotaGuard, messenger: Messenger, numbers: int) -> None:
        self._guard = guard
        self._messenger = messenger
        self._held = numbers

    def record(self, numbers: Sequence[int], presents: Sequence[int]) -> None:
        """Counts answered numbers, in the order they were asked, with 1 or 0 for each: present or absent. As many are held no longer."""
        self._give_back(len(numbers))
        self._guard.record(self._messenger, numbers, presents)

    def close(self) -> None:
        """Gives back what is still held."""
        self._give_back(self._held)

    def _give_back(self, numbers: int) -> None:
        self._held -= numbers
        self._guard.in_flight[self._messenger.messenger_id] -= numbers


class QuotaGuard:
    """It judges nothing before the first `exchange`, for which the process waits before it serves.

    `clock()`: seconds since 1970, UTC; it tells days alone, which are numbered from 1970, because a hot path has no time for dates.
    `steady()`: seconds of a clock that is never set; it paces alarms, so that a step of the other one neither stops a messenger nor lets
    it go.
    """

    def __init__(self, db: Database, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._steady = steady
        self._shared: dict[MessengerId, tuple[int, int]] = {}
        self._shared_day = 0
        self._own: dict[tuple[MessengerId, int], tuple[int, int]] = {}
        self._sent: dict[tuple[MessengerId, int], tuple[int, int]] = {}
        self._in_doubt: tuple[str, Mapping[tuple[MessengerId, int], tuple[int, int]]] | None = None
        """Counts that are among `_own` again, and the transaction that may have added them all the same."""
        self.in_flight: Counter[MessengerId] = Counter()
        self._weights: Weights | None = None
        self._canaries: frozenset[int] = frozenset()
        self._alarm_lasts_s = 0.0
        self._per_minute = 1
        self._evidence: dict[MessengerId, Evidence] = {}
        self._alarms: dict[MessengerId, Throttle] = {}
        self._signs: set[tuple[MessengerId, Sign]] = set()

    def reserve(self, messenger: Messenger, numbers: int) -> Reservation:
        """Holds `numbers` of the daily quota, so that requests in flight do not overrun it together.

        Raises: QuotaExceeded, where the quota does not hold them; Throttled, where an alarm's trickle does not.
        """
        messenger_id = messenger.messenger_id
        if messenger.daily_quota is not None:
            now = self._clock()
            day = int(now // DAY_S)
            if self._asked(messenger_id, day)[0] + self.in_flight[messenger_id] + numbers > messenger.daily_quota:
                raise QuotaExceeded(max(1, ceil((day + 1) * DAY_S - now)))
        alarm = self._alarms.get(messenger_id)
        if alarm is not None and alarm.until > (now := self._steady()):  # else the database is away, or has not been asked yet
            alarm.take(now, numbers, self._per_minute)
        self.in_flight[messenger_id] += numbers
        return Reservation(self, messenger, numbers)

    def record(self, messenger: Messenger, numbers: Sequence[int], presents: Sequence[int]) -> None:
        """Counts answered numbers against the quota and looks whether they are a sign of a search. In the order they were asked."""
        messenger_id, absent = messenger.messenger_id, presents.count(0)
        self._add((messenger_id, int(self._clock() // DAY_S)), len(numbers), absent)
        if absent < len(presents):
            observe.child(observe.queries, messenger.name, "present").inc(len(presents) - absent)
        if absent:
            observe.child(observe.queries, messenger.name, "absent").inc(absent)
        if self._weights is None:
            return
        evidence = self._evidence.get(messenger_id)
        if evidence is None:
            evidence = self._evidence[messenger_id] = Evidence()
        sign = evidence.see(self._weights, numbers, presents)
        if not self._canaries.isdisjoint(numbers) and self._asks_for_canary(numbers, presents):
            sign = "canary"
        if sign is not None:
            self._raise_alarm(messenger_id, sign)

    def usage(self, messenger_id: MessengerId) -> Usage:
        """What the messenger asked today, over all processes, up to a second ago, and over this one up to now."""
        today = int(self._clock() // DAY_S)
        return Usage(_date(today), *self._asked(messenger_id, today))

    def limits(self, messenger: Messenger) -> list[Limit]:
        """What is left of the daily quota, and of an alarm's trickle while there is one."""
        messenger_id, limits = messenger.messenger_id, list[Limit]()
        if messenger.daily_quota is not None:
            now = self._clock()
            day = int(now // DAY_S)
            left = messenger.daily_quota - self._asked(messenger_id, day)[0] - self.in_flight[messenger_id]
            limits.append(Limit("day", messenger.daily_quota, DAY_S, max(left, 0), (day + 1) * DAY_S - now))
        alarm = self._alarms.get(messenger_id)
        if alarm is not None and self.slows_down and alarm.until > (steady := self._steady()):
            limits.append(alarm.limit(steady, self._per_minute))
        return limits

    @property
    def slows_down(self) -> bool:
        """Whether an alarm slows its messenger down. Under a policy that only watches it does not."""
        return self._per_minute < PER_MINUTE_MAX

    async def exchange(self) -> None:
        """Shares this process's counts and signs; learns the sums, the alarms and the measures. Raises: Unavailable; nothing is lost."""
        if self._in_doubt is not None:
            transaction, counts = self._in_doubt
            if await was_committed(self._db, transaction):
                for key, (used, absent) in counts.items():
                    self._add(key, -used, -absent)
            self._in_doubt = None
        self._sent, self._own = self._own, {}
        signs, self._signs = self._signs, set()
        today = int(self._clock() // DAY_S)
        usage = [(messenger_id, _date(day), used, absent) for (messenger_id, day), (used, absent) in self._sent.items()]
        try:
            shared = await guard.exchange(self._db, _date(today), usage, sorted(signs), self._doubt)
        except BaseException:
            for key, count in self._sent.items():
                self._add(key, *count)
            self._signs |= signs
            raise
        finally:
            self._sent = {}
        self._in_doubt = None
        self._shared = {row.messenger_id: (row.used, row.absent) for row in shared.usage}
        self._shared_day = today
        self._take_measures(shared.measures)
        self._take_alarms(shared.throttled)
        for raised in shared.raised:
            observe.enumeration_alarms.labels(raised.name, raised.kind).inc()
            if raised.is_new:
                observe.event("enumeration_alarm", "warning", messenger=raised.name, kind=raised.kind)

    def _doubt(self, transaction: str) -> None:
        """What was sent is in doubt from when the transaction commits until that has been answered."""
        self._in_doubt = transaction, self._sent

    def _asked(self, messenger_id: MessengerId, day: int) -> tuple[int, int]:
        """(used, absent) of a day, as far as this process knows."""
        key = (messenger_id, day)
        used, absent = self._own.get(key, (0, 0))
        used_sent, absent_sent = self._sent.get(key, (0, 0))
        used_shared, absent_shared = self._shared.get(messenger_id, (0, 0)) if self._shared_day == day else (0, 0)
        return used + used_sent + used_shared, absent + absent_sent + absent_shared

    def _add(self, key: tuple[MessengerId, int], used: int, absent: int) -> None:
        used_before, absent_before = self._own.get(key, (0, 0))
        self._own[key] = (used_before + used, absent_before + absent)

    def _asks_for_canary(self, numbers: Sequence[int], presents: Sequence[int]) -> bool:
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
        self._alarm_lasts_s = measures.alarm_lasts.total_seconds()
        self._per_minute = measures.alarm_queries_per_minute

    def _take_alarms(self, throttled: Sequence[guard.ThrottledRow]) -> None:
        """The database's alarms are the alarms, and those that came up while it was asked."""
        now = self._steady()
        ends = {row.messenger_id: now + row.remaining.total_seconds() for row in throttled}
        ends |= {messenger_id: now + self._alarm_lasts_s for messenger_id, _ in self._signs}
        for messenger_id in self._alarms.keys() - ends.keys():
            del self._alarms[messenger_id]
            self._evidence.pop(messenger_id, None)
        for messenger_id, until in ends.items():
            self._throttle(messenger_id, until)
        observe.messengers_throttled.set(len(self._alarms))

    def _raise_alarm(self, messenger_id: MessengerId, sign: Sign) -> None:
        self._signs.add((messenger_id, sign))
        self._throttle(messenger_id, self._steady() + self._alarm_lasts_s)

    def _throttle(self, messenger_id: MessengerId, until: float) -> None:
        alarm = self._alarms.get(messenger_id)
        if alarm is None:
            self._alarms[messenger_id] = Throttle(until)
        else:
            alarm.until = until


def _date(day: int) -> date:
    return EPOCH + timedelta(days=day)
