"""The schedule: growing gaps that never outrun the deadline, an end to no notification, and a probe at least every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.schedule import GAP_MAX, GAP_MIN, GAP_OVERDUE, INTERNAL_MARGIN, PROBE_MAX, next_attempt, next_probe

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
    assert timedelta(seconds=1) <= gap <= bound(NOW, deadline_at)


@given(st.timedeltas(-timedelta(days=400), timedelta(days=400)), failures, jitters, waits)
def test_retry_after_is_honoured_up_to_the_same_bound(until_deadline: timedelta, attempts: int, jitter: float, asked: timedelta) -> None:
    deadline_at = NOW + until_deadline
    assert next_attempt(NOW, deadline_at, attempts, jitter, asked) >= NOW + min(asked, bound(NOW, deadline_at))


def test_gaps_double_from_seconds_while_there_is_time() -> None:
    gaps = [(next_attempt(NOW, NOW + timedelta(days=7), attempts, 1.0) - NOW).total_seconds() for attempts in range(1, 12)]
    assert gaps == [4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert next_attempt(NOW, NOW + timedelta(days=7), 9, 0.0) - NOW == timedelta(seconds=450), "jitter takes off half at most"


@given(st.timedeltas(HOUR, timedelta(days=7)), st.data())
def test_whatever_fails_some_attempt_falls_within_the_last_hour_and_attempts_stay_bounded(notice: timedelta, data: st.DataObject) -> None:
    deadline_at = NOW + notice
    jitter = data.draw(st.lists(jitters, min_size=1, max_size=20))
    retry_after = data.draw(st.lists(retry_afters, min_size=1, max_size=20))
    at, attempts, last_hour = NOW, 0, 0
    while at < deadline_at:
        attempts += 1
        last_hour += at >= deadline_at - INTERNAL_MARGIN
        at = next_attempt(at, deadline_at, attempts, jitter[attempts % len(jitter)], retry_after[attempts % len(retry_after)])
    assert 100 <= last_hour <= 300, "every 15 to 30 s of it, at the start less"
    assert attempts <= 1_000 + 2 * (notice / GAP_MAX)


@given(st.timedeltas(timedelta(0), timedelta(days=4000)), failures, jitters, retry_afters)
def test_overdue_notification_goes_on_being_tried(late: timedelta, attempts: int, jitter: float, retry_after: timedelta | None) -> None:
    assert timedelta(0) < next_attempt(NOW, NOW - late, attempts, jitter, retry_after) - NOW <= GAP_OVERDUE


@given(failures, jitters, retry_afters)
def test_failing_endpoint_is_probed_within_a_minute(failed: int, jitter: float, retry_after: timedelta | None) -> None:
    gap = next_probe(NOW, failed, jitter, retry_after) - NOW
    assert timedelta(seconds=0.5) <= gap <= PROBE_MAX == timedelta(seconds=60)
    if retry_after is not None:
        assert gap >= min(retry_after, PROBE_MAX)


def test_probes_slow_down_from_a_second_to_a_minute() -> None:
    assert [(next_probe(NOW, n, 1.0) - NOW).total_seconds() for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [(next_probe(NOW, n, 0.0) - NOW).total_seconds() for n in (1, 8)] == [0.5, 30]


@given(st.integers(0, 50), jitters)
def test_more_jitter_never_means_an_earlier_attempt(attempts: int, jitter: float) -> None:
    deadline_at = NOW + timedelta(hours=24)
    assert next_attempt(NOW, deadline_at, attempts, 0.0) <= next_attempt(NOW, deadline_at, attempts, jitter)
    assert next_attempt(NOW, deadline_at, attempts, jitter) <= next_attempt(NOW, deadline_at, attempts, 1.0)
    assert next_attempt(NOW, deadline_at, attempts, jitter) >= NOW + GAP_MIN / 2
