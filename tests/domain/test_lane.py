"""A lane's course: what it reads again, what it paces, what it closes for; with the rows and the answers brought by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from registryd.domain.lane import HEAD, PAGE, REFUSED_MAX, REFUSED_WITHIN, REREAD_S, Batch, LaneState, Read
from registryd.domain.notification import BEGINNING, Acknowledged, Failed, Notification, Outcome, Rejected
from registryd.domain.pace import Pace, Throughput
from registryd.domain.schedule import PROBE_MAX

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(hours=24)


def owed(number: int, ended_ago: timedelta = timedelta(0), attempts: int = 0) -> Notification:
    terminated_at = NOW - ended_ago + timedelta(milliseconds=number)
    return Notification(terminated_at + DAY, UUID(int=number), 79160000000, 1, f"c{number}", terminated_at, NOW, attempts)


def course(batch_max: int = 1, width: int = 4, failures: int = 0, throughput: Throughput | None = None) -> LaneState:
    return LaneState(batch_max, failures, Pace(width), throughput or Throughput(), lambda: 0.5)


def begun(lane: LaneState, now_s: float, now: datetime = NOW) -> list[Batch]:
    batches = []
    while (batch := lane.begin(now, now_s)) is not None:
        batches.append(batch)
    return batches


def answer(lane: LaneState, batch: Batch, outcome: Outcome, now_s: float = 1.0) -> None:
    lane.note(batch, outcome, NOW, now_s - 0.01, NOW, now_s)


def settle(lane: LaneState) -> None:
    settlement = lane.settle()
    assert settlement is not None
    lane.settled(settlement)


def test_long_pass_looks_back_so_that_what_was_committed_late_or_backdated_goes_first() -> None:
    lane = course()
    assert lane.reads(0.0) == Read(BEGINNING, PAGE)
    rows = [owed(n) for n in range(1, PAGE + 1)]
    lane.offer(rows)
    assert [batch[0].notification_id.int for batch in begun(lane, 0.1)] == [1, 2, 3, 4]
    end = (rows[-1].deadline_at, rows[-1].notification_id)
    assert lane.reads(REREAD_S / 2) == Read(end, PAGE)
    later = [owed(n) for n in range(PAGE + 1, 2 * PAGE + 1)]
    lane.offer(later)
    assert lane.reads(REREAD_S) == Read(BEGINNING, 4 + HEAD)
    backdated = owed(0, timedelta(hours=20))
    lane.offer([backdated, *rows[: 3 + HEAD]])
    for n in range(1, 5):
        answer(lane, (rows[n - 1],), Acknowledged(204))
    assert [batch[0].notification_id.int for batch in begun(lane, 1.1)] == [0, 5, 6, 7], "and what is under way is not pushed twice"
    assert lane.reads(REREAD_S) is not None, "as many as it looked for: there may be more"
    lane.offer(rows[:HEAD])
    assert lane.reads(REREAD_S) is None, "there is enough, and the pass goes on from where it was"


def test_what_is_settled_while_its_row_is_being_read_is_not_pushed_again() -> None:
    lane = course()
    lane.reads(0.0)
    rows = [owed(n) for n in range(1, PAGE + 1)]
    lane.offer(rows)
    first, second, *_ = begun(lane, 0.0)
    answer(lane, first, Acknowledged(204))
    answer(lane, second, Failed("status 500", 500))
    assert lane.reads(REREAD_S) == Read(BEGINNING, 4 + HEAD)
    settle(lane)
    lane.offer(rows)
    answer(lane, (rows[2],), Acknowledged(204))
    answer(lane, (rows[3],), Acknowledged(204))
    pushed = [batch[0].notification_id.int for batch in begun(lane, 1.1)]
    assert pushed[0] == 5


def test_backlog_is_paced_by_what_comes_back_as_queries_until_deadlines_press() -> None:
    throughput = Throughput(echo_per_s=1000.0)
    rows = [owed(n) for n in range(PAGE)]
    paced = course(batch_max=100, width=64, throughput=throughput)
    paced.reads(0.0)
    paced.offer(rows)
    assert paced in throughput.bulky
    assert sum(map(len, begun(paced, 0.0))) <= 200, "a tenth of a second's, and the batch that crosses it"
    assert 0 < paced.waits_s() <= 0.2
    assert sum(map(len, begun(paced, 0.2))) >= 100

    pressing = course(batch_max=100, width=64, throughput=throughput)
    pressing.reads(0.0)
    pressing.offer([owed(n, timedelta(hours=13)) for n in range(PAGE)])
    assert sum(map(len, begun(pressing, 0.0))) == PAGE

    few = course(batch_max=100, width=64, throughput=Throughput(echo_per_s=1.0))
    few.reads(0.0)
    few.offer([owed(n) for n in range(PAGE - 1)])
    assert sum(map(len, begun(few, 0.0))) == PAGE - 1, "what is no backlog is not worth counting"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_haste_slows_a_lane_whose_endpoint_lives_and_closes_one_whose_endpoint_does_not(status: int) -> None:
    lane = course(width=8)
    lane.reads(0.0)
    lane.offer([owed(n) for n in range(50)])
    first = begun(lane, 0.0)
    for batch in first[:4]:
        answer(lane, batch, Acknowledged(204), 0.1)
    for batch in first[4:]:
        answer(lane, batch, Failed(f"status {status}", status), 0.2)
    assert lane.gate is None
    assert len(begun(lane, 10.0)) in (1, 4), "half as wide; by rate too, where the answer was 429"

    dead = course(width=8)
    dead.reads(0.0)
    dead.offer([owed(n) for n in range(50)])
    answer(dead, begun(dead, 0.0)[0], Failed(f"status {status}", status), 0.1)
    assert dead.gate is not None


def test_endpoint_that_refuses_everything_is_a_failing_one_and_one_that_refuses_some_is_not() -> None:
    lane = course(width=1)
    lane.reads(0.0)
    lane.offer([owed(n) for n in range(30)])
    for n in range(2 * REFUSED_MAX):
        [batch] = begun(lane, 0.0)
        answer(lane, batch, Acknowledged(204) if n % REFUSED_MAX == 5 else Rejected(422))
        assert lane.gate is None
    for _ in range(REFUSED_MAX - 4):
        [batch] = begun(lane, 0.0)
        assert lane.gate is None
        answer(lane, batch, Rejected(400))
    assert lane.gate is not None
    assert not begun(lane, 0.0)
    settlement = lane.settle()
    assert settlement is not None
    assert {deferral.not_before for deferral in settlement.deferred if deferral.not_before > NOW + REFUSED_WITHIN} == set()

    probed = course(failures=1)
    probed.reads(0.0)
    probed.offer([owed(1), owed(2)])
    [canary] = begun(probed, 0.0)
    answer(probed, canary, Rejected(400))
    assert probed.gate is not None, "a canary that is refused opens nothing"
    settlement = probed.settle()
    assert settlement is not None
    assert [deferral.not_before for deferral in settlement.deferred] == [probed.gate.until]


def test_lanes_that_share_a_bound_push_at_uneven_gaps_of_the_right_mean() -> None:
    gaps = []
    for jitter in (0.0, 0.5, 1.0):
        lane = LaneState(100, 0, Pace(64), Throughput(echo_per_s=100.0), lambda jitter=jitter: jitter)  # type: ignore[misc] # a default
        lane.reads(0.0)
        lane.offer([owed(n) for n in range(PAGE)])
        begun(lane, 0.0)
        gaps.append(round(lane.waits_s(), 3))
    assert gaps == [0.4, 0.9, 1.4], "a second each, less what may be pushed ahead"


def test_looking_back_takes_nothing_from_beyond_what_was_read() -> None:
    lane = course()
    lane.reads(0.0)
    lane.offer([owed(n) for n in range(1, PAGE + 1)])
    assert lane.reads(REREAD_S) == Read(BEGINNING, HEAD)
    lane.offer([owed(n) for n in range(PAGE + 1, PAGE + HEAD + 1)])
    assert lane.reads(REREAD_S + 0.1) is None, "and it need not look again at once"
    pushed = 0
    while batches := begun(lane, REREAD_S + 0.1):
        for batch in batches:
            pushed += 1
            answer(lane, batch, Acknowledged(204), REREAD_S + 0.2)
    assert pushed == PAGE


def test_endpoint_that_says_it_is_gone_is_probed_on_and_slowly() -> None:
    lane = course()
    lane.reads(0.0)
    lane.offer([owed(1)])
    [batch] = begun(lane, 0.0)
    answer(lane, batch, Failed("status 410", 410))
    assert lane.gate is not None
    assert lane.gate.until == NOW + PROBE_MAX


def test_closed_lane_is_probed_by_the_one_that_failed_least_and_opens_by_its_receipt() -> None:
    lane = course(batch_max=10, failures=3)
    assert lane.reads(0.0) == Read(BEGINNING, PAGE)
    lane.offer([owed(1, attempts=5), owed(2, attempts=1), owed(3, attempts=2)])
    [batch] = begun(lane, 0.0)
    assert [n.notification_id.int for n in batch] == [2]
    answer(lane, batch, Acknowledged(204))
    settlement = lane.settle()
    assert settlement is not None
    assert settlement.reopens
    lane.settled(settlement)
    assert (lane.failures, lane.reads(1.0)) == (0, Read(BEGINNING, PAGE))


def test_what_could_not_be_written_is_kept_for_the_next_time() -> None:
    lane = course()
    lane.reads(0.0)
    lane.offer([owed(n) for n in range(1, 4)])
    first, second, third = begun(lane, 0.0)
    answer(lane, first, Acknowledged(204))
    settlement = lane.settle()
    assert settlement is not None
    answer(lane, second, Acknowledged(204))
    lane.unsettle(settlement)
    assert not lane.idle
    again = lane.settle()
    assert again is not None
    assert [i.int for i in again.delivered] == [1, 2]
    lane.settled(again)
    answer(lane, third, Acknowledged(204))
    settle(lane)
    assert lane.idle
