"""`ranges import`: all of a file becomes numbering capacity or nothing does, no other hand's ranges go, nor the subscribers' presence."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from registryd.domain.files import ImportRefused
from registryd.feed import ranges as feed
from registryd.feed.ranges import Whose
from registryd.store.ranges import Counted, Range, TooManyAbsent
from tests.conftest import TestDatabase
from tests.store.conftest import add_contracts, add_messengers, ask

PUBLISHED = [
    "АВС/ DEF;От;До;Емкость;Оператор;Регион;ИНН",
    '910;0000000;0009999;10000;"ПАО ""Мобильные ТелеСистемы""";г. Москва;7740000076',
    '910;0010000;0019999;10000;"ПАО ""МегаФон""";г. Москва;7812014560',
    '978;9990000;9999999;10000;"ПАО ""Мобильные ТелеСистемы""";г. Санкт-Петербург|Ленинградская область;7740000076',
]
MTS = [(79_100_000_000, 79_100_009_999), (79_789_990_000, 79_789_999_999)]


def load(database: TestDatabase, path: Path, whose: Whose = feed.NOBODY, *, dry_run: bool = False) -> int:
    return len(replaced(database, path, whose, dry_run=dry_run)[0])


def replaced(
    database: TestDatabase, path: Path, whose: Whose = feed.NOBODY, *, absent_max: int = 0, dry_run: bool = False
) -> tuple[Sequence[Range], Counted]:
    dsn = database.dsn("registryd_app")
    return asyncio.run(feed.import_ranges(dsn, None, path, whose, absent_max=lambda _: absent_max, dry_run=dry_run))


def own(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("first_msisdn,last_msisdn,region,note", *lines)) + "\n")
    return path


def stored(database: TestDatabase) -> list[tuple[int, int]]:
    rows = database.psql("-Atc", "SELECT first_msisdn, last_msisdn FROM registry.numbering_range ORDER BY 1").stdout.split()
    return [(int(first), int(last)) for first, last in (row.split("|") for row in rows)]


def test_a_file_of_ranges_is_the_whole_capacity_or_nothing(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "ranges.csv"
    assert load(database, own(path, "79200000000,79200000000,,one", "79100000000,79109999999,Moscow,")) == 2
    whole = [(79_100_000_000, 79_109_999_999), (79_200_000_000, 79_200_000_000)]
    assert stored(database) == whole
    for wrong, words in {
        "79109999999,79110000000,,\n79100000000,79109999999,,": "line 3: overlaps the range of line 2",
        "79109999999,79100000000,,": "line 2: last_msisdn: not smaller",
        "+79100000000,79109999999,,": "line 2: first_msisdn and last_msisdn: 5 to 15 digits",
        "79100000000,79109999999,,\n7910,79109999999,,": "line 3: first_msisdn",
        "79100000000": "line 2: has fewer fields",
        "": "no ranges",
        '79100000000,79109999999,,\n79200000000,79209999999,"' + "x" * 140_000: "line 3: has a field of more than 131,072 characters",
    }.items():
        with pytest.raises(ImportRefused, match=re.escape(words)):
            load(database, own(path, wrong))
        assert stored(database) == whole
    own(path, "79300000000,79309999999,,")
    assert load(database, path, dry_run=True) == 1
    assert stored(database) == whole
    assert load(database, path) == 1
    assert stored(database) == [(79_300_000_000, 79_309_999_999)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "windows-1251"])
@pytest.mark.parametrize("whose", [Whose(inn="7740000076"), Whose(operator="пао  «Мобильные телесистемы»")], ids=["inn", "name"])
def test_an_operators_lines_of_the_register_are_taken_in_each_encoding(
    database: TestDatabase, tmp_path: Path, encoding: str, whose: Whose
) -> None:
    path = tmp_path / "DEF-9xx.csv"
    path.write_bytes("\r\n".join(PUBLISHED).encode(encoding))
    assert load(database, path, whose) == 2
    assert stored(database) == MTS
    note = database.psql("-Atc", "SELECT region, note FROM registry.numbering_range ORDER BY first_msisdn DESC LIMIT 1").stdout
    assert note == 'г. Санкт-Петербург|Ленинградская область|ПАО "Мобильные ТелеСистемы", ИНН 7740000076\n'


def test_editions_of_the_register_differ_and_mean_the_same(database: TestDatabase, tmp_path: Path) -> None:
    """A further column, Latin letters in a heading, leading zeros that a spreadsheet lost."""
    path = tmp_path / "DEF-9xx.csv"
    rows = [
        row.replace(";7740", ";45000000;7740").replace(";7812", ";45000000;7812").replace(";0000000;0009999", ";0;9999")
        for row in PUBLISHED
    ]
    rows[0] = "ABC/ DEF;От;До;Емкость;Оператор;Регион;Территория ГАР;ИНН"
    path.write_text("\n".join(rows) + "\n")
    assert load(database, path, Whose(inn="7740000076")) == 2
    assert stored(database) == MTS


def test_a_damaged_register_is_refused_by_line_and_column(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "DEF-9xx.csv"
    for old, new, words in (
        (";10000;", ";9999;", "line 2: Емкость"),
        ("910;0000000;", "91;0000000;", "line 2: АВС/DEF, От, До"),
        (";0009999;", ";00099990;", "line 2: АВС/DEF, От, До"),
        (";Емкость;", ";", "line 1: the header must name the columns АВС/DEF, От, До, Емкость, Оператор, Регион, ИНН: Емкость is missing"),
        (";ИНН", "", "ИНН is missing"),
    ):
        path.write_text("\n".join(PUBLISHED).replace(old, new))
        with pytest.raises(ImportRefused, match=re.escape(words)):
            load(database, path, Whose(inn="7740000076"))
    assert stored(database) == []


def test_the_register_is_never_taken_whole_and_a_wrong_name_is_helped(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "DEF-9xx.csv"
    path.write_text("\n".join(PUBLISHED))
    with pytest.raises(ImportRefused, match="say whose with --inn"):
        load(database, path)
    with pytest.raises(ImportRefused, match='there are: ПАО "Мобильные ТелеСистемы"'):
        load(database, path, Whose(operator="телесистемы"))
    with pytest.raises(ImportRefused, match="no line of the register is of ИНН 1"):
        load(database, path, Whose(inn="1"))
    with pytest.raises(ImportRefused, match="this file's header is not the register's"):
        load(database, own(path, "79100000000,79109999999,,"), Whose(inn="1"))
    assert stored(database) == []


def test_a_register_replaces_what_a_register_brought_and_no_range_made_by_hand(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "DEF-9xx.csv"
    path.write_text("\n".join(PUBLISHED))
    ported_in = (79_500_000_007, 79_500_000_007)
    database.psql("-c", "INSERT INTO registry.numbering_range (first_msisdn, last_msisdn) VALUES (79500000007, 79500000007)")
    assert replaced(database, path, Whose(inn="7740000076"))[1].kept == 1
    assert stored(database) == [MTS[0], ported_in, MTS[1]]
    path.write_text("\n".join(PUBLISHED[:-1]))
    assert replaced(database, path, Whose(inn="7740000076"))[1].kept == 1
    assert stored(database) == [MTS[0], ported_in]
    # What is by hand and in the register too is for somebody to decide, and no number is told.
    path.write_text("\n".join((*PUBLISHED, "950;0000000;0009999;10000;МТС;г. Москва;7740000076")))
    with pytest.raises(ImportRefused, match=r"^line 5: overlaps a range made by hand: delete that one by SQL if the register is right$"):
        load(database, path, Whose(inn="7740000076"))
    assert stored(database) == [MTS[0], ported_in]
    # A list of the operator's own says all there is.
    assert replaced(database, own(path, "79200000000,79209999999,,"))[1].kept == 0
    assert stored(database) == [(79_200_000_000, 79_209_999_999)]


def test_ranges_that_turn_subscribers_absent_are_refused_with_their_number(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "ranges.csv"

    async def populate() -> None:
        async with database.connect() as connection:
            await add_contracts(connection, 300, 79_100_000_000)
            await add_contracts(connection, 50, 79_100_005_000)
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn < 79100000100")

    asyncio.run(populate())
    # Before there are ranges every number is in the capacity.
    other = own(path, "79200000000,79209999999,,")
    with pytest.raises(TooManyAbsent, match=r"turn 250 of 250 live contracts \(100\.00%\) absent.*--max-absent 250$"):
        replaced(database, other, absent_max=249, dry_run=True)
    assert stored(database) == []
    assert replaced(database, own(path, "79100000000,79100004999,,", "79100005010,79100009999,,"), absent_max=10)[1] == (250, 10, 0)
    # Those who were outside already lose nothing; a range cut in two loses what lay between.
    assert (
        replaced(database, own(path, "79100000000,79100000149,,", "79100000200,79199999999,,"), absent_max=50, dry_run=True)[1].absent == 50
    )
    with pytest.raises(TooManyAbsent):
        replaced(database, own(path, "79100000000,79100000149,,", "79100000200,79199999999,,"), absent_max=49)
    assert len(stored(database)) == 2
    # What stays by hand loses nobody.
    database.psql("-c", "INSERT INTO registry.numbering_range (first_msisdn, last_msisdn) VALUES (79100005000, 79100005004)")
    register = tmp_path / "DEF-9xx.csv"
    register.write_text("АВС/ DEF;От;До;Емкость;Оператор;Регион;ИНН\n920;0000000;0009999;10000;МТС;;1")
    database.psql("-c", "UPDATE registry.numbering_range SET source = 'register' WHERE last_msisdn <> 79100005004")
    assert replaced(database, register, Whose(inn="1"), absent_max=240)[1] == (250, 240, 1)

    async def answers() -> str:
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            return (await ask(db, messenger_id, (79_100_005_000, None), (79_100_005_005, None)))[1]

    assert asyncio.run(answers()) == "10"
