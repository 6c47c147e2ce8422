"""Tells a search for subscribers from an honest messenger's queries, by nothing but what is asked and what is answered.

**Absent answers.** An honest messenger asks for numbers whose users have just typed a code from an SMS: about p = 3 % are absent. A scan
misses q = 40 % and more. Each answer is worth the logarithm of its likelihood ratio, ln(q/p) if absent and ln((1-q)/(1-p)) if present
(A. Wald, Sequential Tests of Statistical Hypotheses, 1945; Sequential Analysis, 1947). Wald's test decides once: it alarms when the sum
passes ln((1-β)/α), which at α = 10⁻⁶ takes ln 10⁶ / (q ln(q/p) + (1-q) ln((1-q)/(1-p))) = 18.5 answers of a scan that misses 40 %, and
it accepts at its lower bound. A stream of queries has no end and a messenger may turn into a scanner at any query, so there is nothing
to accept: the sum begins anew at zero whenever it would fall below (E. S. Page, Continuous Inspection Schemes, 1954), which is Wald's
test repeated for ever. It then has no "probability of a false alarm" but a mean number of honest queries between two of them, at least
e^h for a threshold h (G. Lorden, 1971). Hence h = ln(honest_queries_per_alarm). At 10⁶ a messenger that asks for 100 million numbers in
a day would be accused a dozen times that day; at 10¹² (the policy's default) at most once in 10,000 such days, for 37 answers instead
of 18.5 from a scan that misses 40 %, 26 at 50 %, 12 at 90 %. A true share of absent answers below ln((1-p)/(1-q)) / (the sum of both
worths), 15.6 %, is drawn back to zero: a messenger that is somewhat worse than p is safe, but alarms grow more frequent with it, and a
scanner who mixes in ten known numbers for each unknown one is not seen by this test.

**Consecutive numbers.** Of a messenger's last numbers in ascending order, each step is compared with the one before. An honest base,
even one that is sent sorted, holds a next number with a probability of d at most (`honest_density`); a run of numbers, ascending,
descending or shuffled, one apart or any fixed step, alone, from several connections or among other numbers, holds it nearly always
(SCAN_REGULARITY). The same sum with the same threshold: at d = 0.7 and 10¹² it takes 82 numbers in a row, where a sorted base of 10
million users in 100 million numbers (d = 0.1) has runs of 8. A window is looked at twice, so h holds within a factor of 1.25.

**Only new numbers count**: one that is asked again while the window holds it tells a scanner nothing, and proves nothing either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from operator import eq, sub
from typing import Literal, NamedTuple

Sign = Literal["absent", "consecutive", "canary"]

WINDOW = 512
"""New numbers after which the window is looked at for the second time and begins anew."""
FIRST_LOOK = 128
SCAN_REGULARITY = 0.99


class Weights(NamedTuple):
    """What each observation adds to its sum, and the sum that is an alarm; natural logarithms."""

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


class Watch:
    """What is remembered of one messenger: a sum, and fewer than WINDOW numbers."""

    __slots__ = ("_evidence", "_look_at", "_window")

    def __init__(self) -> None:
        self._evidence = 0.0
        self._window: dict[int, bool] = {}
        self._look_at = FIRST_LOOK

    def see(self, weights: Weights, numbers: Sequence[int], presents: Sequence[bool]) -> Sign | None:
        """Takes in answered numbers, in their order; tells what they are a sign of, after which the sum begins anew."""
        window = self._window
        sign: Sign | None = None
        if len(numbers) == 1:
            if numbers[0] in window:
                return None
            window[numbers[0]] = presents[0]
            evidence = self._evidence + (weights.present if presents[0] else weights.absent)
        else:
            new = dict(zip(numbers, presents, strict=True))
            if not window.keys().isdisjoint(new):
                new = {number: present for number, present in new.items() if number not in window}
            evidence = _highest(weights, self._evidence, bytes(new.values()))
            if len(new) >= WINDOW:  # a window of its own
                sign = "consecutive" if has_run(weights, sorted(new)) else None
            else:
                window.update(new)
        if evidence >= weights.alarm:
            sign = "absent"
        self._evidence = evidence if 0.0 < evidence < weights.alarm else 0.0
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


def _highest(weights: Weights, evidence: float, presents: bytes) -> float:
    """The sum after these answers (1 present, 0 absent), or the one that is an alarm. A step for each absent answer, not for each."""
    *before_absent, last = presents.split(b"\0")
    for run in before_absent:
        evidence = max(evidence + len(run) * weights.present, 0.0) + weights.absent
        if evidence >= weights.alarm:
            return evidence
    return max(evidence + len(last) * weights.present, 0.0)


def has_run(weights: Weights, ordered: Sequence[int]) -> bool:
    """Whether numbers in ascending order, none twice, hold more equal steps in a row than an honest base would."""
    steps = list(map(sub, ordered[1:], ordered))
    same = list(map(eq, steps[1:], steps))
    if sum(same) * weights.same_step < weights.alarm:
        return False
    evidence = 0.0
    for is_same in same:
        evidence = max(evidence + (weights.same_step if is_same else weights.other_step), 0.0)
        if evidence >= weights.alarm:
            return True
    return False
