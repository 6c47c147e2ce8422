"""The schedule: growing gaps that never outrun the deadline, an end to no notification, and a probe at least every minute."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.schedule import GAP_MIN, GAP_OVERDUE, INTERNAL_MARGIN, PROBE_MAX, next_attempt, next_probe, presses

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
jitters = st.floats(0, 1)
waits = st.timedeltas(timedelta(0), timedelta(days=40))
retry_afters = st.none() | waits
failures = st.integers(1, 10**6)


def bound(now: datetime, deadline_at: datetime) -> timedelta:
    """The longest gap allowed: the lesser of 15 minutes and a twentieth of the slack, above a floor; steady once there is none."""
    slack = deadline_at - HOUR - now
    return max(min(timedelta(minutes=15), slack / 20), timedelta(seconds=2)) if slack > timedelta(0) else timedelta(seconds=30)


@given(st.timedeltas(-timedelta(days=400), timedelta(days=400)), failures, jitters, retry_afters)
def test_gap_never_exceeds_a_twentieth_of_the_slack(
    until_deadline: timedelta, attempts: int, jitter: float, retry_after: timedelta | None
) -> None:
    deadline_at = NOW + until_deadline
    gap = next_attempt(NOW, deadline_at, attempts, jitter, retry_after) - NOW
    assert timedelta(seconds=2) <= gap <= bound(NOW, deadline_at)


@given(st.timedeltas(-timedelta(days=400), timedelta(days=400)), failures, jitters, waits)
def test_retry_after_is_honoured_up_to_the_same_bound(until_deadline: timedelta, attempts: int, jitter: float, asked: timedelta) -> None:
    deadline_at = NOW + until_deadline
    assert next_attempt(NOW, deadline_at, attempts, jitter, asked) >= NOW + min(asked, bound(NOW, deadline_at))


def test_gaps_double_from_seconds_while_there_is_time() -> None:
    gaps = [(next_attempt(NOW, NOW + timedelta(days=7), attempts, 1.0) - NOW).total_seconds() for attempts in range(1, 12)]
    assert gaps == [4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert next_attempt(NOW, NOW + timedelta(days=7), 9, 0.0) - NOW == GAP_MIN, "full jitter takes off all but the floor"
    assert next_attempt(NOW, NOW + timedelta(days=7), 9, 0.5) - NOW == timedelta(seconds=450)


@given(st.timedeltas(HOUR, timedelta(days=7)), st.data())
def test_whatever_fails_some_attempt_falls_within_the_last_hour_and_attempts_stay_bounded(notice: timedelta, data: st.DataObject) -> None:
    deadline_at = NOW + notice
    # Some gap is whole: with no jitter for a day, each of 43,200 floors would have to be walked (the next test does once).
    jitter = data.draw(st.lists(st.floats(0, 1), max_size=20)) + [1.0] * 2
    retry_after = data.draw(st.lists(retry_afters, min_size=1, max_size=20))
    at, attempts, last_hour = NOW, 0, 0
    while at < deadline_at:
        attempts += 1
        last_hour += at >= deadline_at - INTERNAL_MARGIN
        at = next_attempt(at, deadline_at, attempts, jitter[attempts % len(jitter)], retry_after[attempts % len(retry_after)])
    assert last_hour >= HOUR / GAP_OVERDUE, "every 30 s of it, or more often"
    assert attempts <= notice / GAP_MIN + 1


def test_number_of_attempts_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A messenger that refuses one notification for all of its 24 hours: what the worst and the usual jitter make of it."""
    usual = random.Random(1801).random

    def attempts_of(jitter: Callable[[], float]) -> int:
        at, attempts = NOW, 0
        while at < NOW + timedelta(hours=24):
            attempts += 1
            at = next_attempt(at, NOW + timedelta(hours=24), attempts, jitter())
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
    assert timedelta(0) < next_attempt(NOW, NOW - late, attempts, jitter, retry_after) - NOW <= GAP_OVERDUE


@given(failures, jitters, retry_afters)
def test_failing_endpoint_is_probed_within_a_minute(failed: int, jitter: float, retry_after: timedelta | None) -> None:
    gap = next_probe(NOW, failed, jitter, retry_after) - NOW
    assert timedelta(seconds=0.5) <= gap <= PROBE_MAX < timedelta(seconds=60)
    if retry_after is not None:
        assert gap >= min(retry_after, PROBE_MAX)


def test_probes_slow_down_from_a_second_to_a_minute() -> None:
    assert [(next_probe(NOW, n, 1.0) - NOW).total_seconds() for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 59, 59]
    assert [(next_probe(NOW, n, 0.0) - NOW).total_seconds() for n in (1, 8)] == [0.5, 0.5]


@given(st.integers(0, 50), jitters)
def test_more_jitter_never_means_an_earlier_attempt(attempts: int, jitter: float) -> None:
    deadline_at = NOW + timedelta(hours=24)
    assert next_attempt(NOW, deadline_at, attempts, 0.0) <= next_attempt(NOW, deadline_at, attempts, jitter)
    assert next_attempt(NOW, deadline_at, attempts, jitter) <= next_attempt(NOW, deadline_at, attempts, 1.0)
    assert next_attempt(NOW, deadline_at, attempts, jitter) >= NOW + GAP_MIN


def test_deadline_presses_from_half_of_the_notice_period_on() -> None:
    deadline_at = NOW + timedelta(hours=24)
    assert not presses(NOW, NOW, deadline_at)
    assert not presses(NOW + timedelta(hours=12), NOW, deadline_at)
    assert presses(NOW + timedelta(hours=12, seconds=1), NOW, deadline_at)
    assert presses(deadline_at + HOUR, NOW, deadline_at)
