"""How fast one messenger is pushed to: pushes at once (`width`) and notifications a second (`rate`), learned from its answers.

Additive increase, multiplicative decrease. The width doubles with every round of receipts up to where it was last found too wide, and
then grows by one a round. An endpoint that answers 429 or 5xx beside receipts is pushed to too fast: its width is cut, once for all pushes
that were under way together, and by 429 its rate too. Receipts that grow slow cut the width. Nothing here waits or knows a clock: times
are the caller's seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

CUT = 0.5
RATE_CUT = 0.7
RATE_MIN = 1.0
RATE_STEP = 0.1
"""Of the rate that a cut left, regained each second."""
BURST_S = 0.1
SLOW_S = 1.0
"""Receipts quicker than this are never called slow: what is shorter may be this program's own waiting."""
SLOWER = 2.0
"""How many times the best an answer must take to be called slow."""
BEST_DRIFT = 1.005
"""What was best is slowly forgotten, so that an endpoint that has become slower for good is not starved."""


@dataclass
class Throughput:
    """What bounds all lanes of one process together.

    Each notification makes its messenger ask again, so the policy bounds how many go out a second. Only lanes with a backlog count and are
    bounded: the few notifications of the others do not matter.
    """

    echo_per_s: float = inf
    """Notifications a second that this process may push."""
    lanes: int = 0
    """Lanes at work."""
    bulky: set[object] = field(default_factory=set)
    """Those of them that have a backlog."""

    def share_per_s(self, *, presses: bool) -> float:
        """Notifications a second for one lane with a backlog. Deadlines that press lift the bound."""
        return inf if presses else self.echo_per_s / max(1, len(self.bulky))


class Pace:
    """Outlives leases, so that a lane that comes back goes on at the pace it had."""

    def __init__(self, width_max: int) -> None:
        self._width_max = float(width_max)
        self._width = self._width_max
        self._grown_to = self._width_max
        """The width from which it grows by one a round."""
        self.rate = inf
        self._rate_step = 0.0
        self._rate_at = 0.0
        self._free_at = 0.0
        """When the rate allows the next push."""
        self._cut_at = -inf
        self._receipts = 0
        """Since the last cut."""
        self._second = 0.0
        self._in_second = 0
        self.per_s = 0.0
        """Notifications received in the last whole second."""
        self._best_s = inf

    @property
    def width(self) -> int:
        return int(self._width)

    def wait_s(self, now_s: float, bound: float = inf) -> float:
        """How long the rate, or a lower bound of the caller's, asks to wait before the next push; 0 or less: none."""
        return self._free_at - BURST_S - now_s if min(self.rate, bound) < inf else 0.0

    def begin(self, now_s: float, notifications: float, bound: float = inf) -> None:
        """A push begins."""
        rate = min(self.rate, bound)
        if rate < inf:
            self._free_at = max(self._free_at, now_s) + notifications / rate

    def receive(self, began_s: float, now_s: float, notifications: int) -> None:
        """A receipt came for a push."""
        self._receipts += 1
        self._count(now_s, notifications)
        took_s = now_s - began_s
        self._best_s = min(self._best_s * BEST_DRIFT, took_s)
        if took_s > max(SLOW_S, SLOWER * self._best_s) and began_s > self._cut_at:
            self._cut(now_s)
        elif self._width < self._width_max:
            self._width = min(self._width_max, self._width + (1.0 if self._width < self._grown_to else 1.0 / self._width))

    def overload(self, began_s: float, now_s: float, *, by_rate: bool) -> bool:
        """A push met 429 (`by_rate`) or 5xx; False where nothing was received since the last cut: a failure then, and no haste of ours."""
        if began_s <= self._cut_at:
            return True
        if not self._receipts:
            return False
        if by_rate:
            self.rate = max(RATE_MIN, RATE_CUT * min(self.rate, max(self.per_s, self._in_second)))
            self._rate_step = max(RATE_MIN, self.rate * RATE_STEP)
            self._rate_at = now_s
        self._cut(now_s)
        return True

    def close(self) -> None:
        """The endpoint failed: it comes back through one canary."""
        if self._width > 1.0:
            self._grown_to = max(1.0, self._width * CUT)
            self._width = 1.0
        self._receipts = 0

    def _cut(self, now_s: float) -> None:
        self._width = self._grown_to = max(1.0, self._width * CUT)
        self._cut_at = now_s
        self._receipts = 0

    def _count(self, now_s: float, notifications: int) -> None:
        """Notifications received a second, and what a second gives back of the rate."""
        if now_s - self._second >= 1.0:
            self.per_s = self._in_second / (now_s - self._second) if now_s - self._second < 10 else 0.0
            self._second, self._in_second = now_s, 0
            if self.rate < inf:
                self.rate += self._rate_step * min(now_s - self._rate_at, 10.0)
                self._rate_at = now_s
        self._in_second += notifications
