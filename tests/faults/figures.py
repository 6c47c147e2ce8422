"""What a fault is measured by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tests.history.audit import Fault

NOT_AUTHENTIC = "pushes that an endpoint refused as not authentic"


class Figure(NamedTuple):
    what: str
    value: float
    at_most: float | None = None
    """The target; None where it is only told."""

    @property
    def is_missed(self) -> bool:
        return self.at_most is not None and not self.value <= self.at_most


def did_not_end(error: Exception) -> Figure:
    return Figure(f"did not end: {type(error).__name__}: {str(error)[:300]}", 1, 0)


def judged(found: Sequence[Fault]) -> list[Figure]:
    kinds = Counter(fault.kind for fault in found)
    return [
        Figure("wrong answers", kinds["wrong"], 0),
        Figure("lost", kinds["lost"], 0),
        Figure("notices under two ids", kinds["doubled"], 0),
        Figure(NOT_AUTHENTIC, kinds["not authentic"], 0),
    ]
