"""Backlogs: slack, pace and ETA, who is too slow, and which alarms a slack raises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.backlog import Backlog
from registryd.domain.identifiers import MessengerId, masked_code, masked_number

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
THRESHOLDS = [22 * HOUR, 12 * HOUR, HOUR, timedelta(0)]
NONE = Backlog(
    MessengerId(1), "alpha", True, 0, 0, 0, 0, 0, False, None, None, 0, timedelta(minutes=5), False, None, None, [], False, False, NOW
)


def owing(pending: int, slack: timedelta, age: timedelta, received: int = 0) -> Backlog:
    return NONE._replace(pending=pending, deadline_at=NOW + slack, recorded_at=NOW - age, received=received)


def test_nothing_owed_is_done_and_never_late() -> None:
    assert (NONE.slack, NONE.age, NONE.eta, NONE.is_too_slow) == (None, None, timedelta(0), False)


def test_eta_is_the_backlog_at_the_present_pace_and_red_beyond_the_slack() -> None:
    backlog = owing(3600, HOUR, HOUR, received=300)
    assert (backlog.per_second, backlog.eta) == (1.0, HOUR)
    assert not backlog.is_too_slow
    assert backlog._replace(pending=3601).is_too_slow


@pytest.mark.parametrize(
    ("slack", "age", "too_slow"),
    [
        (20 * HOUR, timedelta(minutes=4), False),  # its lane has had no time yet
        (20 * HOUR, timedelta(minutes=6), True),
        (-HOUR, timedelta(seconds=1), True),  # told of too late: overdue from the start
    ],
)
def test_without_a_pace_only_a_young_backlog_is_given_the_benefit_of_the_doubt(slack: timedelta, age: timedelta, too_slow: bool) -> None:
    backlog = owing(1, slack, age)
    assert backlog.eta is None
    assert backlog.is_too_slow is too_slow


def test_a_messenger_that_pulls_is_not_judged_by_a_pace() -> None:
    assert not owing(1, 20 * HOUR, HOUR)._replace(has_endpoint=False).is_too_slow
    assert owing(1, -HOUR, HOUR)._replace(has_endpoint=False).is_too_slow


def test_replayed_notifications_are_pending_and_never_too_slow() -> None:
    assert not NONE._replace(pending=1_000_000, replayed=1_000_000).is_too_slow


@pytest.mark.parametrize(
    ("gated", "succeeded", "age", "due"),
    [
        (True, NOW - 7 * HOUR, 7 * HOUR, True),
        (True, None, 7 * HOUR, True),
        (True, NOW - 5 * HOUR, 7 * HOUR, False),
        (True, NOW - 7 * HOUR, 5 * HOUR, False),  # it was idle, and fails since five hours at most
        (False, NOW - 7 * HOUR, 7 * HOUR, False),
    ],
)
def test_the_second_channel_is_due_when_pushes_have_failed_for_six_hours(
    gated: bool, succeeded: datetime | None, age: timedelta, due: bool
) -> None:
    assert owing(1, HOUR, age)._replace(is_gated=gated, last_success_at=succeeded).needs_second_channel is due


def alarms(slack: timedelta | None) -> list[timedelta]:
    backlog = NONE if slack is None else owing(1, slack, HOUR)
    return list(backlog.alarms(THRESHOLDS).below)


@given(st.timedeltas(-48 * HOUR, 48 * HOUR), st.timedeltas(-48 * HOUR, 48 * HOUR))
def test_less_slack_never_raises_fewer_alarms(one: timedelta, other: timedelta) -> None:
    low, high = sorted((one, other))
    assert set(alarms(high)) <= set(alarms(low))


def test_a_threshold_is_crossed_below_it_and_not_at_it() -> None:
    assert alarms(None) == alarms(22 * HOUR) == []
    assert alarms(12 * HOUR) == [22 * HOUR]
    assert alarms(timedelta(seconds=-1)) == THRESHOLDS


@given(st.integers(10_000, 999_999_999_999_999))
def test_a_masked_number_keeps_six_digits_at_most(msisdn: int) -> None:
    masked = masked_number(msisdn)
    assert len(masked) == len(str(msisdn)) + 1
    assert 2 <= masked.count("*") >= len(str(msisdn)) - 6
    assert masked_number(79161234567) == "+7916*****67"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128))
def test_a_masked_code_keeps_a_quarter_at_most(code: str) -> None:
    assert set(masked_code(code)[len(code) // 4 :]) <= {"*"}
    assert masked_code("user-81f3") == "us*******"
