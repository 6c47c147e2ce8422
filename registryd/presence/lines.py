"""The two lines of an answerer, single queries and batches: how many statements work each, and how large they are.

Batches have a line of their own, so that a large one does not hold up single queries, and leave the processors to these while they come.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from registryd.presence.queue import Ask, Line

BATCH_STATEMENTS_IN_FLIGHT = 3
"""So that the database looks up the next while this process hands out the answers of the last."""
SINGLES_ASKED_S = 0.1
"""For how long after a single query batches leave the processors to single queries: they run one statement at a time, and a smaller one."""
BATCH_GROUP_MAX = 1_000
"""A batch is asked in parts of this size. Larger parts save nothing more."""
BATCH_GROUP_BESIDE_SINGLES_MAX = 250
"""And in parts of this size while single queries come. The server's processors go from one statement to another where one ends, so what a
single query waits for is the length of a batch's statement: with 250 its p99 was 0.65 times what it was with 1,000. It costs a fifth of the
batches' rate.
"""
OVERLAP_AFTER_MAX_S = 0.005
"""For how long a statement for single queries runs alone. While one runs, queries gather, and a second beside it would make both groups
smaller and each query dearer (by a fifth, on two processors). One that takes longer has met a slow disk or a lock: others go past it."""
OVERLAP_AFTER_USUAL = 2.0
OVERLAP_AFTER_MIN_S = 0.001
"""Where statements are short, one is passed already when it takes so many times as long as they did lately."""


class Lines:
    """The line of single queries, and that of batches."""

    def __init__(self, statements_in_flight: int, group_max: int, queue_max: int, batch_queue_max: int) -> None:
        self.single = Line("single", statements_in_flight, group_max, queue_max)
        self.batch = Line("batch", BATCH_STATEMENTS_IN_FLIGHT, BATCH_GROUP_MAX, batch_queue_max)

    def __iter__(self) -> Iterator[Line]:
        return iter((self.single, self.batch))

    def room(self, line: Line) -> int:
        """How many statements may work a line now."""
        if line is self.single:
            return min(line.in_flight, 1 + len(line.slow))
        return 1 if self._singles_come else line.in_flight

    def fit(self, line: Line) -> int:
        """Sets how many queries a statement of a line may hold now, and returns it."""
        if line is self.batch:
            line.group_max = BATCH_GROUP_BESIDE_SINGLES_MAX if self._singles_come else BATCH_GROUP_MAX
        return line.group_max

    def past_after_s(self, group: list[Ask]) -> float:
        """For how long a single group's statement runs before others go past it; one that may wait for a lock is passed at once."""
        if self.single.alone is group:
            return 0.0
        return min(max(OVERLAP_AFTER_USUAL * self.single.statement_s, OVERLAP_AFTER_MIN_S), OVERLAP_AFTER_MAX_S)

    @property
    def _singles_come(self) -> bool:
        return time.monotonic() - self.single.asked_at < SINGLES_ASKED_S
