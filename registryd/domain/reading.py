"""Which rows of a lane are read next, and which of the rows that were read are new. Pure: the caller reads and brings the rows.

A lane is read in the order of its ids, which begin with the deadline: page after page, and then from the last row on for what comes later.
What is settled leaves dead entries in the index until no older snapshot needs them, so that reading from the beginning may take seconds
beside a long transaction. A lease therefore begins at the lane's low-water mark: all that was due up to there has been taken before.

A notification may lie below the mark: it was deferred, or its transaction committed late, or its contract's end was backdated. So the lane
is also read from its beginning: every 90 s, when a deferral is over, and when the database tells of a new row below the mark. Such a look
back takes a tenth of the time at most. The mark is therefore a matter of speed alone: whatever it says, nothing is skipped for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple
from uuid import UUID

from registryd.domain.notification import BEGINNING, Notification

PAGE = 500
"""Rows read at once."""
UNSETTLED_MAX = 10_000
LOOK_S = 0.5
"""A lane that was read to its end is looked at again after this, while pushes are still under way."""
LOOK_BACK_S = 90.0
"""Between two of them nothing is lost but time, where the database's word did not come. Each writes the lane twice, and beside a
transaction that is left open for an hour a look for lanes passes every version of their rows: with 30 s it took 3.3 times as long as
without, with 90 s 1.4.
"""
REST = 10
"""A look back is followed by a rest of so many times its own time, and of `LOOK_S` at least."""


class Read(NamedTuple):
    """Rows to read: so many after an id."""

    after: UUID
    limit: int


class Reading:
    """What one lease has read. Times are the seconds of a steady clock."""

    def __init__(self, low_water: UUID, look_back_in_s: float, now_s: float) -> None:
        self.taken: set[UUID] = set()
        """Taken and not settled yet. What is read again meanwhile is dropped."""
        self.exhausted = False
        """The lane was read to its end."""
        self._position = low_water
        """The next page begins after this."""
        self._furthest = low_water
        self._looks_back = False
        """A look back is under way: `_position` lies before `_furthest`."""
        self._looked_back_for_s = 0.0
        """What it has taken so far."""
        self._look_back_s = now_s + look_back_in_s
        self._rests_until_s = now_s
        self._look_on_s = -inf
        self._read: Read | None = None
        """The read under way."""
        self._settled_meanwhile: set[UUID] = set()
        """Settled during the read under way, whose rows may still hold them."""

    def next(self, now_s: float, *, hungry: bool) -> Read | None:
        """What to read now; None: nothing. `hungry`: more rows are of use. `offer` or `give_up` must follow."""
        if len(self.taken) >= UNSETTLED_MAX:
            return None
        if not self._looks_back and now_s >= self._look_back_s:
            self._position, self._looks_back, self._looked_back_for_s = BEGINNING, True, 0.0
            self._look_back_s = inf
            self.exhausted = False
        elif now_s < self._look_on_s if self.exhausted else not hungry:
            return None
        self._look_on_s = now_s + LOOK_S
        self._read = Read(self._position, PAGE)
        return self._read

    def offer(self, rows: Sequence[Notification], now_s: float, took_s: float) -> list[Notification]:
        """The rows that were read, which took `took_s`. Returns those that are new."""
        assert self._read is not None
        limit, self._read = self._read.limit, None
        known = self.taken | self._settled_meanwhile if self._settled_meanwhile else self.taken
        fresh = [row for row in rows if row.notification_id not in known]
        self._settled_meanwhile.clear()
        self.exhausted = len(rows) < limit
        last = rows[-1].notification_id if rows else self._position
        has_caught_up = self.exhausted or last >= self._furthest
        self._furthest = max(self._furthest, last)
        self._position = self._furthest if self.exhausted else last
        if self._looks_back:
            self._rest(now_s, took_s, is_over=has_caught_up)
        return fresh

    def give_up(self, now_s: float, took_s: float) -> None:
        """The read under way failed, perhaps because it took too long: the next one does not look back again at once."""
        self._read = None
        self._settled_meanwhile.clear()
        self._position = self._furthest
        if self._looks_back:
            self._rest(now_s, took_s, is_over=True)

    def _rest(self, now_s: float, took_s: float, *, is_over: bool) -> None:
        self._looked_back_for_s += took_s
        self._rests_until_s = now_s + max(LOOK_S, REST * self._looked_back_for_s)
        if is_over:
            self._looks_back = False
            self.look_back_by(now_s + LOOK_BACK_S)

    def look_on(self) -> None:
        """Something came behind the last row that was read."""
        self._look_on_s = -inf

    def look_back_by(self, at_s: float) -> None:
        """Something may be due below the mark by then."""
        self._look_back_s = max(min(self._look_back_s, at_s), self._rests_until_s)

    def put_off(self, to_s: float) -> None:
        """There is nothing to look back for before then."""
        self._look_back_s = max(self._look_back_s, to_s)

    def take(self, ids: Iterable[UUID]) -> None:
        """These are worked on now."""
        self.taken.update(ids)

    def settle(self, ids: Sequence[UUID]) -> None:
        """These were written: delivered, or deferred."""
        self.taken.difference_update(ids)
        if self._read is not None:
            self._settled_meanwhile.update(ids)

    @property
    def low_water(self) -> UUID:
        """The mark for the next lease: all that was due up to it has been taken and settled."""
        return min(self._furthest, UUID(int=max(0, min(self.taken).int - 1))) if self.taken else self._furthest

    def look_back_in_s(self, now_s: float) -> float:
        """When the next lease is to look back."""
        return max(0.0, (self._rests_until_s if self._looks_back else self._look_back_s) - now_s)
