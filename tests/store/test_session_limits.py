"""What a DBA sets as defaults for a role or a database does not end bulk work halfway, and does not change its isolation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from registryd.domain.errors import Unavailable
from registryd.store import bulk, failures, migrations
from tests.conftest import TestDatabase
from tests.store.billing import billing, take, write


def limit(database: TestDatabase, *settings: str) -> None:
    for setting in settings:
        done = database.psql("-c", f"ALTER DATABASE {database.name} SET {setting}")
        assert done.returncode == 0, done.stderr


def test_a_snapshot_and_a_migration_go_on_under_a_dbas_limits(database: TestDatabase, tmp_path: Path) -> None:
    path = write(tmp_path / "billing.csv", billing(20_000))
    limit(database, "statement_timeout = '20ms'", "default_transaction_isolation = 'serializable'", "lock_timeout = '1ms'")
    limit(database, "idle_in_transaction_session_timeout = '1ms'", "idle_session_timeout = '1s'")
    assert take(database, path).activated == 20_000
    assert take(database, write(path, billing(19_000))).terminated == 1_000

    async def migrated() -> list[str]:
        connection = await bulk.connect(database.dsn())
        try:
            await connection.execute("DELETE FROM registry.schema_code")
            return (await migrations.migrate(connection)).files
        finally:
            await connection.close()

    assert "grants.sql" in asyncio.run(migrated())


def test_work_that_was_cancelled_names_the_settings_that_may_have_done_it() -> None:
    try:
        raise Unavailable from asyncpg.QueryCanceledError("canceling statement due to statement timeout")
    except Unavailable as error:
        told = failures.explain(error)
    assert "canceling statement due to statement timeout" in told
    assert "statement_timeout" in told
    assert "is it running" not in told
