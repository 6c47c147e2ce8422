"""What a lane paces, what it closes for, and what it writes; with the rows and the answers brought by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from registryd.domain.identifiers import MessengerId
from registryd.domain.lane import NO_CANARY_S, REFUSED_MAX, SETTLE_MAX, LaneState, Lease
from registryd.domain.notification import BEGINNING, Acknowledged, Failed, Notification, Outcome, Rejected
from registryd.domain.pace import Pace, Throughput
from registryd.domain.push_queue import RETRY_EVERY, Batch
from registryd.domain.reading import LOOK_BACK_S, PAGE, Read
from registryd.domain.schedule import PROBE_MAX, REFUSED_MAX_GAP

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(hours=24)


def owed(number: int, ended_ago: timedelta = timedelta(0), attempts: int = 0) -> Notification:
    terminated_at = NOW - ended_ago + timedelta(milliseconds=number)
    deadline_at = terminated_at + DAY
    notification_id = UUID(int=(int(deadline_at.timestamp() * 1000) << 80) + number)
    return Notification(notification_id, deadline_at, 79160000000, 1, f"c{number}", terminated_at, NOW, attempts)


POISON = {f"c{n}" for n in range(400)}


def state(batch_max: int = 1, width: int = 4, failures: int = 0, throughput: Throughput | None = None, jitter: float = 0.5) -> LaneState:
    """A lane that was leased at second 0, which is `NOW` by the database's clock, and has never been read."""
    lease = Lease(MessengerId(1), 1, failures, BEGINNING, timedelta(0), NOW, "m", "https://m.example/", batch_max, False)
    return LaneState(lease, Pace(width), throughput or Throughput(), lambda: jitter, 0.0)


def reads(lane: LaneState, rows: list[Notification], now_s: float = 0.0) -> None:
    """A read brings these rows."""
    assert lane.reads(now_s) is not None
    lane.offer(rows, now_s, 0.001)


def begun(lane: LaneState, now_s: float) -> list[Batch]:
    batches = []
    while (batch := lane.begin(now_s)) is not None:
        batches.append(batch)
    return batches


def answer(lane: LaneState, batch: Batch, outcome: Outcome, now_s: float = 1.0) -> None:
    lane.note(batch, outcome, now_s - 0.01, now_s)


def settle(lane: LaneState, now_s: float = 1.0) -> None:
    settlement = lane.settle()
    assert settlement is not None
    lane.settled(settlement, now_s)


def pushed(batches: list[Batch]) -> list[str]:
    return [n.identification_code for batch in batches for n in batch]


def test_backlog_is_paced_by_what_comes_back_as_queries_until_deadlines_press() -> None:
    throughput = Throughput(echo_per_s=1000.0)
    paced = state(batch_max=100, width=64, throughput=throughput)
    reads(paced, [owed(n) for n in range(PAGE)])
    assert paced in throughput.bulky
    assert sum(map(len, begun(paced, 0.0))) <= 200, "a tenth of a second's, and the batch that crosses it"
    assert 0 < paced.waits_s() <= 0.2
    assert sum(map(len, begun(paced, 0.2))) >= 100
    paced.end()

    pressing = state(batch_max=100, width=64, throughput=throughput)
    reads(pressing, [owed(n, timedelta(hours=13)) for n in range(PAGE)])
    assert sum(map(len, begun(pressing, 0.0))) == PAGE

    few = state(batch_max=100, width=64, throughput=Throughput(echo_per_s=1.0))
    reads(few, [owed(n) for n in range(PAGE - 1)])
    assert sum(map(len, begun(few, 0.0))) == PAGE - 1, "what is no backlog is not worth counting"


def test_lanes_that_share_a_bound_push_at_uneven_gaps_of_the_right_mean() -> None:
    gaps = []
    for jitter in (0.0, 0.5, 1.0):
        lane = state(batch_max=100, width=64, throughput=Throughput(echo_per_s=100.0), jitter=jitter)
        reads(lane, [owed(n) for n in range(PAGE)])
        begun(lane, 0.0)
        gaps.append(round(lane.waits_s(), 3))
    assert gaps == [0.4, 0.9, 1.4], "a second each, less what may be pushed ahead"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_haste_slows_a_lane_whose_endpoint_lives_and_closes_one_whose_endpoint_does_not(status: int) -> None:
    lane = state(width=8)
    reads(lane, [owed(n) for n in range(50)])
    first = begun(lane, 0.0)
    for batch in first[:4]:
        answer(lane, batch, Acknowledged(204), 0.1)
    for batch in first[4:]:
        answer(lane, batch, Failed(f"status {status}", status), 0.2)
    assert lane.gate is None
    assert len(begun(lane, 10.0)) in (1, 4), "half as wide; by rate too, where the answer was 429"

    dead = state(width=8)
    reads(dead, [owed(n) for n in range(50)])
    answer(dead, begun(dead, 0.0)[0], Failed(f"status {status}", status), 0.1)
    assert dead.gate is not None


def test_endpoint_that_refuses_everything_is_a_failing_one_and_one_that_refuses_some_is_not() -> None:
    lane = state(width=1)
    reads(lane, [owed(n) for n in range(4 * REFUSED_MAX)])
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
    assert all(deferral.due_s <= 1.0 + REFUSED_MAX_GAP.total_seconds() for deferral in settlement.deferred)


@pytest.mark.parametrize("batch_max", [1, 16])
@pytest.mark.parametrize("width", [1, 4, 32])
def test_endpoint_that_takes_some_is_not_closed_for_what_it_refuses_while_there_is_something_that_it_takes(
    batch_max: int, width: int
) -> None:
    lane = state(batch_max, width)
    reads(lane, [owed(n) for n in range(450)])
    taken: list[str] = []
    while len(taken) < 50:
        batches = begun(lane, 0.0)
        assert batches, "it goes on, and no gate stops it"
        for batch in batches:
            is_refused = any(n.identification_code in POISON for n in batch)
            taken += [] if is_refused else pushed([batch])
            answer(lane, batch, Rejected(422) if is_refused else Acknowledged(204))
    assert sorted(taken) == sorted(f"c{n}" for n in range(400, 450))


def test_what_was_refused_before_and_is_again_says_nothing_about_the_endpoint() -> None:
    lane = state(width=1)
    reads(lane, [owed(n, attempts=1) for n in range(3 * REFUSED_MAX)])
    for _ in range(3 * REFUSED_MAX):
        [batch] = begun(lane, 0.0)
        answer(lane, batch, Rejected(422))
    assert lane.gate is None


def test_content_that_is_refused_though_it_is_overdue_is_tried_again_in_an_hour() -> None:
    lane = state(width=2)
    reads(lane, [owed(1, ended_ago=2 * DAY), owed(2)])
    overdue, in_time = begun(lane, 0.0)
    answer(lane, overdue, Rejected(422))
    answer(lane, in_time, Rejected(422))
    settlement = lane.settle()
    assert settlement is not None
    later, soon = (deferral.due_s for deferral in settlement.deferred)
    assert later == pytest.approx(3601)
    assert soon <= 1 + REFUSED_MAX_GAP.total_seconds()


def test_refused_canary_opens_nothing() -> None:
    lane = state(failures=1)
    lane.offer_canary([owed(1)], 0.0)
    [canary] = begun(lane, 0.0)
    answer(lane, canary, Rejected(400))
    assert lane.gate is not None


def test_endpoint_that_says_it_is_gone_is_probed_on_and_slowly() -> None:
    lane = state()
    reads(lane, [owed(1)])
    [batch] = begun(lane, 0.0)
    lane.note(batch, Failed("status 410", 410), 0.0, 0.5)
    assert lane.gate is not None
    assert lane.gate.until_s == PROBE_MAX.total_seconds(), "from when the push began"


def test_closed_lane_is_probed_by_one_and_opens_by_its_receipt() -> None:
    lane = state(batch_max=10, failures=3)
    assert lane.reads(0.0) is None
    assert lane.wants_canary
    lane.offer_canary([owed(2, attempts=1)], 0.0)
    assert not lane.wants_canary
    [batch] = begun(lane, 0.0)
    assert len(batch) == 1
    answer(lane, batch, Acknowledged(204))
    settlement = lane.settle()
    assert settlement is not None
    assert settlement.reopens
    lane.settled(settlement, 1.0)
    assert (lane.failures, lane.reads(2.0)) == (0, Read(BEGINNING, PAGE)), "what failed meanwhile lies below the mark"


def test_closed_lane_with_nothing_to_probe_with_is_idle() -> None:
    lane = state(failures=1)
    lane.offer_canary([], 10.0)
    assert not lane.wants_canary
    assert lane.idle
    assert lane.reading.look_back_in_s(10.0) == NO_CANARY_S, "and is not leased again at once"


def test_one_push_in_eight_is_a_retry_while_there_is_something_new() -> None:
    lane = state(width=64)
    reads(lane, [owed(n, attempts=n % 2) for n in range(64)])
    tried = [batch[0].attempts for batch in begun(lane, 0.0)]
    assert tried[: 4 * RETRY_EVERY] == ([0] * (RETRY_EVERY - 1) + [1]) * 4
    assert sum(tried) == 32, "and all of them in the end"


def test_what_failed_once_finds_room_and_goes_before_what_failed_often_however_much_that_is() -> None:
    lane = state(width=1)
    reads(lane, [owed(n, attempts=9) for n in range(PAGE)])
    reads(lane, [owed(PAGE + n, attempts=9) for n in range(PAGE - 1)] + [owed(2 * PAGE, attempts=1)])
    assert pushed(begun(lane, 0.0)) == [f"c{2 * PAGE}"]


def test_nothing_is_delivered_before_its_receipt() -> None:
    lane = state()
    reads(lane, [owed(1), owed(2)])
    first, under_way = begun(lane, 0.0)
    answer(lane, first, Failed("timeout"))
    settlement = lane.settle()
    assert settlement is not None
    assert settlement.delivered == []
    lane.settled(settlement, 1.0)
    answer(lane, under_way, Acknowledged(204))
    settlement = lane.settle()
    assert settlement is not None
    assert settlement.delivered == [under_way[0].notification_id]


def test_what_could_not_be_written_is_kept_for_the_next_time() -> None:
    lane = state()
    rows = [owed(n) for n in range(1, 4)]
    reads(lane, rows)
    first, second, third = begun(lane, 0.0)
    answer(lane, first, Acknowledged(204))
    settlement = lane.settle()
    assert settlement is not None
    answer(lane, second, Acknowledged(204))
    lane.unsettle(settlement)
    assert not lane.idle
    again = lane.settle()
    assert again is not None
    assert again.delivered == [row.notification_id for row in rows[:2]]
    lane.settled(again, 1.0)
    answer(lane, third, Acknowledged(204))
    settle(lane)
    assert lane.idle


def test_one_transaction_writes_a_bounded_number_and_the_gate_goes_with_the_last() -> None:
    lane = state(width=3 * PAGE)
    rows = [owed(n) for n in range(2 * PAGE + 1)]
    batches = []
    for page in (rows[:PAGE], rows[PAGE : 2 * PAGE], rows[2 * PAGE :]):
        reads(lane, page)
        batches += begun(lane, 0.0)
    *delivered, failed = batches
    assert len(delivered) == 2 * PAGE == SETTLE_MAX
    for batch in delivered:
        answer(lane, batch, Acknowledged(204))
    answer(lane, failed, Failed("no connection"))
    first = lane.settle()
    assert first is not None
    assert (len(first.delivered), len(first.attempts), first.gate) == (SETTLE_MAX, SETTLE_MAX, None)
    lane.settled(first, 1.0)
    assert not lane.idle
    last = lane.settle()
    assert last is not None
    assert (len(last.delivered), len(last.attempts)) == (0, 1)
    assert last.gate is not None
    lane.settled(last, 1.0)
    assert lane.settle() is None


def test_attempts_carry_the_database_s_time() -> None:
    lane = state()
    reads(lane, [owed(1)])
    [batch] = begun(lane, 2.0)
    attempt = lane.note(batch, Acknowledged(204), 2.0, 2.5)
    assert (attempt.attempted_at, attempt.latency_ms) == (NOW + timedelta(seconds=2), 500)


def test_deferral_is_looked_for_when_it_is_over() -> None:
    lane = state()
    reads(lane, [owed(1), owed(2)])
    kept, deferred = begun(lane, 0.0)
    answer(lane, kept, Acknowledged(204))
    answer(lane, deferred, Rejected(422))
    settlement = lane.settle()
    assert settlement is not None
    lane.settled(settlement, 1.0)
    [deferral] = settlement.deferred
    assert deferral.due_s < LOOK_BACK_S
    assert lane.reading.low_water == deferred[0].notification_id, "the mark passes what was deferred"
    assert lane.reading.look_back_in_s(1.0) == pytest.approx(deferral.due_s - 1.0)
