"""`contracts import`: a file goes in whole or not at all, and what is wrong with it is told by line, quoting nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from registryd import resources
from registryd.demo import population
from registryd.domain.errors import Unavailable
from registryd.domain.files import ImportRefused
from registryd.feed import lines, snapshot
from registryd.feed.lines import HISTORY_COLUMNS
from registryd.feed.snapshot import FileImport
from registryd.store import imports
from registryd.store.imports import Imported
from registryd.store.staging import Staged
from tests.conftest import TestDatabase, eventually

HEADER = ",".join(HISTORY_COLUMNS)
GOOD = "79160000001,1,active,individual,not_required,2020-01-01T00:00:00Z,,"
LINE = "{msisdn},{generation},{status},{holder},{end_user},{started_at},{ended_at},{end_reason}"


def line(msisdn: object = 79160000009, **facts: object) -> str:
    columns: dict[str, object] = {
        "msisdn": msisdn,
        "generation": 1,
        "status": "active",
        "holder": "individual",
        "end_user": "not_required",
        "started_at": "2020-01-01T00:00:00Z",
        "ended_at": "",
        "end_reason": "",
        **facts,
    }
    return LINE.format(**columns)


def ended(msisdn: object = 79160000009, **facts: object) -> str:
    return line(msisdn, **{"status": "ended", "ended_at": "2021-01-01T00:00:00Z", "end_reason": "terminated", **facts})


def load(database: TestDatabase, tmp_path: Path, *lines: str, header: str = HEADER, dry_run: bool = False) -> Imported:
    path = tmp_path / "contracts.csv"
    path.write_text("\n".join((header, *lines)) + "\n")
    return load_file(database, path, dry_run=dry_run)


def load_file(database: TestDatabase, path: Path, *, dry_run: bool = False) -> Imported:
    return asyncio.run(snapshot.import_contracts(database.dsn("registryd_app"), None, FileImport(path, dry_run=dry_run)))


def refusal(database: TestDatabase, tmp_path: Path, *lines: str, header: str = HEADER) -> list[str]:
    """What is told of a bad file, which leaves no trace."""
    before = stored(database)
    with pytest.raises(ImportRefused) as refused:
        load(database, tmp_path, *lines, header=header)
    assert stored(database) == before
    return str(refused.value).splitlines()


def stored(database: TestDatabase) -> list[tuple[object, ...]]:
    async def run() -> list[tuple[object, ...]]:
        async with database.connect() as connection:
            columns = HEADER.replace("holder", "holder::text").replace("end_user", "end_user::text")
            rows = await connection.fetch(f"SELECT {columns} FROM registry.contract ORDER BY msisdn, generation")
            assert await connection.fetchval("SELECT coalesce(sum(activated), 0) FROM registry.contract_movement") == len(rows)
            return [tuple(row) for row in rows]

    return asyncio.run(run())


def test_a_generated_population_goes_in_as_it_is_and_a_second_time_not_at_all(database: TestDatabase, tmp_path: Path) -> None:
    ranges = population.read_ranges(resources.path("tests/data/numbering_ranges.csv"))
    rows = list(population.generate(ranges, 5_000, now=datetime.now(UTC).replace(microsecond=0)))
    path = tmp_path / "contracts.csv"
    population.write_csv(path, rows)
    assert load_file(database, path) == Imported(5_000, 5_000, outside=0)
    assert stored(database) == rows
    assert load_file(database, path) == Imported(5_000, 0, outside=0)
    assert stored(database) == rows


def test_a_first_load_takes_time_in_proportion_to_its_lines(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, connection.transaction():
            # A load that compared every contract with every other would take a quarter of an hour.
            await connection.execute("SET LOCAL statement_timeout = '60s'; SELECT registry.make_import_staging()")
            await connection.execute("""
                INSERT INTO pg_temp.import_contract (msisdn, started_at, status, holder, end_user, generation)
                SELECT 79000000000 + n, '2020-01-01', 'active', 'individual', 'not_required', 1 FROM generate_series(1, 100000) AS n
            """)
            assert await connection.fetchval("SELECT registry.load_first('2026-01-01')") == 100_000

    asyncio.run(run())


def test_columns_come_in_any_order_in_any_dress_of_csv(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "contracts.csv"
    text = (
        "\ufeffstarted_at, msisdn ,generation,status,holder,end_reason,ended_at,end_user\r\n"
        '2020-02-29T23:59:59.123456+03:00,"79160000001",2,suspended,sole_trader,,,unregistered\r\n'
        "2019-01-01T00:00:00Z,79160000001,1,ended,organisation,ported_out,2019-06-01T12:00:00-05:30,registered\r\n"
    )
    path.write_bytes(text.encode())
    assert load_file(database, path) == Imported(2, 2, outside=0)
    started = [datetime(2019, 1, 1, tzinfo=UTC), datetime(2020, 2, 29, 20, 59, 59, 123_456, tzinfo=UTC)]
    assert stored(database) == [
        (79160000001, 1, "ended", "organisation", "registered", started[0], datetime(2019, 6, 1, 17, 30, tzinfo=UTC), "ported_out"),
        (79160000001, 2, "suspended", "sole_trader", "unregistered", started[1], None, None),
    ]


def test_a_contract_that_is_there_is_left_as_it_is(database: TestDatabase, tmp_path: Path) -> None:
    load(database, tmp_path, GOOD)
    before = stored(database)
    other = line(79160000001, holder="organisation", end_user="registered", started_at="2021-01-01T00:00:00Z")
    assert load(database, tmp_path, other, line(79160000002)) == Imported(2, 1, outside=0)
    assert stored(database)[:1] == before


def test_a_dry_run_checks_and_counts_everything_and_changes_nothing(database: TestDatabase, tmp_path: Path) -> None:
    load(database, tmp_path, GOOD)
    before = stored(database)
    assert load(database, tmp_path, GOOD, line(79160000002), dry_run=True) == Imported(2, 1)
    with pytest.raises(ImportRefused, match="line 2: status"):
        load(database, tmp_path, line(status="alive"), dry_run=True)
    assert stored(database) == before


TIME = "an RFC 3339 time such as 2026-01-02T03:04:05Z"
BAD_LINES = [
    (line(""), "msisdn: 5 to 15 digits without the plus, the first not 0"),
    (line("+79160000001"), "msisdn: 5 to 15 digits without the plus, the first not 0"),
    (line("09160000001"), "msisdn: 5 to 15 digits without the plus, the first not 0"),
    (line("7916000000000001"), "msisdn: 5 to 15 digits without the plus, the first not 0"),
    (line("٧٩١٦٠٠٠٠٠٠١"), "msisdn: 5 to 15 digits without the plus, the first not 0"),
    (line(generation=0), "generation: 1 to 9999"),
    (line(generation=""), "generation: 1 to 9999"),
    (line(generation=10_000), "generation: 1 to 9999"),
    (line(status="alive"), "status: active, suspended or ended"),
    (line(status=""), "status: active, suspended or ended"),
    (line(holder="person"), "holder: individual, sole_trader or organisation"),
    (line(end_user="known"), "end_user: not_required, registered or unregistered"),
    (line(end_user="registered"), "end_user: not_required for an individual, and for nobody else"),
    (line(holder="organisation"), "end_user: not_required for an individual, and for nobody else"),
    (line(started_at=""), f"started_at: {TIME}"),
    (line(started_at="2020-01-01 00:00:00"), f"started_at: {TIME}"),
    (line(89160000001), "msisdn: begins with 8 for 7, as it is dialled within Russia: write the country code, 79…"),
    (ended(started_at="1920-01-01T00:00:00Z", ended_at="1969-12-31T23:59:59Z"), "ended_at: lies before 1970"),
    (line(started_at="2999-01-01T00:00:00Z"), "started_at: lies in the future"),
    (line(ended_at="2021-01-01T00:00:00Z"), "ended_at: given where status is ended, and only there"),
]
MORE_BAD_LINES = [
    (line(999100000000001), "msisdn: 999 is the code of test numbers, under which nobody has a contract"),
    (line(99912345678), "msisdn: 999 is the code of test numbers, under which nobody has a contract"),
    (ended(ended_at=""), "ended_at: given where status is ended, and only there"),
    (line(end_reason="terminated"), "end_reason: given where status is ended, and only there"),
    (ended(end_reason=""), "end_reason: given where status is ended, and only there"),
    (ended(end_reason="died"), "end_reason: terminated, ported_out or holder_changed"),
    (ended(ended_at="yesterday"), f"ended_at: {TIME}"),
    (ended(ended_at="2021-02-29T00:00:00Z"), f"ended_at: {TIME}"),
    (ended(ended_at="2999-01-01T00:00:00Z"), "ended_at: lies in the future"),
    (ended(ended_at="2019-12-31T23:59:59Z"), "ended_at: lies before started_at"),
    (ended(ended_at="2020-01-01T00:00:00+00:01"), "ended_at: lies before started_at"),
]


@pytest.mark.parametrize("bad", [BAD_LINES, MORE_BAD_LINES], ids=["first", "more"])
def test_every_bad_line_is_named_with_what_is_wanted_and_nothing_of_it(
    database: TestDatabase, tmp_path: Path, bad: list[tuple[str, str]]
) -> None:
    """Good lines stand between, so that a bad one's number is its own."""
    lines = [text for number, (wrong, _) in enumerate(bad) for text in (line(79161000000 + number), wrong)]
    told = refusal(database, tmp_path, *lines)
    assert told == [f"line {3 + 2 * number}: {reason}" for number, (_, reason) in enumerate(bad)]


def test_twenty_bad_lines_are_told_at_most(database: TestDatabase, tmp_path: Path) -> None:
    told = refusal(database, tmp_path, *(line(status="alive") for _ in range(30)))
    assert [re.sub(":.*", "", text) for text in told] == [*(f"line {number}" for number in range(2, 22)), "and 10 more"]


def test_a_time_is_taken_exactly_where_the_calendar_has_it(database: TestDatabase) -> None:
    """Every day that there is and is not, of leap years and others, and the edges of the clock and of offsets."""
    days = [(year, month, day) for year in (1899, 1900, 1996, 2000, 2023, 2024, 3000) for month in range(14) for day in range(33)]
    texts = {
        f"{year:04}-{month:02}-{day:02}T00:00:00Z": year in range(1900, 3000) and exists(year, month, day) for year, month, day in days
    }
    goods = ("23:59:59Z", "00:00:00.1Z", "00:00:00.123456Z", "00:00:00+00:00", "00:00:00-15:59", "00:00:00+15:59")
    for good in (*goods, "00:00:00.1234567Z", "00:00:00.123456789+03", "00:00:00-1130"):
        texts[f"2020-06-15T{good}"] = texts[f"2020-06-15 {good}"] = True
    for wrong in (
        "24:00:00Z",
        "23:60:00Z",
        "23:59:60Z",
        "00:00:00",
        "00:00Z",
        "00:00:00.Z",
        "00:00:00.1234567890Z",
        "00:00:00+16:00",
        "00:00:00z",
    ):
        texts[f"2020-06-15T{wrong}"] = False
    texts |= {
        "2020-06-15": False,
        "20200615T000000Z": False,
        "2020-6-15T00:00:00Z": False,
        "2020-06-15T00:00:00Z ": False,
        "infinity": False,
    }

    # In each month, because the pattern that takes whole blocks is made of the months that are over.
    for latest in (datetime(2024, month, 15, 12, tzinfo=UTC) for month in range(1, 13)):
        checked = lines.Lines(lines.SNAPSHOT_COLUMNS, latest)
        rows = {text: f"79160000000,individual,not_required,active,{text}\n" for text in texts}
        past = [text for text, is_good in texts.items() if is_good and datetime.fromisoformat(text) < latest]
        assert checked.take("".join(rows.values()).encode()).decode() == "".join(rows[text] for text in past)
        assert len(checked.bad) == len(texts) - len(past)

    # And what it lets through, PostgreSQL takes.
    async def run() -> None:
        async with database.connect("registryd_app") as connection:
            good = [text for text, is_good in texts.items() if is_good]
            casts = "SELECT count(t::timestamptz) FROM unnest($1::text[]) AS t"
            assert await connection.fetchval(casts, good) == len(good) > 1_000

    asyncio.run(run())


def exists(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", [GOOD[:-1], f"{GOOD},", "", "79160000002"], ids=["fewer", "more", "none", "one"])
def test_a_line_of_another_width_is_named(database: TestDatabase, tmp_path: Path, text: str) -> None:
    assert refusal(database, tmp_path, GOOD, text, line()) == ["line 3: does not have the header's 8 fields, or leaves a quote open"]


def test_an_open_quote_and_bytes_that_are_no_text_are_named(database: TestDatabase, tmp_path: Path) -> None:
    width = "does not have the header's 8 fields, or leaves a quote open"
    assert refusal(database, tmp_path, GOOD, '"79160000002', line()) == [f"line 3: {width}"]
    path = tmp_path / "contracts.csv"
    for wrong in (b"\xff\xfe", b"\xd0", b"a\x00b"):
        path.write_bytes(b"\n".join([HEADER.encode(), GOOD.encode(), b"7916000000" + wrong + line(1)[1:].encode()]) + b"\n")
        with pytest.raises(ImportRefused, match=r"^line 3: msisdn: 5 to 15 digits"):
            load_file(database, path)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "msisdn",
        HEADER + ",name",
        HEADER.replace("holder", "owner"),
        HEADER.replace("holder", "status"),
        "\xff",
    ],
    ids=["none", "one", "more", "another", "twice", "no text"],
)
def test_a_header_without_exactly_the_columns_is_refused(database: TestDatabase, tmp_path: Path, header: str) -> None:
    path = tmp_path / "contracts.csv"
    path.write_bytes(f"{header}\n{GOOD}\n".encode("latin-1"))
    with pytest.raises(ImportRefused, match=rf"^line 1: the header (must name the columns {HEADER}: |is not UTF-8 text)"):
        load_file(database, path)


def test_a_file_of_its_header_alone_is_no_mistake(database: TestDatabase, tmp_path: Path) -> None:
    assert load(database, tmp_path) == Imported(0, 0, outside=0)


def test_lines_on_one_contract_are_refused_even_when_they_agree(database: TestDatabase, tmp_path: Path) -> None:
    other = line(79160000001, holder="organisation", end_user="registered")
    again = "the same msisdn and generation stand on an earlier line"
    assert refusal(database, tmp_path, GOOD, line(79160000002), other, GOOD) == [f"line 4: {again}", f"line 5: {again}"]
    load(database, tmp_path, GOOD)
    assert refusal(database, tmp_path, GOOD, line(79160000002), GOOD) == [f"line 4: {again}"]


def test_a_second_live_contract_in_the_file_is_named_on_both_lines(database: TestDatabase, tmp_path: Path) -> None:
    told = refusal(database, tmp_path, GOOD, line(79160000002), line(79160000001, generation=2))
    assert told == [f"line {number}: the number has another live contract in this file" for number in (2, 4)]


def test_a_live_contract_that_the_registry_knows_otherwise_is_named(database: TestDatabase, tmp_path: Path) -> None:
    load(database, tmp_path, GOOD)
    told = refusal(database, tmp_path, line(79160000002), ended(79160000001), line(79160000001, generation=2))
    assert told == ["line 4: the number has a live contract of another generation in the registry: end that one first, by a contract event"]


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_a_live_contract_below_another_of_its_number_is_refused_on_its_line(database: TestDatabase, tmp_path: Path, is_first: bool) -> None:
    if not is_first:
        load(database, tmp_path, line(79160000009))
    above = "the number has a live contract of a lower generation: what ended before it began has a lower one than that"
    below = "the number has an ended contract of a higher generation: a live contract is the last"
    told = refusal(database, tmp_path, line(79160000002), GOOD, ended(79160000001, generation=2))
    assert told == [f"line 3: {below}", f"line 4: {above}"]
    load(database, tmp_path, GOOD, ended(79160000002, generation=2))
    assert refusal(database, tmp_path, ended(79160000001, generation=2)) == [f"line 2: {above}"]
    assert refusal(database, tmp_path, line(79160000002)) == [f"line 2: {below}"]


def test_a_contract_that_an_event_begins_meanwhile_is_not_buried_under_an_ended_one(database: TestDatabase, tmp_path: Path) -> None:
    """A live contract is its number's last: below another one its subscriber would be bound by nobody."""
    load(database, tmp_path, ended(79160000001), GOOD.replace("79160000001", "79160000002"))
    path = tmp_path / "contracts.csv"
    path.write_text("\n".join((HEADER, GOOD.replace("79160000001", "79160000003"), ended(79160000001, generation=3))) + "\n")

    async def run() -> str:
        async with database.connect() as event, database.connect() as watcher:
            async with event.transaction():
                await event.execute("SELECT pg_advisory_xact_lock(hashtextextended('registry.feed', 0))")
                await event.execute(
                    "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
                    "VALUES (79160000001, 2, 'active', 'individual', 'not_required', '2022-01-01')"
                )
                importing = asyncio.create_task(snapshot.import_contracts(database.dsn("registryd_app"), None, FileImport(path)))
                waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                await eventually(lambda: importing.done() or watcher.fetchval(waiting))
            with pytest.raises(ImportRefused) as refused:
                await importing
            return str(refused.value)

    assert asyncio.run(run()) == "line 3: an event has begun the number's next contract meanwhile: import the file again"
    assert len(stored(database)) == 3


async def chunked(texts: list[str]) -> AsyncIterator[bytes]:
    for text in texts:
        yield text.encode()


def test_an_import_whose_connection_is_killed_midway_has_changed_nothing(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as killer, database.connect("registryd_app") as connection:

            async def killed() -> AsyncIterator[bytes]:
                for number in range(200):
                    yield "".join(line(79160000000 + 1000 * number + i) + "\n" for i in range(1000)).encode()
                    if number == 20:
                        await killer.execute("SELECT pg_terminate_backend($1, 10000)", connection.get_server_pid())

            with pytest.raises(Unavailable):
                await imports.import_contracts(connection, Staged(HISTORY_COLUMNS, killed()), dry_run=False)

    asyncio.run(run())
    assert stored(database) == []


def test_an_import_that_is_given_up_has_changed_nothing_and_its_connection_goes_on(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect("registryd_app") as connection:
            stopped = asyncio.Event()

            async def stalls() -> AsyncIterator[bytes]:
                yield (GOOD + "\n").encode()
                stopped.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(imports.import_contracts(connection, Staged(HISTORY_COLUMNS, stalls()), dry_run=False))
            await stopped.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            whole = chunked([GOOD[:20], GOOD[20:] + "\n"])
            assert await imports.import_contracts(connection, Staged(HISTORY_COLUMNS, whole), dry_run=False) == Imported(1, 1, outside=0)

    asyncio.run(run())
    assert len(stored(database)) == 1


def test_the_clocks_skew_is_forgiven(database: TestDatabase, tmp_path: Path) -> None:
    soon, later = (f"{datetime.now(UTC) + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%SZ}" for minutes in (3, 9))
    assert load(database, tmp_path, line(started_at=soon)) == Imported(1, 1, outside=0)
    assert refusal(database, tmp_path, line(started_at=later)) == ["line 2: started_at: lies in the future"]
