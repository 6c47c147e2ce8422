"""The bucket behind budgets and trickles: so many a minute, evenly, a minute's worth saved up at most."""

from __future__ import annotations

import pytest

from registryd.domain.errors import Throttled
from registryd.presence.bucket import MINUTE_S, TokenBucket
from registryd.presence.quota import Throttle
from tests.presence.searching import PER_MINUTE


def test_a_slowed_messenger_is_answered_so_many_a_minute_evenly() -> None:
    trickle = Throttle(3_600)
    waits = []
    for tenth in range(6_000):  # ten minutes, ten times a second
        try:
            trickle.take(tenth / 10, 1, PER_MINUTE)
            waits.append(0)
        except Throttled as refused:
            waits.append(refused.retry_after_s)
    assert waits.count(0) == PER_MINUTE + 599
    assert set(waits) == {0, 1}
    assert {sum(wait == 0 for wait in waits[second : second + 10]) for second in range(600, 6_000, 10)} == {1}


def test_a_minute_s_worth_may_be_saved_up_and_no_more() -> None:
    trickle = Throttle(3_600)
    trickle.take(0, PER_MINUTE, PER_MINUTE)
    with pytest.raises(Throttled) as refused:
        trickle.take(0, 31, PER_MINUTE)
    assert refused.value.retry_after_s == 31
    trickle.take(31, 31, PER_MINUTE)
    later = 1_800
    trickle.take(later, PER_MINUTE, PER_MINUTE)
    with pytest.raises(Throttled):
        trickle.take(later, 1, PER_MINUTE)
    with pytest.raises(Throttled) as refused:
        trickle.take(later + MINUTE_S, PER_MINUTE + 1, PER_MINUTE)
    assert refused.value.retry_after_s == 29 * 60, "until the alarm's end: it will never fit"


def test_a_bucket_tells_what_may_be_taken_and_when_it_is_whole_again() -> None:
    bucket = TokenBucket()
    now = 1_000.0
    assert bucket.limit("calls", now, 120) == ("calls", 120, 60, 120, 0.0)
    bucket.take(now, 90, 120)
    assert bucket.limit("calls", now, 120)[3:] == (30, 45.0)
    assert bucket.limit("calls", now + 44, 120)[3:] == (118, 1.0)
    left = bucket.limit("calls", now + 10, 120).left
    assert bucket.take(now + 10, left + 1, 120) > 0, "no more than it tells"
    assert bucket.take(now + 10, left, 120) == 0
    assert bucket.limit("calls", now + 10, 120).left == 0
