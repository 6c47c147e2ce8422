"""From one release to the next: migrate beside running processes, and older processes on the newer schema."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registryd import resources
from registryd.demo import embedded
from registryd.store import migrations
from registryd.store.migrations import SchemaMismatch
from tests.conftest import TestDatabase, cloned
from tests.store.conftest import add_contracts, waits
from tests.store.releases import DIRECTORY, broken, recorded
from tests.store.test_migrations import dump, grant, read_again

OLD = migrations.migrations()[-1].version
NEW = OLD + 1
COMPATIBLE = f"-- compatible from {OLD:04d}\nALTER TABLE registry.contract ADD COLUMN note text;\n-- code\nSELECT registry.added();\n"
ADDED = "\nCREATE OR REPLACE FUNCTION registry.added() RETURNS integer LANGUAGE sql AS 'SELECT 1';\n"
ANOTHER_REPORT = """
CREATE OR REPLACE VIEW report.feed_lag AS SELECT f.*, 1 AS further FROM ({body}) AS f;
"""


class NextRelease:
    """The files of a synthetic next release, and the way back to this one."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sql = root / "sql"
        self._here, self._monkeypatch = resources.path, monkeypatch
        shutil.copytree(resources.path("sql"), self.sql)

    def install(self) -> None:
        self._monkeypatch.setattr(resources, "path", lambda name: self.sql.parent / name)
        read_again()

    def go_back(self) -> None:
        self._monkeypatch.setattr(resources, "path", self._here)
        read_again()


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NextRelease]:
    release = NextRelease(tmp_path, monkeypatch)
    (release.sql / f"migrations/{NEW:04d}_note.sql").write_text(COMPATIBLE)
    with (release.sql / "code/guards.sql").open("a") as code:
        code.write(ADDED)
    yield release
    release.go_back()


def test_an_older_release_serves_a_newer_schema_and_its_migrate_changes_nothing(database: TestDatabase, next_release: NextRelease) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            next_release.install()
            with pytest.raises(SchemaMismatch, match=f"{NEW:04d}_note.sql of this release not applied: run `registryd migrate`"):
                await migrations.check(connection)
            done = await migrations.migrate(connection)
            assert done == ([f"{NEW:04d}_note.sql", "code/guards.sql", "grants.sql"], NEW)
            await migrations.check(connection)
            upgraded = dump(database)

            next_release.go_back()
            await migrations.check(connection)
            assert await migrations.migrate(connection) == ([], NEW)
            assert "CREATE" not in await migrations.script(connection)
            assert dump(database) == upgraded

    asyncio.run(run())


def test_an_older_release_that_no_longer_works_with_the_schema_refuses_it(database: TestDatabase, next_release: NextRelease) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            (next_release.sql / f"migrations/{NEW:04d}_note.sql").write_text("ALTER TABLE registry.contract ADD COLUMN note text;")
            next_release.install()
            await migrations.migrate(connection)
            next_release.go_back()
            for refuses in (migrations.check, migrations.migrate, migrations.script):
                with pytest.raises(SchemaMismatch, match=f"at migration {NEW:04d}, newer than this program"):
                    await refuses(connection)

    asyncio.run(run())


def test_an_upgraded_schema_is_the_one_that_is_made_new(server: embedded.Server, database: TestDatabase, next_release: NextRelease) -> None:
    async def migrated(of: TestDatabase) -> None:
        async with of.connect() as connection:
            await migrations.migrate(connection)

    with cloned(server, None) as fresh:
        grant(fresh)
        next_release.install()
        asyncio.run(migrated(fresh))
        asyncio.run(migrated(database))
        assert dump(fresh) == dump(database)


def test_migrate_lets_queries_pass_while_somebody_holds_a_table_and_says_who(
    database: TestDatabase, next_release: NextRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def run() -> None:
        async with database.connect() as reader, database.connect() as dba, database.connect("registryd_app") as app:
            await add_contracts(dba, 1)
            dump_runs = reader.transaction()
            await dump_runs.start()
            await reader.execute("SET LOCAL application_name = 'pg_dump'; LOCK TABLE registry.contract IN ACCESS SHARE MODE")
            next_release.install()
            migrating = asyncio.create_task(migrations.migrate(dba, told.append))
            await waits(reader, dba.get_server_pid())
            # It queues behind the ALTER, and only for as long as that waits.
            assert await app.fetchval("SELECT count(*) FROM registry.contract") == 1
            while not told:
                await app.fetchval("SELECT pg_sleep(0.05)")
            await dump_runs.rollback()
            assert (await migrating).version == NEW

    monkeypatch.setattr(migrations, "SETTINGS", migrations.SETTINGS.replace("'2s'", "'1s'"))
    monkeypatch.setattr(migrations, "PAUSE_S", 0.05)
    asyncio.run(run())
    assert told[0].startswith("pg_dump as postgres (pid ")
    assert "on registry.contract for " in told[0]


def test_migrate_gives_up_by_name_and_has_changed_nothing(
    database: TestDatabase, next_release: NextRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with database.connect() as reader, database.connect() as dba, reader.transaction():
            await reader.execute("LOCK TABLE registry.contract IN ACCESS SHARE MODE; SELECT pg_sleep(1)")
            before = dump(database)
            next_release.install()
            with pytest.raises(SchemaMismatch, match=r"the tables stay locked by .* on registry.contract"):
                await migrations.migrate(dba)
            assert dump(database) == before
            assert await dba.fetchval("SELECT current_user") == "postgres"

    monkeypatch.setattr(migrations, "SETTINGS", migrations.SETTINGS.replace("'2s'", "'50ms'"))
    monkeypatch.setattr(migrations, "PAUSE_S", 0.01)
    monkeypatch.setattr(migrations, "TRIES_MAX", 2)
    asyncio.run(run())


def test_grants_and_views_of_a_dbas_own_outlive_an_upgrade_that_adds_a_column(database: TestDatabase, next_release: NextRelease) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            role = f"analyst_{database.name}"
            await connection.execute(
                f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA report TO {role}; GRANT SELECT ON report.feed_lag TO {role};"
                "CREATE SCHEMA dba; CREATE VIEW dba.lag AS SELECT * FROM report.feed_lag"
            )
            try:
                body = (await connection.fetchval("SELECT pg_get_viewdef('report.feed_lag'::regclass)")).rstrip(";")
                with (next_release.sql / "reports/reports.sql").open("a") as reports:
                    reports.write(ANOTHER_REPORT.format(body=body))
                next_release.install()
                await migrations.migrate(connection)
                await connection.execute(f"SET ROLE {role}")
                await connection.fetch("SELECT further FROM report.feed_lag")
                await connection.execute("RESET ROLE")
                await connection.fetch("SELECT * FROM dba.lag")
            finally:
                await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")

    asyncio.run(run())


def test_every_kept_release_that_may_still_run_finds_its_statements_served(database: TestDatabase) -> None:
    oldest = max(m.compatible_from for m in migrations.migrations())

    async def run() -> None:
        async with database.connect() as connection:
            for path in sorted(DIRECTORY.glob("*.json")):
                release: dict[str, Any] = json.loads(path.read_text())
                if oldest <= release["version"]:
                    assert await broken(connection, release) == {}, path.name
            # And what this release asks is told apart from what a schema without it would serve.
            now = await recorded(connection)
            assert await broken(connection, now) == {}
            await connection.execute("SET client_min_messages = warning; ALTER TABLE registry.lane DROP COLUMN last_error CASCADE")
            assert "lanes.gate_lane" in await broken(connection, now)

    asyncio.run(run())


def test_code_that_changed_since_a_kept_release_comes_with_a_migration() -> None:
    """The number of the newest migration is what orders releases: an older one's migrate must not overwrite a newer one's code."""
    kept = [json.loads(path.read_text()) for path in DIRECTORY.glob("*.json")]
    for release in kept:
        if release["version"] == OLD:
            assert release["code"] == {file.name: file.checksum.hex() for file in migrations.code_files()}, "add a migration"
