"""The demo's population keeps the registry's rules, has the promised shape, and lies over sane ranges."""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registryd import resources
from registryd.demo import population
from registryd.demo.population import COLUMNS, Row, generate, read_ranges, write_csv

RANGES_CSV = resources.path("tests/data/numbering_ranges.csv")
CONTRACTS = 20_000
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def ranges() -> list[tuple[int, int]]:
    return read_ranges(RANGES_CSV)


@pytest.fixture(scope="module")
def rows(ranges: list[tuple[int, int]]) -> list[Row]:
    return list(generate(ranges, CONTRACTS, now=NOW))


@pytest.fixture(scope="module")
def histories(rows: list[Row]) -> dict[int, list[Row]]:
    by_number: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_number[row[0]].append(row)
    return by_number


def live(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row[2] != "ended"]


def test_every_range_lies_within_the_mobile_numbers(ranges: list[tuple[int, int]]) -> None:
    assert ranges
    for first, last in ranges:
        assert 79_000_000_000 <= first <= last <= 79_999_999_999


def test_ranges_are_listed_in_order_without_overlap() -> None:
    with RANGES_CSV.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["first_msisdn", "last_msisdn", "region", "note"]
    listed = [(int(first), int(last)) for first, last, _, _ in lines[1:]]
    # Adjacent ranges are merged, hence the + 1.
    assert all(earlier[1] + 1 < later[0] for earlier, later in pairwise(listed))


def test_every_range_is_covered_by_the_prefixes_of_its_note() -> None:
    with RANGES_CSV.open(newline="") as file:
        for line in csv.DictReader(file):
            operator, *prefixes = line["note"].split()
            assert (operator, line["region"]) == ("MTS", "RU")
            covered = sum(10 ** (11 - len(prefix)) for prefix in prefixes)
            assert covered == int(line["last_msisdn"]) - int(line["first_msisdn"]) + 1
            assert all(line["first_msisdn"] <= prefix.ljust(11, "0") <= line["last_msisdn"] for prefix in prefixes)


@pytest.mark.parametrize(
    "lines",
    [
        "79820000000,79820000009,RU,a\n79820000009,79820000019,RU,b\n",
        "79820000009,79820000000,RU,backwards\n",
        "7982000000,7982000009,RU,ten digits\n",
        "+79820000000,+79820000009,RU,plus\n",
        "79820000000\n",
        "٧٩٨٢٠٠٠٠٠٠٠,79820000009,RU,not ASCII\n",
    ],
)
def test_malformed_or_overlapping_ranges_are_refused(tmp_path: Path, lines: str) -> None:
    path = tmp_path / "ranges.csv"
    path.write_text("first_msisdn,last_msisdn,region,note\n" + lines, encoding="utf-8")
    with pytest.raises(ValueError, match=r"not a range|overlap"):
        read_ranges(path)


def test_exactly_the_asked_number_of_contracts_is_generated(rows: list[Row]) -> None:
    assert len(rows) == CONTRACTS


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 2_500), min_size=1, max_size=5),
    fill=st.floats(0, population.MAX_FILL),
    seed=st.integers(0, 2**32),
)
def test_any_filling_of_any_ranges_meets_its_count_inside_them(sizes: list[int], fill: float, seed: int) -> None:
    ranges = [(79_000_000_000 + 10_000 * i, 79_000_000_000 + 10_000 * i + size - 1) for i, size in enumerate(sizes)]
    contracts = int(sum(sizes) * fill)
    rows = list(generate(ranges, contracts, seed, NOW))
    assert len(rows) == contracts
    assert all(any(first <= row[0] <= last for first, last in ranges) for row in rows)
    assert all(earlier[:2] < later[:2] for earlier, later in pairwise(rows))


def test_more_contracts_than_the_ranges_take_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="take up to 9"):
        generate([(79_820_000_000, 79_820_000_009)], 10)


def test_now_without_a_time_zone_is_refused_at_once(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="time zone"):
        generate(ranges, 10, now=NOW.replace(tzinfo=None))


def test_same_seed_and_now_give_the_same_contracts(ranges: list[tuple[int, int]], rows: list[Row]) -> None:
    assert list(generate(ranges, CONTRACTS, now=NOW)) == rows
    assert list(generate(ranges, CONTRACTS, seed=1802, now=NOW)) != rows


def test_another_now_moves_the_times_and_nothing_else(ranges: list[tuple[int, int]], rows: list[Row]) -> None:
    day = timedelta(days=1)
    for row, later in zip(rows, generate(ranges, CONTRACTS, now=NOW + day), strict=True):
        assert later == (*row[:5], row[5] + day, row[6] and row[6] + day, row[7])


def test_contracts_come_sorted_by_number_and_generation(rows: list[Row]) -> None:
    assert all(earlier[:2] < later[:2] for earlier, later in pairwise(rows))


def test_at_most_one_live_contract_a_number_and_it_is_the_latest(histories: dict[int, list[Row]]) -> None:
    for history in histories.values():
        assert all(row[2] == "ended" for row in history[:-1])


def test_generations_count_from_one_without_a_gap(histories: dict[int, list[Row]]) -> None:
    for history in histories.values():
        assert [row[1] for row in history] == list(range(1, len(history) + 1))
        assert len(history) <= 4


def test_status_end_time_and_end_reason_agree(rows: list[Row]) -> None:
    for _, _, status, _, _, _, ended_at, end_reason in rows:
        assert status in {"active", "suspended", "ended"}
        assert (status == "ended") == (ended_at is not None) == (end_reason is not None)
        assert end_reason in {None, "terminated", "ported_out", "holder_changed"}


def test_only_individuals_need_no_end_user(rows: list[Row]) -> None:
    for _, _, _, holder, end_user, _, _, _ in rows:
        assert holder in {"individual", "sole_trader", "organisation"}
        assert (holder == "individual") == (end_user == "not_required")
        assert end_user in {"not_required", "registered", "unregistered"}


def test_contracts_start_before_they_end_and_none_in_the_future(rows: list[Row]) -> None:
    for _, _, _, _, _, started_at, ended_at, _ in rows:
        assert started_at.utcoffset() == timedelta(0)
        assert started_at <= NOW
        assert ended_at is None or started_at < ended_at <= NOW


def test_periods_of_a_number_never_overlap_and_a_changed_holder_follows_at_once(histories: dict[int, list[Row]]) -> None:
    for history in histories.values():
        for earlier, later in pairwise(history):
            assert earlier[6] is not None
            assert earlier[6] <= later[5]
            assert (earlier[7] == "holder_changed") == (earlier[6] == later[5])
        assert history[-1][7] != "holder_changed", "a changed holder is somebody's next generation"


def test_most_numbers_are_held_by_organisations_and_sole_traders(rows: list[Row]) -> None:
    held = [row[4] for row in live(rows) if row[3] != "individual"]
    assert len(held) / len(live(rows)) == pytest.approx(0.70, abs=0.02)
    assert held.count("unregistered") / len(held) == pytest.approx(0.35, abs=0.02)


def test_some_numbers_are_recycled_suspended_or_in_quarantine(rows: list[Row], histories: dict[int, list[Row]]) -> None:
    recycled = sum(len(history) > 1 for history in histories.values())
    quarantined = sum(history[-1][2] == "ended" for history in histories.values())
    suspended = sum(row[2] == "suspended" for row in rows)
    assert recycled / len(histories) == pytest.approx(0.08, abs=0.01)
    assert quarantined / len(histories) == pytest.approx(0.04, abs=0.01)
    assert suspended / len(live(rows)) == pytest.approx(0.03, abs=0.01)


def test_numbers_fill_blocks_with_gaps_spread_over_the_ranges(ranges: list[tuple[int, int]], histories: dict[int, list[Row]]) -> None:
    steps = [later - earlier for earlier, later in pairwise(histories)]
    within = [step for step in steps if step < 100]
    assert len(steps) - len(within) == CONTRACTS // population.BLOCK_CONTRACTS - 1
    assert 1 - len(within) / sum(within) == pytest.approx(population.GAP_SHARE, abs=0.02)
    issued = list(histories)
    capacity = sum(last - first + 1 for first, last in ranges)
    middle = next(islice(population._stretch(ranges, capacity // 2, capacity), 1))[0]
    assert sum(number < middle for number in issued) / len(issued) == pytest.approx(0.5, abs=0.03)


def test_csv_holds_every_contract_with_utc_times_and_empty_for_none(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / "contracts.csv"
    assert write_csv(path, rows) == CONTRACTS
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    assert tuple(lines[0]) == COLUMNS
    for line, row in zip(lines[1:], rows, strict=True):
        ended_at, end_reason = line[6], line[7]
        assert (int(line[0]), int(line[1]), *line[2:5]) == row[:5]
        assert line[5].endswith("Z")
        assert datetime.fromisoformat(line[5]) == row[5]
        assert (datetime.fromisoformat(ended_at) if ended_at else None) == row[6]
        assert (end_reason or None) == row[7]


def test_csv_turns_times_of_other_zones_into_utc(tmp_path: Path) -> None:
    path = tmp_path / "contracts.csv"
    moscow = timezone(timedelta(hours=3))
    write_csv(path, [(79820000000, 1, "active", "individual", "not_required", datetime(2026, 3, 1, 1, tzinfo=moscow), None, None)])
    assert path.read_text().splitlines()[1] == "79820000000,1,active,individual,not_required,2026-02-28T22:00:00Z,,"
