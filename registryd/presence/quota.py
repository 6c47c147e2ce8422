"""The enumeration guard: each messenger's budget of numbers a day, shared by all workers.

Each worker counts in memory and exchanges its count with the others through registry.quota_usage about once a second, so that the guard
costs the hot path nothing; the budget may be overrun by what the workers answer within that second. The journal is the proof, this is
the guard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from registryd import observe
from registryd.domain.errors import QuotaExceeded
from registryd.domain.identifiers import MessengerId
from registryd.store import journal
from registryd.store.pool import Database


class Usage(NamedTuple):
    day: date
    used: int
    absent: int


class QuotaGuard:
    def __init__(self, db: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._db = db
        self._clock = clock
        self._shared: dict[MessengerId, tuple[int, int]] = {}
        self._shared_day = date.min
        self._own: dict[tuple[MessengerId, date], tuple[int, int]] = {}
        self._sent: dict[tuple[MessengerId, date], tuple[int, int]] = {}
        self._in_flight: Counter[MessengerId] = Counter()

    @contextmanager
    def admit(self, messenger_id: MessengerId, daily_quota: int | None, numbers: int) -> Iterator[None]:
        """Holds `numbers` of the day's budget while they are answered, so that requests in flight do not overrun it together.

        Raises: QuotaExceeded, where the budget does not hold them.
        """
        if daily_quota is not None and self.usage(messenger_id).used + self._in_flight[messenger_id] + numbers > daily_quota:
            observe.queries_refused.labels("quota").inc(numbers)
            now = self._clock()
            midnight = datetime.combine(now.date() + timedelta(days=1), time(tzinfo=UTC))
            raise QuotaExceeded(max(1, int((midnight - now).total_seconds())))
        self._in_flight[messenger_id] += numbers
        try:
            yield
        finally:
            self._in_flight[messenger_id] -= numbers

    def count(self, messenger_id: MessengerId, numbers: int, absent: int) -> None:
        """Counts answered numbers against the budget."""
        self._add((messenger_id, self._clock().date()), numbers, absent)

    def usage(self, messenger_id: MessengerId) -> Usage:
        """What the messenger asked today, over all workers, up to a second ago, and over this one up to now."""
        today = self._clock().date()
        shared = self._shared.get(messenger_id, (0, 0)) if self._shared_day == today else (0, 0)
        sent = self._sent.get((messenger_id, today), (0, 0))
        own = self._own.get((messenger_id, today), (0, 0))
        return Usage(today, shared[0] + sent[0] + own[0], shared[1] + sent[1] + own[1])

    async def exchange(self) -> None:
        """Adds this worker's counts to the shared ones and reads their sums. Raises: Unavailable; the counts are then kept."""
        self._sent, self._own = self._own, {}
        today = self._clock().date()
        try:
            sums = await journal.exchange_usage(self._db, today, [(*key, *count) for key, count in self._sent.items()])
            self._shared = {row.messenger_id: (row.used, row.absent) for row in sums}
            self._shared_day = today
        except BaseException:
            for key, count in self._sent.items():
                self._add(key, *count)
            raise
        finally:
            self._sent = {}

    def _add(self, key: tuple[MessengerId, date], used: int, absent: int) -> None:
        used_before, absent_before = self._own.get(key, (0, 0))
        self._own[key] = (used_before + used, absent_before + absent)
