"""`contracts import --delta`: billing's events from a file, by the path and to the effect of a call of the operator API."""

from __future__ import annotations

import asyncio
import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registryd.domain.contract import Event
from registryd.domain.files import BadLine, ImportRefused
from registryd.domain.identifiers import Msisdn
from registryd.domain.times import parse_rfc3339
from registryd.feed import deltas
from registryd.feed.deltas import COLUMNS, AppliedEvents, FileStopped, NoEvent
from registryd.feed.events import ContractFeed
from tests.conftest import TestDatabase

FIRST = 79_160_000_000
AT = "2024-02-29T12:00:00+03:00"


def apply(database: TestDatabase, path: Path) -> AppliedEvents:
    async def run() -> AppliedEvents:
        async with database.pool() as pool:
            return await deltas.apply_file(ContractFeed(pool, bytes(32)), path)

    return asyncio.run(run())


def write(path: Path, *events: str, header: str = ",".join(COLUMNS)) -> Path:
    path.write_text("\n".join((header, *events)) + "\n", newline="")
    return path


def stored(database: TestDatabase) -> str:
    return database.psql("-Atc", "SELECT c FROM registry.contract AS c ORDER BY msisdn, generation").stdout


def test_a_files_events_are_applied_in_order_and_once(database: TestDatabase, tmp_path: Path) -> None:
    """More than one call's worth, so that a number's events meet across calls."""
    activations = [f"a{i},activated,{FIRST + i},{AT},organisation,registered" for i in range(deltas.PORTION_EVENTS)]
    ends = [f"t{i},terminated,{FIRST + i},2024-03-01T00:00:00Z,," for i in range(5)]
    path = write(tmp_path / "events.csv", *activations, *ends, f"t9,terminated,{FIRST + 4},2024-03-02T00:00:00Z,,")
    path.write_bytes(gzip.compress(path.read_bytes()))
    waits = BadLine(len(activations) + 7, "no_contract_yet: the number has no live contract at that time; send activated, then this again")
    assert apply(database, path) == AppliedEvents(len(activations) + 5, 0, [], [waits], 5, 5)
    count = "SELECT count(*) FILTER (WHERE end_reason = 'terminated'), count(*) FILTER (WHERE ended_at IS NULL) FROM registry.contract"
    assert database.psql("-Atc", count).stdout == f"5|{len(activations) - 5}\n"
    before = stored(database)
    assert apply(database, path) == AppliedEvents(0, len(activations) + 5, [], [waits])
    assert stored(database) == before


def test_an_event_of_the_operator_api_and_of_a_file_are_the_same_event(database: TestDatabase, tmp_path: Path) -> None:
    async def call() -> None:
        async with database.pool() as pool:
            event = Event(
                event_id="e1",
                type="activated",
                msisdn=Msisdn(FIRST),
                occurred_at=datetime(2024, 2, 29, 9, tzinfo=UTC),
                holder="organisation",
                end_user="registered",
            )
            assert [result.outcome for result in await ContractFeed(pool, bytes(32)).apply([event])] == ["applied"]

    asyncio.run(call())
    header = "end_user,holder,occurred_at,msisdn,type,event_id"
    again = f"registered,organisation,{AT},{FIRST},activated,e1"
    other = f"unregistered,organisation,{AT},{FIRST},activated,e1"
    done = apply(database, write(tmp_path / "events.csv", again, other, header=header))
    assert (done.applied, done.duplicates, [bad.line for bad in done.refused]) == (0, 1, [3])


@pytest.mark.parametrize(
    "at",
    ["2024-02-29T12:00:00.1234567+03:00", "2024-02-29T09:00:00.123456789Z", "2024-02-29T01:00:00.123456-08:00", "2024-02-29T09:00:00.1Z"],
)
def test_a_time_of_the_operator_api_is_a_time_of_a_file(database: TestDatabase, tmp_path: Path, at: str) -> None:
    """One to nine digits and any offset, read by the same function: so the same event in both is a duplicate."""

    async def call() -> None:
        async with database.pool() as pool:
            occurred_at = parse_rfc3339(at)
            assert occurred_at is not None
            event = Event(event_id="e1", type="activated", msisdn=Msisdn(FIRST), occurred_at=occurred_at)
            await ContractFeed(pool, bytes(32)).apply([event])

    asyncio.run(call())
    done = apply(database, write(tmp_path / "events.csv", f"e1,activated,{FIRST},{at},,"))
    assert (done.applied, done.duplicates, done.refused) == (0, 1, [])


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (f",activated,{FIRST},{AT},,", "event_id: 1 to 128"),
        (f"e 1,activated,{FIRST},{AT},,", "event_id: 1 to 128"),
        (f"e1,born,{FIRST},{AT},,", "type: activated, terminated, "),
        (f"e1,activated,+{FIRST},{AT},,", "msisdn: 5 to 15 digits"),
        (f"e1,activated,{FIRST},2024-02-30T00:00:00Z,,", "occurred_at: an RFC 3339 time"),
        (f"e1,activated,{FIRST},{AT},person,", "holder: individual, "),
        (f"e1,activated,{FIRST},{AT},,not_required", "end_user: registered, "),
        (f"e1,activated,{FIRST},{AT},", "does not have the header's 6 fields"),
        (f'e1,activated,{FIRST},{AT},"', "does not have the header's 6 fields"),
        ("", "does not have the header's 6 fields"),
        (f"e1,activated,{FIRST}\r,{AT},,", "holds a carriage return that ends no line: write LF"),
        (f"e1,activated,{FIRST},{AT},,{'x' * 140_000}", "has a field of more than 131,072 characters"),
    ],
)
def test_a_line_that_is_no_event_stops_the_file_there_and_is_named(database: TestDatabase, tmp_path: Path, event: str, says: str) -> None:
    path = write(tmp_path / "events.csv", f"e0,activated,{FIRST},{AT},,", event, f"e2,terminated,{FIRST},{AT},,")
    with pytest.raises(FileStopped) as stopped:
        apply(database, path)
    assert isinstance(stopped.value.why, NoEvent)
    assert str(stopped.value.why).startswith(f"line 3: {says}")
    assert str(FIRST) not in str(stopped.value.why)
    assert (stopped.value.why.bad.line, stopped.value.done) == (3, AppliedEvents(1, 0, [], []))
    count = "SELECT count(*) FILTER (WHERE ended_at IS NULL), count(*) FROM registry.contract"
    assert database.psql("-Atc", count).stdout == "1|1\n"


def test_what_stops_a_file_in_a_later_call_tells_all_that_was_done(database: TestDatabase, tmp_path: Path) -> None:
    activations = [f"a{i},activated,{FIRST + i},{AT},," for i in range(deltas.PORTION_EVENTS)]
    last = f"t0,terminated,{FIRST},2024-03-01T00:00:00Z,,"
    path = write(tmp_path / "events.csv", f"t9,terminated,{FIRST - 1},{AT},,", *activations, last, "no event", last)
    waits = BadLine(2, "no_contract_yet: the number has no live contract at that time; send activated, then this again")
    with pytest.raises(FileStopped, match=f"^line {len(activations) + 4}: ") as stopped:
        apply(database, path)
    assert stopped.value.done == AppliedEvents(len(activations) + 1, 0, [], [waits], 1, 1)
    path.write_bytes(gzip.compress(path.read_bytes())[:-9])
    with pytest.raises(FileStopped, match="damaged") as stopped:
        apply(database, path)
    assert isinstance(stopped.value.why, ImportRefused)
    assert stopped.value.done == AppliedEvents(0, 0, [], []), "nothing of a call is applied whose file turns out to be damaged"


def stop(database: TestDatabase, path: Path, ends_max: int | None = None, absent_max: int | None = None, *, dry_run: bool = False) -> Any:
    """What a file did under bounds of a person's, and why it stopped; None where it did not."""

    async def run() -> tuple[AppliedEvents, str | None]:
        async with database.pool() as pool:
            work = deltas.rehearse if dry_run else deltas.apply_file
            ends = None if ends_max is None else lambda _: ends_max
            absent = None if absent_max is None else lambda _: absent_max
            try:
                return await work(ContractFeed(pool, bytes(32)), path, ends, absent), None
            except FileStopped as stopped:
                return stopped.done, str(stopped.why)

    return asyncio.run(run())


def fill(database: TestDatabase, count: int, ends_max: int) -> None:
    """So many live contracts of verified organisations, and a policy that lets so many end in an hour."""
    database.psql(
        "-c",
        "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
        f"SELECT {FIRST} + n, 1, 'active', 'organisation', 'registered', '2020-01-01' FROM generate_series(0, {count - 1}) AS n; "
        f"SELECT registry.change_policy('{{\"ends_max\": {ends_max}, \"ends_max_share\": 0}}', now(), 'a test')",
    )


def test_a_dry_run_counts_what_would_end_and_turn_absent_and_changes_nothing(database: TestDatabase, tmp_path: Path) -> None:
    fill(database, 6, 3)
    lines = [f"t{i},terminated,{FIRST + i},{AT},," for i in range(3)]
    lines += [
        f"w0,end_user_withdrawn,{FIRST + 3},{AT},,",
        f"h0,holder_changed,{FIRST + 4},{AT},organisation,registered",
        f"x,suspended,{FIRST - 9},{AT},,",
    ]
    path = write(tmp_path / "events.csv", *lines, f"a0,activated,{FIRST},{AT},,")
    before = stored(database)
    done, why = stop(database, path, dry_run=True)
    assert (done.applied, len(done.waiting), done.ends, done.absent) == (6, 1, 4, 3), "who has another holder who is present is present"
    assert "would end 4 of 6 live contracts (66.67%) and turn 3 absent, where 3 may end and 3 may turn absent now" in why
    assert stop(database, path, 4, dry_run=True)[1] is None
    assert stop(database, path, 4, 2, dry_run=True)[1] is not None
    assert stored(database) == before
    assert database.psql("-Atc", "SELECT count(*) FROM registry.feed_event, registry.feed_waiting").stdout == "0\n"


def test_a_files_ends_beyond_the_policy_wait_and_a_persons_bound_lets_them_through(database: TestDatabase, tmp_path: Path) -> None:
    fill(database, 6, 3)
    path = write(tmp_path / "events.csv", *(f"t{i},terminated,{FIRST + i},{AT},," for i in range(6)))
    done, _ = stop(database, path)
    assert (done.applied, [bad.line for bad in done.waiting], done.ends) == (3, [5, 6, 7], 3)
    done, _ = stop(database, path, 2)
    assert (done.applied, done.duplicates, [bad.line for bad in done.waiting]) == (2, 3, [7])
    allowance = "SELECT ends, used FROM registry.wave_allowance"
    assert database.psql("-Atc", allowance).stdout == "2|2\n", "so that the trigger holds nothing of it"
    assert database.psql("-Atc", "SELECT count(*) FROM registry.wave").stdout == "0\n"


def test_a_file_stops_before_it_turns_too_many_numbers_absent(database: TestDatabase, tmp_path: Path) -> None:
    fill(database, 6, 3)
    path = write(tmp_path / "events.csv", *(f"w{i},end_user_withdrawn,{FIRST + i},{AT},," for i in range(4)))
    before = stored(database)
    done, why = stop(database, path)
    assert "would turn 4 numbers from present to absent, where 3 may" in why
    assert (done.applied, stored(database)) == (0, before)
    done, why = stop(database, path, absent_max=4)
    assert (done.applied, done.absent, why) == (4, 4, None)
