"""The files of snapshots: bad lines, other kinds, compression, times, pipes, and commands that are killed."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registryd.domain.files import BadLine, ImportRefused
from registryd.feed import snapshot
from registryd.feed.lines import SNAPSHOT_COLUMNS
from registryd.feed.snapshot import FileImport
from tests.conftest import Site, TestDatabase, eventually, make_site
from tests.store.billing import BAD, FIRST, STARTED, add_bindings, billing, everything, live, take, write

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def test_a_bad_line_costs_its_number_nothing(database: TestDatabase, tmp_path: Path) -> None:
    """Its contract is not taken for one that is gone."""
    path = tmp_path / "billing.csv"
    take(database, write(path, billing(10)))
    before = everything(database)
    table = {number: facts for number, facts in billing(10).items() if number not in (FIRST + 1, FIRST + 2)}
    bad: list[BadLine] = []
    with pytest.raises(ImportRefused, match=r"^line 10: status: active or suspended$"):
        take(database, write(path, table, BAD), bad=bad)
    assert bad == [BadLine(10, "status: active or suspended")]
    assert everything(database) == before
    found = take(database, path, rejects_max=1)
    assert (found.terminated, found.unread) == (1, 1)
    assert set(live(database)) == {*table, FIRST + 1}


def test_a_line_whose_number_cannot_be_read_is_never_tolerated(database: TestDatabase, tmp_path: Path) -> None:
    path = write(tmp_path / "billing.csv", billing(3), f"+7916,individual,not_required,active,{STARTED}", f"{FIRST},individual")
    with pytest.raises(ImportRefused, match=r"(?s)^line 5: msisdn.*line 6: does not have.*each line's number must be readable"):
        take(database, path, rejects_max=10)
    assert live(database) == {}


def test_a_file_of_another_kind_is_not_read_to_its_end(database: TestDatabase, tmp_path: Path) -> None:
    bad: list[BadLine] = []
    with pytest.raises(ImportRefused, match=r"(?s)^line 2: msisdn.*and \d+,\d+ more$"):
        take(database, write(tmp_path / "billing.csv", {}, *["x,y,z,a,b"] * 200_000), bad=bad)
    assert len(bad) < 100_000


def test_a_files_compression_is_known_by_its_first_bytes(database: TestDatabase, tmp_path: Path) -> None:
    path = write(tmp_path / "billing.csv", billing(9_000))
    plain = path.read_bytes()
    # As parallel compressors write them, a file may be several one after the other.
    middle = len(plain) // 2
    for compress in (gzip.compress, zstd.compress):
        path.write_bytes(compress(plain[:middle]) + compress(plain[middle:]))
        assert take(database, path).lines == 9_000
    assert live(database) == billing(9_000)
    before = everything(database)
    for compress in (gzip.compress, zstd.compress):
        whole = compress(plain)
        for cut in (whole[:-1], whole[: len(whole) // 2], whole[:50]):
            path.write_bytes(cut)
            with pytest.raises(ImportRefused, match="damaged or cut short"):
                take(database, path)
    assert everything(database) == before


def test_a_snapshot_is_as_of_when_its_file_was_written_and_a_pipe_must_say_it(database: TestDatabase, tmp_path: Path) -> None:
    path = write(tmp_path / "billing.csv", billing(3))
    take(database, path)
    write(path, billing(2))
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).timestamp()
    os.utime(path, (hour_ago, hour_ago))
    job = FileImport(path)
    dsn = database.dsn("registryd_app")
    assert asyncio.run(snapshot.reconcile(dsn, None, job, None, lambda live: live)).newer == 1
    with pytest.raises(ImportRefused, match="future"):
        take(database, path, as_of=datetime.now(UTC) + timedelta(hours=1))
    event = "INSERT INTO registry.feed_event (event_id, type, content, outcome, occurred_at, recorded_at) VALUES ('e', 'activated', "
    database.psql("-c", f"{event} decode(repeat('00', 16), 'hex'), 'applied', now(), now() - interval '2 days')")
    assert asyncio.run(snapshot.reconcile(dsn, None, job, None, lambda live: live)).newer == 1
    database.psql("-c", "UPDATE registry.feed_event SET recorded_at = now() - interval '2 hours'")
    with pytest.raises(ImportRefused, match="give that time with --as-of"):
        asyncio.run(snapshot.reconcile(dsn, None, job, None, lambda live: live))
    assert take(database, path).terminated == 1


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("msisdn,holder,end_user,status", "started_at is missing"),
        ("msisdn,holder,end_user,status,started_at,status", "status stands there twice"),
        ("msisdn,holder,end_user,status,started_at,name", "name is unknown"),
        ("number,holder,end_user,status,started_at", "msisdn is missing; number is unknown"),
        (f"{FIRST},individual,not_required,active,{STARTED}", "msisdn is missing"),
    ],
)
def test_a_header_is_refused_by_the_name_of_its_column(database: TestDatabase, tmp_path: Path, header: str, says: str) -> None:
    path = tmp_path / "billing.csv"
    path.write_text(header + "\n")
    with pytest.raises(ImportRefused, match=says) as refused:
        take(database, path)
    assert str(FIRST) not in str(refused.value)


@pytest.fixture
def slow_pipe(database: TestDatabase, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command at work on a snapshot of its standard input, which lacks a thousand bound numbers and has not ended yet."""
    take(database, write(tmp_path / "billing.csv", billing(21_000)))
    add_bindings(database, 21_000)
    site: Site = make_site(database, tmp_path / "site")
    words = [
        "contracts",
        "import",
        "-",
        "--snapshot",
        "--as-of",
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        "--max-terminations",
        "100%",
        "--lines",
        "20000",
    ]
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin is not None
        rows = "".join(f"{number},{','.join(facts)}\n" for number, facts in billing(20_000).items())
        process.stdin.write((",".join(SNAPSHOT_COLUMNS) + "\n" + rows).encode())
        process.stdin.flush()
        yield process
        process.kill()


def copying(database: TestDatabase) -> bool:
    found = database.psql("-Atc", "SELECT count(*) FROM pg_stat_progress_copy WHERE tuples_processed > 0").stdout
    return found == "1\n"


def gone(database: TestDatabase) -> bool:
    found = database.psql("-Atc", "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'registryd_app'")
    return found.stdout == "0\n"


def test_a_command_that_is_killed_has_changed_nothing(database: TestDatabase, slow_pipe: subprocess.Popen[bytes]) -> None:
    before = everything(database)
    asyncio.run(eventually(lambda: copying(database)))
    slow_pipe.kill()
    slow_pipe.wait(60)
    asyncio.run(eventually(lambda: gone(database)))
    assert everything(database) == before


def test_standard_input_is_a_file_like_another(database: TestDatabase, slow_pipe: subprocess.Popen[bytes]) -> None:
    assert slow_pipe.stdin is not None
    slow_pipe.stdin.close()
    assert slow_pipe.wait(60) == 0
    assert live(database) == billing(20_000)
    assert database.psql("-Atc", "SELECT count(*) FROM registry.notification").stdout == "1000\n"
