"""A dump into another server is the same registry: schema, rights, figures and rules."""

from __future__ import annotations

import asyncio
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from registryd import resources
from registryd.demo import embedded
from registryd.domain.errors import NotComplete
from registryd.keep.days import keep_days
from registryd.store import audit, migrations, permissions
from tests.conftest import TestDatabase, cloned
from tests.contracts.test_privileges import MATRIX, ROLES
from tests.servers import private_server
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, ask, begin_chain, bind, seal_all

FROZEN = "SELECT format('%s', array_agg(v::text ORDER BY v::text)) FROM report.{} AS v"
MOVING = {
    "evidence": "(seals, last_seal, sealed_until, unsealed_pages, log_entries, verified_at, keys, keys_destroyed)",
    "feed_status": "(complete_since, source, declared_by, last_event_at, waiting, ends_last_hour, ends_left)",
    "notification_backlog": "(messenger, pending, overdue, oldest_deadline_at)",
}
"""What is left of a view when the time goes on."""


async def fill(database: TestDatabase) -> None:
    async with database.connect() as dba, database.pool() as db:
        await begin_chain(dba, datetime.now(UTC) - timedelta(days=2))
        await add_contracts(dba, 50)
        messengers = await add_messengers(dba, 2)
        for messenger_id in messengers:
            await bind(dba, messenger_id, 20)
        await ask(db, messengers[0], (FIRST, "other"), (FIRST + 30, "new"), (FIRST + 99, None))
        two_days_ago = datetime.now(UTC) - timedelta(days=2)
        await dba.execute(
            "INSERT INTO registry.delivery_attempt VALUES ($1, $2, 3, 'acknowledged', 204, 7, NULL)", messengers[0], two_days_ago
        )
        await dba.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn < $1", FIRST + 5)
        await dba.execute(
            "INSERT INTO registry.feed_event VALUES ('e', 'terminated', decode(repeat('00', 16), 'hex'), 'applied', NULL, now())"
        )
        await dba.execute("SELECT registry.change_policy('{\"notice_within\": \"1 hour\"}', '2099-01-01', 'planned')")
        with capture_logs():
            await keep_days(db)  # folds
        await seal_all(dba, datetime.now(UTC) + timedelta(minutes=2))


async def facts(connection: Connection) -> dict[str, object]:
    views = [row[0] for row in await connection.fetch("SELECT viewname::text FROM pg_views WHERE schemaname = 'report'")]
    told: dict[str, object] = {}
    for name in sorted(views):
        if name in MOVING:
            told[name] = [tuple(row) for row in await connection.fetch(f"SELECT {MOVING[name]} FROM report.{name} ORDER BY 1")]
        else:
            told[name] = await connection.fetchval(FROZEN.format(name))
    told["rights"] = [row[0] for row in await connection.fetch(MATRIX, ROLES)]
    told["partitions"] = [tuple(row) for row in await connection.fetch("SELECT family, day FROM registry.day_partition ORDER BY 1, 2")]
    told["triggers"] = [
        tuple(row)
        for row in await connection.fetch(
            "SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger WHERE NOT tgisinternal "
            "AND tgrelid::regclass::text LIKE 'registry.%' ORDER BY 1, 2"
        )
    ]
    told["sealed_until"] = await connection.fetchval("SELECT last_value FROM registry.sealed_until_ms")
    for table in (
        "binding_movement",
        "contract_movement",
        "notification_movement",
        "feed_movement",
        "delivered_day",
        "attempt_day",
        "seal",
    ):
        told[table] = await connection.fetchval(f"SELECT array_agg(t::text ORDER BY t::text) FROM registry.{table} AS t")
    return told


def run(server: embedded.Server, tool: str, *words: str) -> None:
    done = subprocess.run(
        [str(server.psql.with_name(tool)), *words], env=server.binaries.environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_dump_restored_into_another_server_is_the_same_registry(database: TestDatabase, tmp_path: Path) -> None:
    assert database.psql("-f", str(resources.path("sql/roles.sql"))).returncode == 0
    asyncio.run(fill(database))
    dump = tmp_path / "registryd.dump"
    run(database.server, "pg_dump", "--format=custom", f"--file={dump}", database.dsn())

    with private_server() as other, cloned(other, None) as restored:
        assert restored.psql("-f", str(resources.path("sql/roles.sql"))).returncode == 0
        run(other, "pg_restore", "--exit-on-error", f"--dbname={restored.dsn()}", str(dump))

        async def compare() -> None:
            async with database.connect() as old, restored.connect() as new, restored.connect("registryd_app") as app:
                await migrations.check(app)
                assert await permissions.lacking(app) == []
                then, now = await facts(old), await facts(new)
                assert now == then
                told = "SELECT complete FROM report.feed_status"
                assert (await old.fetchval(told), await new.fetchval(told)) == (True, False), "complete was said of another cluster"
                assert (await migrations.migrate(new)).files == [], "and a migrate finds nothing to do"
                # The rules came along: an end owes its notifications, an ended contract stays ended, no page comes into a sealed window.
                await app.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST + 10)
                assert await new.fetchval("SELECT sum(pending) FROM report.notification_backlog") == 2 * 5 + 2
                with pytest.raises(asyncpg.RestrictViolationError):
                    await app.execute("UPDATE registry.contract SET status = 'active' WHERE msisdn = $1", FIRST + 10)
                async with restored.pool() as db:
                    with pytest.raises(NotComplete):  # said in another cluster
                        await ask(db, 1, (FIRST + 20, None))
                    await new.execute("SELECT registry.declare_complete('person', 'nothing came since the dump')")
                    assert (await ask(db, 1, (FIRST + 20, None)))[1] == "1"
                newest = "SELECT registry.time_of(page_id) FROM registry.journal_page ORDER BY page_id DESC LIMIT 1"
                assert await new.fetchval(newest) >= await new.fetchval("SELECT max(until_at) FROM registry.seal")
                assert (await audit.verify(restored.dsn(), None, {})).findings == []

        asyncio.run(compare())
