"""Files as shells, databases and spreadsheets really write them: what is whole is taken, what may be cut short changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registryd.domain.files import ImportRefused
from registryd.feed.source import BLOCK_BYTES, opened
from tests.conftest import Site, TestDatabase
from tests.process.commands import run, told
from tests.store.billing import FIRST, billing, live, take, write
from tests.store.test_imports import HEADER, load_file

LINE = f"{FIRST},individual,not_required,active,2020-01-01T00:00:00Z"
SNAPSHOT = f"msisdn,holder,end_user,status,started_at\n{LINE}\n"
HISTORY = f"{HEADER}\n{FIRST},1,active,individual,not_required,2020-01-01T00:00:00Z,,\n"
EVENTS = "event_id,type,msisdn,occurred_at,holder,end_user\ne1,activated,79160000001,2024-01-01T00:00:00Z,,\n"


def blocks(path: Path) -> tuple[str, bytes, bool]:
    """The header, the lines, and whether the last one may have been cut short."""
    with opened(path) as source:
        header, read = source.first_line(), b""
        while block := source.block():
            assert block.endswith(b"\n")
            read += block
        return header, read, source.is_cut


@pytest.mark.parametrize(
    ("text", "lines", "is_cut"),
    [
        (b"h\na\nb\n", b"a\nb\n", False),
        (b"h\na\nb", b"a\nb\n", True),
        (b"h\na\nb\n\n\n", b"a\nb\n", False),
        (b"h\r\na\r\nb\r\n\r\n\r\n", b"a\r\nb\r\n", False),
        (b"h\na\n\nb\n\n", b"a\n\nb\n", False),
        (b"h\n\n\n", b"", False),
        (b"h\n", b"", False),
        (b"h", b"", True),
        (b"\xef\xbb\xbfh\na\n", b"a\n", False),
        (b"h\n" + b"a\n" * BLOCK_BYTES + b"\n" * 1_000, b"a\n" * BLOCK_BYTES, False),
        (b"h\n" + b"a\n" * BLOCK_BYTES + b"\n\nb", b"a\n" * BLOCK_BYTES + b"\n\nb\n", True),
        (b"h\n" + b"\n" * (BLOCK_BYTES - 2) + b"a\n", b"\n" * (BLOCK_BYTES - 2) + b"a\n", False),
    ],
)
def test_empty_lines_at_the_end_are_nothing_and_a_last_line_without_an_end_is_known(
    tmp_path: Path, text: bytes, lines: bytes, is_cut: bool
) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(text)
    assert blocks(path) == ("h", lines, is_cut)


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\n" * 5_000])
def test_every_kind_of_file_may_end_in_empty_lines(site: Site, tmp_path: Path, end: str) -> None:
    path = tmp_path / "file.csv"
    for text, words in ((HISTORY, ()), (SNAPSHOT, ("--snapshot",)), (EVENTS, ("--delta",))):
        path.write_bytes((text.rstrip() + end).encode())
        assert told(site, "contracts", "import", str(path), *words)
    assert set(live(site.database)) == {FIRST, 79160000001}


def test_a_snapshot_that_stops_early_changes_nothing(database: TestDatabase, tmp_path: Path) -> None:
    """At a line's end, where nothing but the count tells; and within its last number, which is then a number that nobody has."""
    path = tmp_path / "billing.csv"
    take(database, write(path, billing(200)))
    write(path, billing(199))
    for lines in (198, 200):
        with pytest.raises(ImportRefused, match=f"^the file has 199 lines after its header, and must have {lines}: "):
            take(database, path, lines=lines)
    assert set(live(database)) == set(billing(200))
    turned = [",".join((*reversed(facts), str(number))) for number, facts in billing(200).items()]
    path.write_text("\n".join(("started_at,status,end_user,holder,msisdn", *turned))[:-2])
    with pytest.raises(ImportRefused, match=r"^the last line has no line end, .*--lines N, or end the file with a line `# lines: N`$"):
        take(database, path)
    with pytest.raises(ImportRefused, match=r"^the file has 200 lines after its header, and must have 201"):
        take(database, path, lines=201)
    assert set(live(database)) == set(billing(200))
    path.write_text("\n".join(("started_at,status,end_user,holder,msisdn", *turned)))
    assert take(database, path, lines=200)[2:6] == (0, 0, 0, 0), "the count proves that the last line is whole"


@pytest.mark.parametrize("trailer", ["# lines: 3", "# 3\n", "#lines=3\r\n", "# lines 3,,,,\n\n", '"# lines: 3"\n'])
def test_a_last_line_may_tell_how_many_there_are(database: TestDatabase, tmp_path: Path, trailer: str) -> None:
    path = write(tmp_path / "billing.csv", billing(3))
    whole = path.read_text()
    path.write_text(whole + trailer)
    assert take(database, path).lines == 3
    path.write_text(whole.replace(whole.splitlines()[2] + "\n", "") + trailer)
    with pytest.raises(ImportRefused, match=r"^the file has 2 lines after its header, and must have 3"):
        take(database, path)
    path.write_text(whole + trailer.strip() + "\n" + whole.splitlines()[3] + "\n")
    with pytest.raises(ImportRefused, match=r"^line 5: tells how many lines there are, and more follow"):
        take(database, path)
    assert live(database) == billing(3)


def imported(site: Site, stdin: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "contracts", "import", *words]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=site.directory, check=False)


def test_a_pipe_of_a_snapshot_must_tell_its_lines(site: Site) -> None:
    """Its writer may have died between two lines, and a pipe does not say so."""
    words = ("-", "--snapshot", "--as-of", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    refused = imported(site, SNAPSHOT.encode(), *words)
    assert (refused.returncode, b"a pipe does not tell whether who wrote it came to the end" in refused.stderr) == (1, True)
    assert imported(site, HISTORY.encode(), "-", "--whole").returncode == 1
    assert live(site.database) == {}
    assert imported(site, SNAPSHOT.encode(), *words, "--lines", "1").returncode == 0
    assert imported(site, f"{SNAPSHOT}# lines: 1\n".encode(), *words).returncode == 0
    assert imported(site, HISTORY.encode(), "-").returncode == 0
    assert list(live(site.database)) == [FIRST]


def test_events_of_a_file_that_may_be_cut_stop_at_its_last_line(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text((EVENTS + "e2,activated,79160000002,2024-01-01T00:00:00Z,,\n").rstrip())
    stopped = run(site, "contracts", "import", str(path), "--delta")
    assert (stopped.exit_code, "line 3: has no line end" in stopped.stderr) == (1, True)
    assert list(live(site.database)) == [79160000001]
    assert told(site, "contracts", "import", str(path), "--delta", "--lines", "2")["applied"] == 1
    with path.open("a") as file:
        file.write("\n")
    short = run(site, "contracts", "import", str(path), "--delta", "--lines", "3")
    assert (short.exit_code, "must have 3 lines after its header" in short.stderr) == (1, True)


def test_a_whole_history_declares_the_registry_complete_and_none_other(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(HISTORY)
    site.database.psql("-c", "DELETE FROM registry.feed_state")
    assert told(site, "contracts", "import", str(path))["complete"] is False
    assert told(site, "contracts", "import", str(path), "--whole", "--dry-run")["complete"] is False
    assert site.database.psql("-Atc", "SELECT registry.is_complete()").stdout == "f\n"
    assert told(site, "contracts", "import", str(path), "--whole")["complete"] is True
    assert site.database.psql("-Atc", "SELECT source, registry.is_complete() FROM registry.feed_state").stdout == "history|t\n"
    assert run(site, "contracts", "import", str(path), "--whole", "--snapshot").exit_code == 2


@pytest.mark.parametrize("separator", [";", "\t"])
def test_the_separator_is_found_from_the_header_as_spreadsheets_of_other_countries_write_it(
    site: Site, tmp_path: Path, separator: str
) -> None:
    path = tmp_path / "file.csv"
    dress = "\ufeff" + SNAPSHOT.replace(",", separator).replace("active", '"active"').replace("\n", "\r\n")
    for text, words in ((dress, ("--snapshot",)), (HISTORY.replace(",", separator), ()), (EVENTS.replace(",", separator), ("--delta",))):
        path.write_bytes(text.encode())
        assert told(site, "contracts", "import", str(path), *words)
    assert set(live(site.database)) == {FIRST, 79160000001}
    path.write_text(HISTORY.replace(",", separator).replace(f"active{separator}individual", "active,individual"))
    assert "line 2: does not have the header's 8 fields" in run(site, "contracts", "import", str(path)).stderr


def test_times_as_psql_writes_them_are_times(site: Site, tmp_path: Path) -> None:
    """`\\copy (SELECT …) TO file CSV HEADER` writes a timestamptz in PostgreSQL's own way."""
    path = tmp_path / "file.csv"
    for text, words in ((SNAPSHOT, ("--snapshot",)), (EVENTS, ("--delta",)), (HISTORY, ())):
        for time in ("2024-01-01 03:00:00+03", "2024-01-01 00:00:00.000000+00"):
            path.write_text(text.replace("2024-01-01T00:00:00Z", time).replace("2020-01-01T00:00:00Z", time))
            assert told(site, "contracts", "import", str(path), *words)
    assert [facts[3] for facts in live(site.database).values()] == ["2024-01-01T00:00:00Z"] * 2


def test_what_a_spreadsheet_makes_of_text_is_told_in_one_sentence(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    for content, says in (
        (SNAPSHOT.encode("utf-16"), "line 1: the header is not UTF-8 text: it is UTF-16, save the file as UTF-8"),
        (b"sep=;\n" + SNAPSHOT.encode(), "line 1: is a word to Excel alone: remove it, the header is the first line"),
    ):
        path.write_bytes(content)
        with pytest.raises(ImportRefused, match=says):
            take(database, path)
    path.write_text(HISTORY)
    os.truncate(path, len(HISTORY) - 1)
    with pytest.raises(ImportRefused, match=r"^the last line has no line end"):
        load_file(database, path)
