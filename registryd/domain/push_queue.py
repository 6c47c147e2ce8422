"""The batches that a lane pushes next, in the order of their deadlines: what was never tried goes before what has failed.

Notifications that their messenger refuses, or that break its endpoint, may be many and may have the earliest deadlines. They are kept
apart, so that they cannot stand in the others' way: every eighth push is a retry, and all are once nothing else is left. Of the retries
those that have failed a few times only go first, because what has failed often will mostly fail again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime

from registryd.domain.notification import Notification

RETRY_EVERY = 8
RETRIES_MAX = 500
"""Retries in the queue, those of few attempts and those of many each; the rest stays in the table, so that it takes no room from others."""
FEW_ATTEMPTS = 2

Batch = Sequence[Notification]


class PushQueue:
    """`batch_max`: notifications in a push at most."""

    def __init__(self, batch_max: int) -> None:
        self._batch_max = batch_max
        self._new: deque[Batch] = deque()
        self._retries: deque[Batch] = deque()
        self._pushes = 0
        self.from_end = False
        """The last one never tried goes next, alone: the first ones were refused one after the other."""
        self.new = 0
        """Notifications in the queue that were never tried."""

    def __bool__(self) -> bool:
        return bool(self._new or self._retries)

    @property
    def _next(self) -> deque[Batch]:
        is_turn = self._pushes % RETRY_EVERY == RETRY_EVERY - 1
        return self._retries if self._retries and (is_turn or not self._new) else self._new

    @property
    def first(self) -> Batch:
        """The next batch to push."""
        queue = self._next
        return queue[-1][-1:] if self.from_end and queue is self._new else queue[0]

    def pop(self) -> Batch:
        queue = self._next
        if self.from_end and queue is self._new:
            last = queue.pop()
            batch = last[-1:]
            if len(last) > 1:
                queue.append(last[:-1])
        else:
            batch = queue.popleft()
        self._pushes += 1
        self.new -= 0 if batch[0].attempts else len(batch)
        return batch

    def put(self, rows: Sequence[Notification]) -> list[Notification]:
        """Adds rows; returns those that were added, which are not all where there are too many retries."""
        added = [row for row in rows if not row.attempts]
        for often in (False, True):
            room = RETRIES_MAX - sum(len(batch) for batch in self._retries if _failed_often(batch[0]) == often)
            added += [row for row in rows if row.attempts and _failed_often(row) == often][: max(0, room)]
        for batch in _batches(added, self._batch_max):
            if batch[0].attempts:
                self._retries.append(batch)
            else:
                self._new.append(batch)
                self.new += len(batch)
        # A row that is read later may be due earlier.
        self._new = deque(sorted(self._new, key=_deadline))
        self._retries = deque(sorted(self._retries, key=_retry_order))
        return added

    def split(self, batch: Batch) -> None:
        """Puts a batch back in two halves, which are pushed next."""
        middle = len(batch) // 2
        if batch[0].attempts:
            self._retries.extendleft((batch[middle:], batch[:middle]))
        else:
            self._new.extendleft((batch[middle:], batch[:middle]))
            self.new += len(batch)


def _deadline(batch: Batch) -> datetime:
    return batch[0].deadline_at


def _failed_often(notification: Notification) -> bool:
    return notification.attempts > FEW_ATTEMPTS


def _retry_order(batch: Batch) -> tuple[int, datetime]:
    return min(batch[0].attempts, FEW_ATTEMPTS + 1), batch[0].deadline_at


def _batches(rows: Sequence[Notification], batch_max: int) -> Iterator[Batch]:
    """Rows in batches of one type, in order: those that failed n times in batches of `batch_max` / 2^n, so that a bad one is soon alone."""
    for attempts, kind in {(row.attempts, row.type) for row in rows}:
        alike = [row for row in rows if row.attempts == attempts and row.type == kind]
        size = max(1, batch_max >> attempts)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))
