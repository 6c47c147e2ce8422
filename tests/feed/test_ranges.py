"""`ranges import`: all of the files becomes numbering capacity or nothing does, no other hand's ranges go, and it decides no answer."""

from __future__ import annotations

import asyncio
import gzip
import re
import subprocess
import sys
from pathlib import Path

import pytest

from registryd.domain.files import ImportRefused
from registryd.feed import ranges as feed
from registryd.feed.ranges import Imported
from registryd.feed.register import Whose
from tests.conftest import Site, TestDatabase
from tests.process.commands import run, told
from tests.store.conftest import add_contracts

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PUBLISHED = [
    "АВС/ DEF;От;До;Емкость;Оператор;Регион;ИНН",
    '910;0000000;0009999;10000;"ПАО ""Мобильные ТелеСистемы""";г. Москва;7740000076',
    '910;0010000;0019999;10000;"ПАО ""МегаФон""";г. Москва;7812014560',
    '978;9990000;9999999;10000;"ПАО ""Мобильные ТелеСистемы""";г. Санкт-Петербург|Ленинградская область;7740000076',
]
MTS = [(79_100_000_000, 79_100_009_999), (79_789_990_000, 79_789_999_999)]


def load(database: TestDatabase, path: Path, whose: Whose = feed.NOBODY, *, dry_run: bool = False) -> int:
    return len(replaced(database, path, whose=whose, dry_run=dry_run).ranges)


def replaced(database: TestDatabase, *paths: Path, whose: Whose = feed.NOBODY, dry_run: bool = False) -> Imported:
    return asyncio.run(feed.import_ranges(database.dsn("registryd_app"), None, paths, whose, dry_run=dry_run))


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
        "79109999999,79110000000,,\n79100000000,79109999999,,": "line 2: overlaps the range of line 3",
        "79109999999,79100000000,,": "line 2: last_msisdn: not smaller",
        "+79100000000,79109999999,,": "line 2: first_msisdn and last_msisdn: 5 to 15 digits",
        "998999999999999,999000000000000,,": "line 2: first_msisdn and last_msisdn: 999 is the code of test numbers",
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
@pytest.mark.parametrize("whose", [Whose(inns=["7740000076"]), Whose(operators=["пао  «Мобильные телесистемы»"])], ids=["inn", "name"])
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
    assert load(database, path, Whose(inns=["7740000076"])) == 2
    assert stored(database) == MTS


def test_a_damaged_register_is_refused_by_line_and_column(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "DEF-9xx.csv"
    for old, new, words in (
        (";10000;", ";9999;", "line 2: Емкость"),
        ("910;0000000;", "91;0000000;", "line 2: АВС/DEF, От, До"),
        (";0009999;", ";00099990;", "line 2: АВС/DEF, От, До"),
        (";Емкость;", ";", "line 1: the header must name the columns АВС/DEF, От, До, Емкость, Оператор, Регион, ИНН: Емкость is missing"),
    ):
        path.write_text("\n".join(PUBLISHED).replace(old, new))
        with pytest.raises(ImportRefused, match=re.escape(words)):
            load(database, path, Whose(inns=["7740000076"]))
    assert stored(database) == []


def test_the_register_is_never_taken_whole_and_a_wrong_name_is_helped(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "DEF-9xx.csv"
    path.write_text("\n".join(PUBLISHED))
    with pytest.raises(ImportRefused, match="say whose with --inn"):
        load(database, path)
    with pytest.raises(ImportRefused, match='there are: ПАО "Мобильные ТелеСистемы"'):
        load(database, path, Whose(operators=["телесистемы"]))
    with pytest.raises(ImportRefused, match="no line of the register is of ИНН 1"):
        load(database, path, Whose(inns=["1"]))
    with pytest.raises(ImportRefused, match="this file's header is not the register's"):
        load(database, own(path, "79100000000,79109999999,,"), Whose(inns=["1"]))
    assert stored(database) == []


def test_a_register_replaces_what_a_register_brought_and_no_range_made_by_hand(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "DEF-9xx.csv"
    path.write_text("\n".join(PUBLISHED))
    ported_in = (79_500_000_007, 79_500_000_007)
    database.psql("-c", "INSERT INTO registry.numbering_range (first_msisdn, last_msisdn) VALUES (79500000007, 79500000007)")
    assert replaced(database, path, whose=Whose(inns=["7740000076"])).counted.kept == 1
    assert stored(database) == [MTS[0], ported_in, MTS[1]]
    path.write_text("\n".join(PUBLISHED[:-1]))
    assert replaced(database, path, whose=Whose(inns=["7740000076"])).counted.kept == 1
    assert stored(database) == [MTS[0], ported_in]
    # What is by hand and in the register too is for somebody to decide, and no number is told.
    path.write_text("\n".join((*PUBLISHED, "950;0000000;0009999;10000;МТС;г. Москва;7740000076")))
    with pytest.raises(ImportRefused, match=r"^line 5: overlaps a range made by hand: delete that one by SQL if the register is right$"):
        load(database, path, Whose(inns=["7740000076"]))
    assert stored(database) == [MTS[0], ported_in]
    # A list of the operator's own says all there is.
    assert replaced(database, own(path, "79200000000,79209999999,,")).counted.kept == 0
    assert stored(database) == [(79_200_000_000, 79_209_999_999)]


def test_a_name_leads_to_its_taxpayer_number_and_takes_all_of_its_names(database: TestDatabase, tmp_path: Path) -> None:
    """One operator stands in the register under two names: who gives one of them means the operator."""
    path = tmp_path / "DEF-9xx.csv"
    path.write_text("\n".join((*PUBLISHED, '911;0000000;0009999;10000;"ПАО ""МТС""";г. Москва;7740000076')))
    done = replaced(database, path, whose=Whose(operators=['ПАО "МТС"']))
    assert stored(database) == sorted([*MTS, (79_110_000_000, 79_110_009_999)])
    (note,) = done.notes
    assert "ИНН 7740000076" in note
    assert 'ПАО "Мобильные ТелеСистемы" (2 ranges); ПАО "МТС" (1 ranges)' in note
    assert replaced(database, path, whose=Whose(inns=["7812014560"])).notes == []


def test_several_files_and_several_taxpayer_numbers_are_one_capacity(database: TestDatabase, tmp_path: Path) -> None:
    mobile, city = tmp_path / "DEF-9xx.csv", tmp_path / "ABC-4xx.csv"
    mobile.write_text("\n".join(PUBLISHED))
    city.write_text(
        "\n".join((PUBLISHED[0], "495;1000000;1009999;10000;МГТС;г. Москва;7740000076", "495;2000000;2009999;10000;Иное;;7777777777"))
    )
    assert replaced(database, city, whose=Whose(inns=["7740000076"])).dropped == 0
    assert replaced(database, mobile, whose=Whose(inns=["7740000076"]), dry_run=True).dropped == 10_000, "one after another loses the first"
    both = sorted([*MTS, (74_951_000_000, 74_951_009_999), (79_100_010_000, 79_100_019_999)])
    assert len(replaced(database, mobile, city, whose=Whose(inns=["7740000076", "7812014560"])).ranges) == 4
    assert stored(database) == both
    city.write_text("\n".join((PUBLISHED[0], "495;1000000;1009999;9999;МГТС;г. Москва;7740000076")))
    with pytest.raises(ImportRefused, match=rf"^{re.escape(str(city))}: line 2: Емкость"):
        replaced(database, mobile, city, whose=Whose(inns=["7740000076"]))
    city.write_text(mobile.read_text())
    with pytest.raises(ImportRefused, match=r"^\S+ABC-4xx.csv: line \d+: overlaps the range of \S+DEF-9xx.csv: line \d+: "):
        replaced(database, mobile, city, whose=Whose(inns=["7740000076"]))
    with pytest.raises(ImportRefused, match="no line of the register is of ИНН 7701725181"):
        replaced(database, mobile, city, whose=Whose(inns=["7740000076", "7701725181"]))
    with pytest.raises(ImportRefused, match=r"DEF-9xx.csv: line 2: overlaps the range of \S+DEF-9xx.csv: line 2: "):
        replaced(database, mobile, mobile, whose=Whose(inns=["7740000076"]))
    city.write_text("\n".join((PUBLISHED[0], "495;1000000;1009999;9;МГТС;г. Москва;7740000076")))
    with pytest.raises(ImportRefused, match="line 2: Емкость"):
        replaced(database, mobile, city, whose=Whose(inns=["7740000076"]))
    with pytest.raises(ImportRefused, match="import one kind"):
        replaced(database, mobile, own(city, "79200000000,79209999999,,"))
    assert stored(database) == both
    own(mobile, "79300000000,79309999999,,")
    assert len(replaced(database, mobile, own(city, "79200000000,79209999999,,")).ranges) == 2
    assert stored(database) == [(79_200_000_000, 79_209_999_999), (79_300_000_000, 79_309_999_999)]


@pytest.mark.parametrize(
    "joint", ["", "\ufeff", "\n", "\n\ufeff", "\r\n\ufeff"], ids=["nothing", "a mark", "a line end", "both", "Windows"]
)
def test_no_range_of_files_that_were_joined_is_lost(database: TestDatabase, tmp_path: Path, joint: str) -> None:
    """The published file has no line end after its last row, and the next begins with a mark."""
    path = tmp_path / "all.csv"
    shuffled = ["ИНН;ABC/ DEF;От;До;Емкость;Оператор;Регион", "7740000076;495;1000000;1009999;10000;МГТС;г. Москва"]
    for second in ([PUBLISHED[0], "495;1000000;1009999;10000;МГТС;г. Москва;7740000076"], shuffled if "\n" in joint else []):
        path.write_text("\ufeff" + "\n".join(PUBLISHED) + (joint + "\n".join(second) if second else ""))
        assert load(database, path, Whose(inns=["7740000076"])) == (3 if second else 2)
    assert stored(database)[-2:] == MTS


def test_the_register_comes_compressed_or_from_standard_input(site: Site, tmp_path: Path) -> None:
    content = "\n".join(PUBLISHED).encode()
    for name, packed in (
        ("a.csv.gz", gzip.compress(content)),
        ("b.csv.zst", zstd.compress(content)),
        ("c.csv", "\n".join(PUBLISHED).encode("utf-16")),
    ):
        (tmp_path / name).write_bytes(packed)
        assert told(site, "ranges", "import", str(tmp_path / name), "--inn", "7740000076")["ranges"] == 2
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(content)[:-3])
    assert "damaged or cut short" in run(site, "ranges", "import", str(tmp_path / "a.csv.gz"), "--inn", "7740000076").stderr
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "ranges", "import", "-", "--inn", "7812014560", "--json"]
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    assert (done.returncode, stored(site.database)) == (0, [(79_100_010_000, 79_100_019_999)]), done.stderr


def test_an_older_edition_without_taxpayer_numbers_is_taken_by_name(database: TestDatabase, tmp_path: Path) -> None:
    older, newer = tmp_path / "DEF-9xx.csv", tmp_path / "ABC-4xx.csv"
    older.write_text("\n".join(row.rpartition(";")[0] for row in PUBLISHED) + "\n")
    assert load(database, older, Whose(operators=["ПАО Мобильные ТелеСистемы"])) == 2
    assert stored(database) == MTS
    with pytest.raises(ImportRefused, match="this edition of the register has no ИНН"):
        load(database, older, Whose(inns=["7740000076"]))
    newer.write_text("\n".join((PUBLISHED[0], '495;1000000;1009999;10000;"ПАО ""Мобильные ТелеСистемы""";;7740000076')))
    assert len(replaced(database, older, newer, whose=Whose(inns=["7740000076"])).ranges) == 3, "a newer file says whose the name is"


def test_a_register_that_was_cut_within_its_last_line_is_refused(database: TestDatabase, tmp_path: Path) -> None:
    """A taxpayer number that lost a digit is nobody's, and its range would be left out without a word."""
    path = tmp_path / "DEF-9xx.csv"
    whole = "\n".join(PUBLISHED)
    for cut in (1, 4, 11, 30):
        path.write_text(whole[:-cut])
        with pytest.raises(ImportRefused, match=r"^line 4: "):
            load(database, path, Whose(inns=["7740000076"]))
    own(path, "79200000000,79209999999,,x").write_bytes(b"region,note,first_msisdn,last_msisdn\n,,7920000000,7920999999")
    with pytest.raises(ImportRefused, match="line 2: has no line end"):
        load(database, path)


def test_who_lies_outside_the_capacity_is_told_and_by_block_reported(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "ranges.csv"

    async def populate() -> None:
        async with site.database.connect() as connection:
            await add_contracts(connection, 300, 79_100_000_000)
            await add_contracts(connection, 50, 79_219_999_990)
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn < 79100000100")

    asyncio.run(populate())
    report = "SELECT block, contracts FROM report.contract_outside_capacity ORDER BY 1"
    assert site.database.psql("-Atc", report).stdout == "", "while there are no ranges, nothing is outside"
    own(path, "79100000000,79100000149,,", "79100000200,79199999999,,")
    would = told(site, "ranges", "import", str(path), "--dry-run")
    assert (would["live"], would["outside"], stored(site.database)) == (250, 100, [])
    assert "100 of 250 live contracts lie outside it" in run(site, "ranges", "import", str(path)).stdout
    assert site.database.psql("-Atc", report).stdout == "+7910000****|50\n+7921999****|10\n+7922000****|40\n"
    history = tmp_path / "history.csv"
    columns = "msisdn,generation,status,holder,end_user,started_at,ended_at,end_reason"
    history.write_text(f"{columns}\n79500000001,1,active,individual,not_required,2020-01-01T00:00:00Z,,\n")
    assert "101 live contracts lie outside the numbering capacity" in run(site, "contracts", "import", str(history)).stdout
    assert told(site, "contracts", "import", str(history))["outside"] == 101
