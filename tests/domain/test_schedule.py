"""The schedule: growing gaps that never outrun the deadline, an end to no notification, and a probe at least every minute."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.schedule import (
    GAP_MIN,
    GAP_OVERDUE,
    INTERNAL_MARGIN,
    PROBE_MAX,
    next_attempt,
    next_attempt_of_refused,
    next_probe,
    presses,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
jitters = st.floats(0, 1)
waits = st.timedeltas(timedelta(0), timedelta(days=40))
retry_afters = st.none() | waits
failures = st.integers(1, 10**6)


def bound(slack: timedelta) -> timedelta:
    """The longest gap allowed: the lesser of 15 minutes and a twentieth of the slack, above a floor; steady once there is none."""
    inner = slack - HOUR
    return max(min(timedelta(minutes=15), inner / 20), timedelta(seconds=2)) if inner > timedelta(0) else timedelta(seconds=30)


@given(st.timedeltas(-timedelta(days=400), timedelta(days=400)), failures, jitters, retry_afters)
def test_gap_never_exceeds_a_twentieth_of_the_slack(slack: timedelta, attempts: int, jitter: float, retry_after: timedelta | None) -> None:
    gap = next_attempt(slack, attempts, jitter, retry_after)
    assert timedelta(seconds=2) <= gap <= bound(slack)


@given(st.timedeltas(-timedelta(days=400), timedelta(days=400)), failures, jitters, waits)
def test_retry_after_is_honoured_up_to_the_same_bound(slack: timedelta, attempts: int, jitter: float, asked: timedelta) -> None:
    assert next_attempt(slack, attempts, jitter, asked) >= min(asked, bound(slack))


def test_gaps_double_from_seconds_while_there_is_time() -> None:
    gaps = [next_attempt(timedelta(days=7), attempts, 1.0).total_seconds() for attempts in range(1, 12)]
    assert gaps == [4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert next_attempt(timedelta(days=7), 9, 0.0) == GAP_MIN, "full jitter takes off all but the floor"
    assert next_attempt(timedelta(days=7), 9, 0.5) == timedelta(seconds=450)


@given(st.timedeltas(HOUR, timedelta(days=7)), st.data())
def test_whatever_fails_some_attempt_falls_within_the_last_hour_and_attempts_stay_bounded(notice: timedelta, data: st.DataObject) -> None:
    # Some gap is whole: with no jitter for a day, each of 43,200 floors would have to be walked (the next test does once).
    jitter = data.draw(st.lists(st.floats(0, 1), max_size=20)) + [1.0] * 2
    retry_after = data.draw(st.lists(retry_afters, min_size=1, max_size=20))
    slack, attempts, last_hour = notice, 0, 0
    while slack > timedelta(0):
        attempts += 1
        last_hour += slack <= INTERNAL_MARGIN
        slack -= next_attempt(slack, attempts, jitter[attempts % len(jitter)], retry_after[attempts % len(retry_after)])
    assert last_hour >= HOUR / GAP_OVERDUE, "every 30 s of it, or more often"
    assert attempts <= notice / GAP_MIN + 1


def test_number_of_attempts_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A messenger that refuses one notification for all of its 24 hours: what the worst and the usual jitter make of it."""
    usual = random.Random(1801).random

    def attempts_of(jitter: Callable[[], float]) -> int:
        slack, attempts = timedelta(hours=24), 0
        while slack > timedelta(0):
            attempts += 1
            slack -= next_attempt(slack, attempts, jitter())
        return attempts

    most, least, told = attempts_of(lambda: 0.0), attempts_of(lambda: 1.0), sorted(attempts_of(usual) for _ in range(100))
    with capsys.disabled():
        sys.stdout.write(
            f"\nattempts of one notification in 24 h: {least} at least, {told[50]} usually, {told[-1]} at worst of 100, {most} at most\n"
        )
    assert least >= 300
    assert told[-1] < 1_000
    assert most == timedelta(hours=24) / GAP_MIN


@given(st.timedeltas(timedelta(0), timedelta(days=4000)), failures, jitters, retry_afters)
def test_overdue_notification_goes_on_being_tried(late: timedelta, attempts: int, jitter: float, retry_after: timedelta | None) -> None:
    assert timedelta(0) < next_attempt(-late, attempts, jitter, retry_after) <= GAP_OVERDUE


@given(failures, jitters, retry_afters)
def test_failing_endpoint_is_probed_within_a_minute(failed: int, jitter: float, retry_after: timedelta | None) -> None:
    gap = next_probe(failed, jitter, retry_after)
    assert timedelta(seconds=0.5) <= gap <= PROBE_MAX < timedelta(seconds=60)
    if retry_after is not None:
        assert gap >= min(retry_after, PROBE_MAX)


def test_probes_slow_down_from_a_second_to_a_minute() -> None:
    assert [next_probe(n, 1.0).total_seconds() for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 59, 59]
    assert [next_probe(n, 0.0).total_seconds() for n in (1, 8)] == [0.5, 0.5]


@given(st.integers(0, 50), jitters)
def test_more_jitter_never_means_an_earlier_attempt(attempts: int, jitter: float) -> None:
    least, drawn, most = (next_attempt(timedelta(hours=24), attempts, chance) for chance in (0.0, jitter, 1.0))
    assert GAP_MIN <= least <= drawn <= most


@given(st.timedeltas(-timedelta(days=400), timedelta(days=400)), failures, jitters)
def test_refused_content_is_tried_every_five_minutes_and_once_an_hour_when_it_is_overdue(
    slack: timedelta, attempts: int, jitter: float
) -> None:
    gap = next_attempt_of_refused(slack, attempts, jitter)
    assert gap <= timedelta(minutes=5) if slack > timedelta(0) else gap == HOUR


def test_deadline_presses_from_half_of_the_notice_period_on() -> None:
    deadline_at = NOW + timedelta(hours=24)
    assert not presses(NOW, NOW, deadline_at)
    assert not presses(NOW + timedelta(hours=12), NOW, deadline_at)
    assert presses(NOW + timedelta(hours=12, seconds=1), NOW, deadline_at)
    assert presses(deadline_at + HOUR, NOW, deadline_at)
