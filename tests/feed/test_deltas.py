"""`contracts import --delta`: billing's events from a file, by the path and to the effect of a call of the operator API."""

from __future__ import annotations

import asyncio
import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registryd.domain.contract import Event
from registryd.domain.files import BadLine, ImportRefused
from registryd.domain.identifiers import Msisdn
from registryd.feed import deltas
from registryd.feed.deltas import COLUMNS, AppliedEvents, FileStopped, NoEvent
from registryd.feed.events import ContractFeed
from tests.conftest import TestDatabase

FIRST = 79_160_000_000
AT = "2024-02-29T12:00:00+03:00"


def apply(database: TestDatabase, path: Path) -> AppliedEvents:
    async def run() -> AppliedEvents:
        async with database.pool() as pool:
            return await deltas.apply_events(ContractFeed(pool, bytes(32)), path)

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
    assert apply(database, path) == AppliedEvents(len(activations) + 5, 0, [], [waits])
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
    assert stopped.value.done == AppliedEvents(len(activations) + 1, 0, [], [waits])
    path.write_bytes(gzip.compress(path.read_bytes())[:-9])
    with pytest.raises(FileStopped, match="damaged") as stopped:
        apply(database, path)
    assert isinstance(stopped.value.why, ImportRefused)
    assert stopped.value.done == AppliedEvents(0, 0, [], []), "nothing of a call is applied whose file turns out to be damaged"
