"""Tells a search for subscribers from an honest messenger's queries, by what is asked and what is answered alone.

**Absent answers.** An honest messenger asks for numbers whose users have just typed a code from an SMS: about p = 3 % of them are absent. A
scan misses q = 40 % or more. Each answer adds the logarithm of its likelihood ratio to a sum: ln(q/p) if it is absent, ln((1-q)/(1-p)) if
it is present (A. Wald, Sequential Tests of Statistical Hypotheses, 1945). Wald's test ends with a verdict. A stream of queries has no
end, and a messenger may turn into a scanner at any query, so here nothing is ever accepted: the sum begins anew at zero whenever it would
fall below (E. S. Page, Continuous Inspection Schemes, 1954). Such a test has no probability of a false alarm, but a mean number of honest
queries between two false alarms: at least e^h for a threshold h (G. Lorden, 1971). Hence h = ln(honest_queries_per_alarm).

The policy's default is 10¹²: a messenger that asks for 100 million numbers a day is wrongly accused at most once in 10,000 days. With 10⁶
it would be a dozen times a day. The price is a later alarm: 37 answers instead of 18.5 for a scan that misses 40 %; 26 at 50 %, 12 at 90
%.

A messenger that is somewhat worse than p is safe: as long as it misses less than ln((1-p)/(1-q)) / (ln(q/p) + ln((1-p)/(1-q))) = 15.6 %,
the sum is drawn back to zero, though false alarms grow more frequent with its share. For the same reason a scanner who mixes in ten known
numbers for each unknown one is not seen by this test.

**Consecutive numbers.** A messenger's last numbers are sorted, and each step between neighbours is compared with the step before. In an
honest base, even one that is sent sorted, the next number belongs to a user too with a probability of at most d (`honest_density`). In a
scan it nearly always does (SCAN_REGULARITY), whether it ascends, descends or is shuffled, by ones or by any fixed step, on one connection
or several. The same sum with the same threshold tells the two apart: at d = 0.7 and 10¹² it takes 82 numbers in a row. A sorted base of
10 million users among 100 million numbers (d = 0.1) has runs of 8. A window is looked at twice, so the bound e^h holds within a factor of
1.25.

**Only new numbers count.** A number that is asked again while the window holds it tells a scanner nothing, so it proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from operator import eq, sub
from typing import Literal, NamedTuple

Sign = Literal["absent", "consecutive", "canary"]

WINDOW = 512
"""After so many new numbers the window is looked at for the second time and emptied."""
FIRST_LOOK = 128
"""After so many new numbers the window is looked at for the first time."""
SCAN_REGULARITY = 0.99
"""How often a scan's step equals the one before."""


class Weights(NamedTuple):
    """What each observation adds to its sum, and the sum that raises an alarm. Natural logarithms."""

    absent: float
    present: float
    same_step: float
    other_step: float
    alarm: float


def weigh(*, honest_absent_ratio: float, scan_absent_ratio: float, honest_density: float, honest_queries_per_alarm: float) -> Weights:
    """The weights of a policy. The ratios: 0 < honest < scan < 1, 0 < density < SCAN_REGULARITY."""
    return Weights(
        absent=log(scan_absent_ratio / honest_absent_ratio),
        present=log((1 - scan_absent_ratio) / (1 - honest_absent_ratio)),
        same_step=log(SCAN_REGULARITY / honest_density),
        other_step=log((1 - SCAN_REGULARITY) / (1 - honest_density)),
        alarm=log(honest_queries_per_alarm),
    )


class Evidence:
    """What is remembered of one messenger: the sum over its answers, and fewer than WINDOW of its numbers."""

    __slots__ = ("_look_at", "_sum", "_window")

    def __init__(self) -> None:
        self._sum = 0.0
        self._window: dict[int, int] = {}
        self._look_at = FIRST_LOOK

    def see(self, weights: Weights, numbers: Sequence[int], presents: Sequence[int]) -> Sign | None:
        """Takes in answered numbers in their order, and 1 or 0 for each: present or absent. Returns the sign they complete, if any; its sum
        then begins anew.
        """
        window = self._window
        sign: Sign | None = None
        if len(numbers) == 1:
            if numbers[0] in window:
                return None
            window[numbers[0]] = presents[0]
            total = self._sum + (weights.present if presents[0] else weights.absent)
        else:
            new = dict(zip(numbers, presents, strict=True))
            if not window.keys().isdisjoint(new.keys()):  # of two views the shorter one is walked through
                new = {number: present for number, present in new.items() if number not in window}
            total = _highest(weights, self._sum, bytes(new.values()))
            if len(new) >= WINDOW:  # looked at by itself, and not remembered
                sign = "consecutive" if has_run(weights, sorted(new)) else None
            else:
                window.update(new)
        if total >= weights.alarm:
            sign = "absent"
        self._sum = total if 0.0 < total < weights.alarm else 0.0
        if len(window) >= self._look_at and self._look(weights):
            sign = sign or "consecutive"
        return sign

    def _look(self, weights: Weights) -> bool:
        ordered = sorted(self._window)
        is_sign = has_run(weights, ordered)
        if is_sign or len(ordered) >= WINDOW:
            self._window.clear()
            self._look_at = FIRST_LOOK
        else:
            self._look_at = WINDOW
        return is_sign


def _highest(weights: Weights, total: float, presents: bytes) -> float:
    """The sum after these answers (1 present, 0 absent), or the first one that raises an alarm.

    It takes one step an absent answer: the present answers before it are added at once.
    """
    *before_absent, last = presents.split(b"\0")
    for run in before_absent:
        total = max(total + len(run) * weights.present, 0.0) + weights.absent
        if total >= weights.alarm:
            return total
    return max(total + len(last) * weights.present, 0.0)


def has_run(weights: Weights, ordered: Sequence[int]) -> bool:
    """Whether numbers in ascending order, none twice, hold more equal steps in a row than an honest base would."""
    steps = list(map(sub, ordered[1:], ordered))
    if sum(map(eq, steps[1:], steps)) * weights.same_step < weights.alarm:
        return False
    total = 0.0
    for is_same in map(eq, steps[1:], steps):
        total = max(total + (weights.same_step if is_same else weights.other_step), 0.0)
        if total >= weights.alarm:
            return True
    return False
