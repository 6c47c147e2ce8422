"""The schema's way into a database: in order, once, one at a time, by command or by psql; and who refuses to serve on another one."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from registryd import resources
from registryd.demo import embedded
from registryd.store import migrations
from registryd.store.migrations import SchemaMismatch
from tests.conftest import DIES_WITH_US, Site, TestDatabase, cloned, psql
from tests.servers import private_server
from tests.store.conftest import waits

DONE, FAILED, DATABASE_AWAY, SCHEMA, CONFIG = 0, 1, 69, 76, 78
VERSIONS = [m.version for m in migrations.migrations()]
NAMES = [m.path.name for m in migrations.migrations()] + [file.name for file in migrations.code_files()]


@pytest.fixture
def empty(server: embedded.Server, template: str) -> Iterator[TestDatabase]:
    """A database with the roles and nothing else."""
    with cloned(server, None) as database:
        grant(database)
        yield database


def grant(database: TestDatabase) -> None:
    done = database.psql("-f", str(resources.path("sql/roles.sql")))
    assert (done.returncode, done.stderr) == (0, "")


def registryd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "registryd", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )


async def applied(database: TestDatabase) -> list[tuple[int, bytes]]:
    async with database.connect() as connection:
        rows = await connection.fetch("SELECT version, checksum FROM registry.schema_migration ORDER BY version")
        return [(row["version"], row["checksum"]) for row in rows]


def dump(database: TestDatabase) -> str:
    """The whole schema as pg_dump tells it, grants and comments included."""
    server = database.server
    done = subprocess.run(
        [str(server.binaries.directory / "pg_dump"), "--schema-only", database.dsn()],
        env=server.binaries.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Newer ones guard their output by a random word.
    return "\n".join(text for text in done.stdout.splitlines() if not re.match(r"\\(un)?restrict ", text))


def test_the_command_and_its_psql_script_make_the_same_schema(server: embedded.Server, template: str) -> None:
    with cloned(server, None) as by_command, cloned(server, None) as by_psql:
        grant(by_psql)
        done = registryd("migrate", "--dsn", by_command.dsn())
        assert done.returncode == SCHEMA
        assert "permission denied for database" in done.stderr
        assert "sql/roles.sql" in done.stderr
        grant(by_command)
        done = registryd("migrate", "--dsn", by_command.dsn())
        assert done.returncode == DONE, done.stderr
        assert re.findall(r"^applied (\S+)$", done.stdout, re.MULTILINE) == NAMES

        script = registryd("migrate", "--print", "--dsn", by_psql.dsn())
        assert script.returncode == DONE, script.stderr
        assert re.findall(r"^-- (\S+\.sql)$", script.stdout, re.MULTILINE) == NAMES
        ran = by_psql.psql("-f", "-", stdin=script.stdout)
        assert (ran.returncode, ran.stderr) == (0, "")

        assert dump(by_psql) == dump(by_command)
        checksums = asyncio.run(applied(by_command))
        assert checksums == asyncio.run(applied(by_psql)) == [(m.version, m.checksum) for m in migrations.migrations()]

        # Again changes nothing, either way.
        before = dump(by_command)
        again = registryd("migrate", "--dsn", by_command.dsn())
        assert again.returncode == DONE
        assert "applied" not in again.stdout
        script = registryd("migrate", "--print", "--dsn", by_command.dsn())
        assert "CREATE TABLE registry." not in script.stdout
        assert by_command.psql("-f", "-", stdin=script.stdout).returncode == 0
        assert dump(by_command) == before
        assert asyncio.run(applied(by_command)) == checksums


def test_a_second_migrate_waits_for_the_first_and_finds_nothing_to_do(empty: TestDatabase) -> None:
    async def run() -> None:
        async with empty.connect() as one, empty.connect() as other, empty.connect() as look:
            await look.execute("SELECT pg_advisory_lock($1)", migrations.LOCK)
            both = asyncio.gather(migrations.migrate(one), migrations.migrate(other))
            await waits(look, one.get_server_pid())
            await waits(look, other.get_server_pid())
            await look.execute("SELECT pg_advisory_unlock($1)", migrations.LOCK)
            done = await both
            assert sorted(each.files for each in done) == [[], NAMES]
            assert [await connection.fetchval("SELECT current_user") for connection in (one, other)] == ["postgres"] * 2
            assert await look.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        assert [version for version, _ in await applied(empty)] == VERSIONS

    asyncio.run(run())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of sql/migrations that a test may change, as a checkout of another release would have it."""
    copy = tmp_path / "sql"
    shutil.copytree(resources.path("sql"), copy)
    monkeypatch.setattr(resources, "path", lambda name: tmp_path / name)
    read_again()
    yield copy / "migrations"
    monkeypatch.undo()
    read_again()


def read_again() -> None:
    """The files have changed under a process that has read them."""
    migrations.migrations.cache_clear()
    migrations.code_files.cache_clear()


def test_a_migrate_that_fails_changes_nothing(empty: TestDatabase, files: Path) -> None:
    (files / "9001_first.sql").write_text("CREATE TABLE registry.first ();")
    (files / "9002_second.sql").write_text("CREATE TABLE registry.second (); SELECT 1 / 0;")
    (files / "9003_third.sql").write_text("CREATE TABLE registry.third ();")

    async def run() -> None:
        async with empty.connect() as connection:
            with pytest.raises(asyncpg.DivisionByZeroError):
                await migrations.migrate(connection)
            assert await connection.fetchval("SELECT to_regnamespace('registry')") is None
            # The connection is as it was: mended, all of it goes in.
            (files / "9002_second.sql").write_text("CREATE TABLE registry.second ();")
            read_again()
            assert [name for name in (await migrations.migrate(connection)).files if name.startswith("9")] == [
                "9001_first.sql",
                "9002_second.sql",
                "9003_third.sql",
            ]
            owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'third'"
            assert await connection.fetchval(owner) == "registryd_owner"
            assert await connection.fetchval("SELECT current_user") == "postgres"
            await migrations.check(connection)

    asyncio.run(run())


def test_a_file_that_was_edited_after_it_was_applied_is_refused(database: TestDatabase, files: Path) -> None:
    edited = files / migrations.migrations()[0].path.name
    edited.write_text(edited.read_text() + "-- a last word\n")
    (files / "9001_new.sql").write_text("CREATE TABLE registry.new ();")
    read_again()

    async def run() -> None:
        async with database.connect() as connection:
            for refuses in (migrations.check, migrations.script, migrations.migrate):
                with pytest.raises(SchemaMismatch, match=rf"{edited.name} is not the file that was applied"):
                    await refuses(connection)
            assert [version for version, _ in await applied(database)] == VERSIONS
            assert await connection.fetchval("SELECT to_regclass('registry.new')") is None
            assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0

    asyncio.run(run())


def test_a_role_that_may_not_see_the_schema_is_told_whom_to_be(shared: TestDatabase) -> None:
    async def run() -> None:
        async with shared.connect() as connection:
            await connection.execute("SET SESSION AUTHORIZATION registryd_breakglass")
            with pytest.raises(SchemaMismatch, match="connect as registryd_app"):
                await migrations.check(connection)

    asyncio.run(run())


def test_a_file_without_its_number_is_refused(files: Path) -> None:
    (files / "third.sql").write_text("SELECT 1;")
    read_again()
    with pytest.raises(SchemaMismatch, match="begins with four digits"):
        migrations.migrations()


def test_migrating_wants_the_roles_and_the_right_to_be_their_owner(empty: TestDatabase) -> None:
    with private_server() as bare:
        done = registryd("migrate", "--dsn", bare.dsn())
        assert done.returncode == SCHEMA
        assert "roles are missing" in done.stderr
        assert "sql/roles.sql" in done.stderr
        # An older release's roles, which lack a right.
        psql(bare, bare.dsn(), "-f", str(resources.path("sql/roles.sql")), "-c", "REVOKE pg_signal_backend FROM registryd_owner")
        done = registryd("migrate", "--dsn", bare.dsn())
        assert done.returncode == SCHEMA
        assert "sql/roles.sql" in done.stderr
    away = registryd("migrate", "--dsn", bare.dsn())
    assert away.returncode == DATABASE_AWAY
    assert "the database is away" in away.stderr

    other = registryd("migrate", "--dsn", empty.dsn("registryd_app"))
    assert other.returncode == SCHEMA
    assert "may not SET ROLE registryd_owner" in other.stderr


def test_a_dba_who_may_act_as_the_owner_migrates_without_being_a_superuser(empty: TestDatabase) -> None:
    name = f"dba_{secrets.token_hex(4)}"

    async def run() -> None:
        async with empty.connect() as connection:
            await connection.execute(f"CREATE ROLE {name} LOGIN NOINHERIT IN ROLE registryd_owner")
            try:
                await connection.execute(f'GRANT CONNECT ON DATABASE "{empty.name}" TO {name}')
                async with empty.connect(name) as dba:
                    assert (await migrations.migrate(dba)).files == NAMES
                    assert (await migrations.migrate(dba)).files == []
                owners = await connection.fetch(
                    "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'registry'::regnamespace"
                )
                assert [row[0] for row in owners] == ["registryd_owner"]
            finally:
                await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")

    asyncio.run(run())


def test_serve_refuses_a_schema_that_does_not_fit_and_says_how(server: embedded.Server, template: str, site: Site) -> None:
    """Every case at once: each is a daemon that must end."""
    config = site.path.read_text()
    states = {
        "empty": ("DROP SCHEMA registry, report CASCADE", "no registry schema: run `registryd migrate`"),
        "older": (
            "UPDATE registry.schema_migration SET version = 0, compatible_from = 0",
            "migration 0000, which this program does not know",
        ),
        "newer": ("INSERT INTO registry.schema_migration VALUES (9998, sha256('x'), 9998)", "9998, newer than this program"),
    }
    expected: dict[str, tuple[int, str]] = {name: (SCHEMA, words) for name, (_, words) in states.items()}
    configs: dict[str, str] = {
        "an unknown key": config + "\n[nonsense]\nx = 1\n",
    }
    expected |= {
        "an unknown key": (CONFIG, "nonsense"),
    }
    told: dict[str, tuple[int, str]] = {}
    with cloned(server, template) as empty, cloned(server, template) as older, cloned(server, template) as newer:
        for name, database in {"empty": empty, "older": older, "newer": newer}.items():
            assert database.psql("-c", f"SET client_min_messages = warning; {states[name][0]}").returncode == 0
            configs[name] = config.replace(site.database.name, database.name)
        daemons: dict[str, subprocess.Popen[str]] = {}
        try:
            for name, text in configs.items():
                path = site.directory / f"{name.replace(' ', '-')}.toml"
                path.write_text(text)
                command = [sys.executable, "-m", "registryd", "--config", str(path), "serve"]
                daemons[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **DIES_WITH_US)
            for name, process in daemons.items():
                output, _ = process.communicate(timeout=60)
                told[name] = (process.returncode, output)
        finally:
            for process in daemons.values():
                process.kill()
                process.wait()
    assert set(told) == set(expected)
    wrong = {name: told[name] for name, (code, words) in expected.items() if told[name][0] != code or words not in told[name][1]}
    assert wrong == {}
    assert [name for name, (_, output) in told.items() if "Traceback" in output] == []
