"""The pace of one messenger: additive increase, multiplicative decrease, on latency, 429 and 5xx."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.pace import BURST_S, Pace, Throughput


def receive(pace: Pace, now_s: float, count: int, took_s: float = 0.01, notifications: int = 1) -> None:
    for _ in range(count):
        pace.receive(now_s - took_s, now_s, notifications)


def test_healthy_messenger_is_pushed_to_at_full_width_and_any_rate() -> None:
    pace = Pace(16)
    receive(pace, 1.0, 1000)
    assert (pace.width, pace.wait_s(1.0)) == (16, 0.0)


def test_overload_cuts_once_for_all_that_was_under_way_together() -> None:
    pace = Pace(16)
    receive(pace, 1.0, 10)
    assert [pace.overload(0.9, 1.0, by_rate=False) for _ in range(16)] == [True] * 16
    assert pace.width == 8
    receive(pace, 2.0, 1)
    assert pace.overload(1.5, 2.0, by_rate=False)
    assert pace.width == 4


def test_overload_with_no_receipt_since_the_last_cut_is_a_failure() -> None:
    pace = Pace(16)
    assert not pace.overload(0.0, 1.0, by_rate=True)
    receive(pace, 2.0, 1)
    assert pace.overload(1.0, 2.0, by_rate=False)
    assert not pace.overload(2.5, 3.0, by_rate=False)


def test_width_regained_is_one_a_round_after_a_cut_and_doubled_a_round_after_a_failure() -> None:
    cut, closed = Pace(16), Pace(16)
    receive(cut, 1.0, 1)
    cut.overload(0.9, 1.0, by_rate=False)
    closed.close()
    assert (cut.width, closed.width) == (8, 1)
    widths = []
    for round_ in range(4):
        receive(cut, 2.0 + round_, cut.width)
        receive(closed, 2.0 + round_, closed.width)
        widths.append((cut.width, closed.width))
    assert [closed for _, closed in widths] == [2, 4, 8, 8]
    assert 10 <= widths[-1][0] <= 12
    receive(cut, 10.0, 200)
    assert cut.width == 16, "and no more than is allowed"


def test_too_many_requests_teaches_the_rate_and_seconds_give_it_back() -> None:
    pace = Pace(16)
    for tick in range(40):
        receive(pace, 1.0 + tick / 10, 10)
    pace.overload(4.85, 5.0, by_rate=True)
    assert 60 <= pace.rate <= 75, "of 100 notifications a second, 0.7"
    began = 0
    now_s = 5.0
    while now_s < 6.0:
        if pace.wait_s(now_s) <= 0:
            pace.begin(now_s, 1)
            began += 1
        now_s += 0.001
    assert abs(began - pace.rate) <= pace.rate * BURST_S + 1
    learned = pace.rate
    for second in range(30):
        receive(pace, 6.0 + second, 1)
    assert 2 * learned <= pace.rate <= 5 * learned


def test_server_errors_leave_the_rate_alone() -> None:
    pace = Pace(16)
    receive(pace, 1.0, 1)
    assert pace.overload(0.9, 1.0, by_rate=False)
    assert pace.wait_s(1.0) == 0.0


def test_receipts_that_grow_slow_cut_the_width_and_an_endpoint_that_is_slow_by_nature_is_not_starved() -> None:
    pace = Pace(16)
    receive(pace, 1.0, 100, took_s=0.05)
    receive(pace, 10.0, 1, took_s=5.0)
    assert pace.width == 8
    for round_ in range(200):
        receive(pace, 20.0 + 10 * round_, 5, took_s=5.0)
    assert pace.width == 16


def test_latency_below_a_second_is_never_slow() -> None:
    pace = Pace(16)
    receive(pace, 1.0, 100, took_s=0.001)
    receive(pace, 2.0, 100, took_s=0.9)
    assert pace.width == 16


@given(st.lists(st.sampled_from(["receive", "slow", "429", "500", "close"]), max_size=200))
def test_pace_always_lets_something_begin_and_stays_within_its_bounds(events: list[str]) -> None:
    pace, now_s = Pace(16), 0.0
    for event in events:
        now_s += 0.5
        match event:
            case "receive" | "slow":
                pace.receive(now_s - (5.0 if event == "slow" else 0.01), now_s, 10)
            case "429" | "500":
                pace.overload(now_s - 0.01, now_s, by_rate=event == "429")
            case "close":
                pace.close()
        assert 1 <= pace.width <= 16
        pace.begin(now_s, 1)
        assert pace.wait_s(now_s) <= len(events) / 1.0, "a push a second, at the slowest"
        now_s += max(0.0, pace.wait_s(now_s))


def test_lanes_with_a_backlog_share_what_comes_back_as_queries() -> None:
    assert Throughput(5000.0, lanes=100, bulky={0, 1, 2, 3}).share_per_s(presses=False) == 1250.0
    assert Throughput(5000.0, lanes=100, bulky={0, 1, 2, 3}).share_per_s(presses=True) == float("inf")
    pace = Pace(256)
    began, now_s = 0, 0.0
    while now_s < 10.0:
        if pace.wait_s(now_s, 1250.0) <= 0:
            pace.begin(now_s, 100, 1250.0)
            began += 100
        now_s += 0.005
    assert 12_300 <= began <= 12_900
    assert pace.wait_s(now_s) == 0.0, "the bound is the caller's, and gone with it"
