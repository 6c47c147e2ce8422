"""The digest: one hash whatever the pages, the one that a shell makes, and that tells any loss."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.digest import Digester, digest_event, digest_of

IDS = st.lists(st.uuids(), min_size=1, max_size=30, unique=True)


@given(IDS, st.integers(1, 30), st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_order_or_pages(ids: list[UUID], size: int, random: st.DataObject) -> None:
    ordered = sorted(ids)
    digester = Digester()
    for first in range(0, len(ordered), size):
        digester.add(ordered[first : first + size])
    random.shuffle(ids)  # type: ignore[attr-defined]
    assert digester.digest == digest_of(ids) == digest_of([*ids, *ids])
    assert digester.digest[:3] == (len(ids), ordered[0], ordered[-1])
    assert digester.digest.sha256 == hashlib.sha256("".join(f"{i}\n" for i in ordered).encode()).digest()


@given(IDS, st.data())
def test_any_loss_changes_the_digest(ids: list[UUID], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(ids))
    assert digest_of(i for i in ids if i != lost) != digest_of(ids)


def test_ids_out_of_order_are_refused() -> None:
    digester = Digester()
    digester.add([UUID(int=2)])
    with pytest.raises(ValueError, match="ascending"):
        digester.add([UUID(int=1)])


def test_a_day_without_notifications_has_a_digest_too() -> None:
    event = digest_event(date(2026, 11, 24), digest_of([]), datetime(2026, 11, 25, 0, 10, tzinfo=UTC))
    assert event["data"] == {
        "day": "2026-11-24",
        "count": 0,
        "firstNotificationId": None,
        "lastNotificationId": None,
        "sha256": hashlib.sha256(b"").hexdigest(),
    }
