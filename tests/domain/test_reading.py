"""Which rows a lane reads: from its mark on, and from the beginning often enough that nothing below the mark is forgotten."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.notification import BEGINNING, Notification
from registryd.domain.reading import LOOK_BACK_S, LOOK_S, PAGE, REST, UNSETTLED_MAX, Read, Reading

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def row(number: int) -> Notification:
    return Notification(UUID(int=number), NOW, 79160000000, 1, f"c{number}", NOW, NOW, 0)


def rows(first: int, last: int) -> list[Notification]:
    return [row(number) for number in range(first, last + 1)]


def brings(reading: Reading, found: list[Notification], now_s: float = 0.0, took_s: float = 0.001, *, hungry: bool = True) -> list[int]:
    """A read brings `found`; returns the numbers of those that are new, which are taken."""
    assert reading.next(now_s, hungry=hungry) is not None
    fresh = [n.notification_id for n in reading.offer(found, now_s, took_s)]
    reading.take(fresh)
    return [i.int for i in fresh]


def test_lane_is_read_page_after_page_and_then_on_from_its_last_row() -> None:
    reading = Reading(BEGINNING, LOOK_BACK_S, 0.0)
    assert reading.next(0.0, hungry=True) == Read(BEGINNING, PAGE)
    reading.offer(rows(1, PAGE), 0.0, 0.001)
    assert reading.next(0.0, hungry=False) is None
    assert reading.next(0.0, hungry=True) == Read(UUID(int=PAGE), PAGE)
    reading.offer(rows(PAGE + 1, PAGE + 2), 0.0, 0.001)
    assert reading.exhausted
    assert reading.next(LOOK_S / 2, hungry=True) is None
    assert reading.next(LOOK_S, hungry=False) == Read(UUID(int=PAGE + 2), PAGE)


def test_lease_begins_at_the_mark_and_looks_back_when_that_is_due() -> None:
    reading = Reading(UUID(int=100), 5.0, 0.0)
    assert reading.next(0.0, hungry=True) == Read(UUID(int=100), PAGE)
    reading.offer([], 0.0, 0.001)
    assert reading.next(5.0, hungry=False) == Read(BEGINNING, PAGE)
    assert [n.notification_id.int for n in reading.offer([row(7)], 5.0, 0.001)] == [7]
    assert reading.next(5.0 + LOOK_S, hungry=False) == Read(UUID(int=100), PAGE), "and then it goes on from where it was"


def test_look_back_that_fills_a_page_goes_on_until_it_has_caught_up() -> None:
    reading = Reading(UUID(int=10_000), 0.0, 0.0)
    assert brings(reading, rows(1, PAGE)) == [*range(1, PAGE + 1)]
    assert reading.look_back_in_s(0.0) <= LOOK_S, "the next lease would have to look back again"
    assert reading.next(0.0, hungry=True) == Read(UUID(int=PAGE), PAGE)
    reading.offer([], 0.0, 0.001)
    assert reading.look_back_in_s(0.0) == LOOK_BACK_S


def test_looking_back_takes_a_tenth_of_the_time_however_long_one_look_takes() -> None:
    reading = Reading(UUID(int=100), 0.0, 0.0)
    brings(reading, [], now_s=6.0, took_s=6.0)
    reading.look_back_by(6.0)
    assert reading.look_back_in_s(6.0) == REST * 6.0
    assert reading.next(7.0, hungry=True) == Read(UUID(int=100), PAGE), "what comes above the mark does not wait for it"
    reading.offer([], 7.0, 5.0)
    assert reading.next(66.0, hungry=False) == Read(BEGINNING, PAGE)
    reading.give_up(76.0, 10.0)
    assert reading.look_back_in_s(76.0) == REST * 10.0, "one that failed is not repeated at once either"


def test_what_is_taken_or_was_settled_during_a_read_is_not_new() -> None:
    reading = Reading(BEGINNING, 0.0, 0.0)
    assert brings(reading, rows(1, 3)) == [1, 2, 3]
    reading.look_back_by(1.0)
    assert reading.next(1.0, hungry=True) == Read(BEGINNING, PAGE)
    reading.settle([UUID(int=2)])
    assert [n.notification_id.int for n in reading.offer(rows(0, 3), 1.0, 0.001)] == [0], "a row that came late goes first"


def test_mark_never_passes_what_is_not_settled() -> None:
    reading = Reading(BEGINNING, 0.0, 0.0)
    brings(reading, rows(1, 5))
    assert reading.low_water < UUID(int=1)
    reading.settle([UUID(int=1), UUID(int=2), UUID(int=4)])
    assert UUID(int=2) <= reading.low_water < UUID(int=3)
    reading.settle([UUID(int=3), UUID(int=5)])
    assert reading.low_water == UUID(int=5)


def test_a_lane_reads_no_more_than_it_can_remember() -> None:
    reading = Reading(BEGINNING, 0.0, 0.0)
    reading.take(UUID(int=n) for n in range(UNSETTLED_MAX))
    assert reading.next(100.0, hungry=True) is None


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=40), st.randoms())
def test_whatever_comes_where_and_when_is_read_in_the_end(arrivals: list[tuple[int, bool]], chance: object) -> None:
    """Rows appear anywhere, before and during leases, whose marks are handed on; some are left unsettled at a lease's end."""
    table: set[int] = set()
    settled: set[int] = set()
    low_water, look_back_at_s, now_s = BEGINNING, 0.0, 0.0
    for number, settles in [*arrivals, *[(0, True)] * 3]:
        table |= {number} - {0} - settled
        now_s += LOOK_BACK_S / 2
        reading = Reading(low_water, max(0.0, look_back_at_s - now_s), now_s)
        while (read := reading.next(now_s, hungry=True)) is not None:
            found = [row(n) for n in sorted(table) if n > read.after.int][: read.limit]
            fresh = [n.notification_id for n in reading.offer(found, now_s, 0.001)]
            reading.take(fresh)
            if settles:
                reading.settle(fresh)
                settled |= {i.int for i in fresh}
                table -= settled
        low_water, look_back_at_s = reading.low_water, now_s + reading.look_back_in_s(now_s)
    assert not table
