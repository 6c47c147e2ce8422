"""Which pushes `notifications explain` takes for a notification's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from registryd.domain.identifiers import MessengerId
from registryd.store.proof import AttemptRow, Delivered
from registryd.views.notification import PUSHES_MAX, own_pushes

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def delivered(attempts: int, via: str = "push") -> Delivered:
    return Delivered(MessengerId(1), "alpha", 79160000001, 1, "u-1", NOW, NOW, NOW, attempts, NOW, via, None, None, None)


def pushes(*outcomes: str) -> list[AttemptRow]:
    return [AttemptRow(NOW - timedelta(seconds=place), 1, outcome, None, 7, None) for place, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("attempts", "via", "outcomes", "own"),
    [
        (1, "push", ["acknowledged"], ["acknowledged"]),
        (1, "push", ["acknowledged", "acknowledged"], []),
        (1, "push", ["acknowledged", "failed", "rejected"], ["acknowledged"]),
        (3, "push", ["acknowledged", "failed", "rejected"], ["failed", "rejected", "acknowledged"]),
        (2, "push", ["acknowledged", "failed", "failed"], ["acknowledged"]),
        (1, "pull", ["acknowledged", "failed"], ["failed"]),
        (1, "push", ["acknowledged"] + ["failed"] * PUSHES_MAX, []),
    ],
)
def test_a_push_is_told_as_its_own_only_where_it_must_have_been(attempts: int, via: str, outcomes: list[str], own: list[str]) -> None:
    assert [push.outcome for push in own_pushes(delivered(attempts, via), pushes(*outcomes))] == own
