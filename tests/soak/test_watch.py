"""What the soak calls growth, and what not."""

from __future__ import annotations

import pytest

from tests.soak.watch import DEAD_FEW, Sample, is_bounded, no_more, slope


def every_five_seconds(values: list[float]) -> list[Sample]:
    return [Sample(place / 12, value) for place, value in enumerate(values)]


def test_what_a_process_takes_while_it_settles_is_no_growth() -> None:
    assert slope(every_five_seconds([100 + min(place, 20) for place in range(100)])) == pytest.approx(0)
    assert slope(every_five_seconds([100 + place / 12 for place in range(100)])) == pytest.approx(1)


def test_descriptors_that_are_never_given_back_are_found() -> None:
    assert no_more("some", every_five_seconds([50 + place % 40 for place in range(100)])).is_good
    assert not no_more("some", every_five_seconds([50 + 2 * place for place in range(100)])).is_good


def test_dead_rows_that_nobody_takes_away_are_found() -> None:
    many = 10 * DEAD_FEW
    assert is_bounded(every_five_seconds([place * many % (20 * many) for place in range(100)]))
    assert is_bounded(every_five_seconds([DEAD_FEW] * 100))
    assert not is_bounded(every_five_seconds([place * many for place in range(100)]))
