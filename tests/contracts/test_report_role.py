"""A session of registryd_report that tries everything: it reads the reports, and neither anything else nor the daemon's peace."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

import asyncpg
import pytest

from registryd import resources
from registryd.store import reports
from tests.conftest import Site, TestDatabase, daemon, eventually
from tests.persons import Persons, acting
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, ask, waits

CODE = "a-code-of-theirs"


@pytest.fixture
def granted(database: TestDatabase) -> TestDatabase:
    """A clone does not have its template's grants on the database itself."""
    assert database.psql("-f", str(resources.path("sql/roles.sql"))).returncode == 0
    return database


@asynccontextmanager
async def hostile(database: TestDatabase) -> AsyncIterator[Connection]:
    """Who has set all that a session may set: what holds now is what the database enforces."""
    async with database.connect("registryd_report") as connection:
        await connection.execute(
            "SET default_transaction_read_only = off; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; "
            "SET idle_session_timeout = 0; SET lock_timeout = 0; SET work_mem = '64kB'; "
            "SET search_path = registry, report, public, pg_catalog"
        )
        yield connection


async def seed(database: TestDatabase) -> None:
    """A row, at least, in every report."""
    async with database.connect() as dba, database.pool() as db:
        await add_contracts(dba, 3)
        (messenger_id,) = await add_messengers(dba, 1)
        await ask(db, messenger_id, (FIRST, CODE), (FIRST + 1, None))
        await dba.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST)
        await dba.execute("INSERT INTO registry.enumeration_alarm VALUES ($1, now(), 'absent', now() + interval '1 hour')", messenger_id)
        await dba.execute("INSERT INTO registry.delivery_attempt VALUES ($1, now(), 1, 'failed', NULL, 7, 'timeout')", messenger_id)
        await add_contracts(dba, 1, 79_500_000_007)
        await dba.execute("INSERT INTO registry.numbering_range (first_msisdn, last_msisdn) VALUES (79160000000, 79169999999)")
        await dba.execute("INSERT INTO registry.wave (ends, notifications) VALUES (1, 1)")
        await dba.execute("INSERT INTO registry.turned_day VALUES (current_date, 1)")
        await dba.execute("INSERT INTO registry.refusal_day VALUES (current_date, $1, 'quota', 1)", messenger_id)
        await dba.execute(
            "INSERT INTO registry.notification_withdrawn SELECT messenger_id, generation, 1, deadline_at, notification_id, msisdn, "
            f"terminated_at, recorded_at, now(), 1, identification_code, 'as {FIRST} says' FROM registry.notification; "
            f"UPDATE registry.feed_state SET reason = 'as {FIRST} says'; "
            f"UPDATE registry.wave SET released = 1, released_at = now(), released_by = 'anna', release_reason = 'as {FIRST} says'; "
            f"SELECT registry.change_policy('{{}}', now(), 'as {FIRST} says')"
        )
        await dba.execute(
            "INSERT INTO registry.feed_event VALUES ('e', 'terminated', decode(repeat('00', 16), 'hex'), 'applied', NULL, now()); "
            f"INSERT INTO registry.feed_waiting (event_id, type, reason, occurred_at) "
            f"VALUES ('e-{FIRST}', 'terminated', 'no_contract_yet', now()); "
            f"INSERT INTO registry.handover (messenger_id, channel, notifications) VALUES ({messenger_id}, 'courier', 1); "
            "INSERT INTO registry.digest (messenger_id, day, notifications, sha256) "
            "SELECT messenger_id, current_date, 0, sha256('') FROM registry.messenger; "
            "INSERT INTO registry.replay (messenger_id, per_second) SELECT messenger_id, 20 FROM registry.messenger; "
            "INSERT INTO registry.breakglass_event VALUES "
            f"(1, 1, 'look', 'requested', now(), 'anna', {FIRST}, '', 'complaint of {FIRST}', '{{}}', '', sha256(''), sha256('')); "
            "INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256) "
            "SELECT 'aaaaaaaa', messenger_id, sha256('') FROM registry.messenger; "
            "INSERT INTO registry.change_request (messenger_id, kind, endpoint_url, requested_by, outcome, decided_at, decided_by, reason) "
            "SELECT messenger_id, 'endpoint', 'https://example.net/', key_id, 'refused', now(), 'anna', "
            f"'of {FIRST}' FROM registry.messenger_key; "
            "INSERT INTO registry.process VALUES ('host', 'answer', 1, 1, '0.1.0', 1); "
            "INSERT INTO registry.last_snapshot (as_of) VALUES (now()); "
            "INSERT INTO registry.operator_key (key_id, name, scopes, secret_sha256) VALUES ('aaaaaaaa', 'anna', '{act}', sha256('')); "
            "INSERT INTO registry.action (confirmation, person, key_id, kind, what, counted, reason, outcome) VALUES "
            f"(gen_random_uuid(), 'anna', 'aaaaaaaa', 'hold', 'held all', 1, 'for {FIRST}', 'done'); "
            "INSERT INTO registry.answer_minute VALUES (now(), 1, 0, 1, 0, 0, '{1}'); ANALYZE"
        )


def test_every_recipe_for_reports_runs_as_the_report_role(granted: TestDatabase) -> None:
    """Those of the sections Recipes and Grafana."""
    text = resources.path("sql/README.md").read_text()
    recipes = [
        recipe
        for section in ("Recipes", "Grafana")
        for recipe in re.findall(r"```sql\n(.*?)```", text.split(f"\n## {section}\n")[1].split("\n## ")[0], re.DOTALL)
    ]
    assert len(recipes) >= 12

    async def story() -> None:
        await seed(granted)
        async with granted.connect("registryd_report") as connection:
            for recipe in recipes:
                for statement in filter(str.strip, recipe.split(";\n")):
                    assert await connection.fetch(statement) or "WHERE" in statement, statement

    asyncio.run(story())


def test_every_interval_stands_beside_its_number_of_seconds(granted: TestDatabase) -> None:
    """Grafana takes numbers."""

    async def story() -> None:
        await seed(granted)
        async with granted.connect() as dba:
            columns = {
                (row["view"], row["name"]): row["type"]
                for row in await dba.fetch(
                    "SELECT c.relname AS view, a.attname AS name, format_type(a.atttypid, NULL) AS type "
                    "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 "
                    "WHERE c.relnamespace = 'report'::regnamespace AND c.relkind = 'v'"
                )
            }
            intervals = {key: kind for key, kind in columns.items() if kind.startswith("interval")}
            assert len(intervals) >= 15
            for (view, name), kind in intervals.items():
                assert columns.get((view, f"{name}_seconds")) == kind.replace("interval", "double precision"), (view, name)
                if kind == "interval":
                    same = f"(extract(epoch FROM {name}) - {name}_seconds) BETWEEN -0.001 AND 0.001"
                    differs = f"SELECT count(*) FROM report.{view} WHERE NOT coalesce({same}, {name} IS NULL AND {name}_seconds IS NULL)"
                    assert await dba.fetchval(differs) == 0, (view, name)

    asyncio.run(story())


def test_every_report_is_read_and_none_holds_a_number_or_a_code(granted: TestDatabase) -> None:
    async def story() -> None:
        await seed(granted)
        async with granted.connect("registryd_report") as connection:
            views = await connection.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'report'")
            for view in views:
                rows = await connection.fetch(f"SELECT v::text FROM {view['viewname']} AS v")
                assert rows, view["viewname"]
                for row in rows:
                    assert CODE not in row[0]
                    assert str(FIRST)[:7] not in row[0]

    asyncio.run(story())


ATTEMPTS = [
    "CREATE TABLE mine ()",
    "CREATE TABLE report.mine ()",
    "CREATE TABLE public.mine ()",
    "CREATE TEMPORARY TABLE mine ()",
    "CREATE VIEW report.mine AS SELECT 1 AS one",
    "CREATE OR REPLACE VIEW report.feed_lag AS SELECT 1 AS one",
    "DROP VIEW report.feed_lag",
    "ALTER VIEW report.feed_lag OWNER TO registryd_report",
    "CREATE FUNCTION report.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION pg_temp.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "CREATE EXTENSION file_fdw",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "SET ROLE registryd_owner",
    "SET ROLE registryd_app",
    "SET ROLE pg_monitor",
    "SET SESSION AUTHORIZATION registryd_app",
    "ALTER ROLE registryd_report CONNECTION LIMIT -1",
    "ALTER ROLE registryd_report SUPERUSER",
    "ALTER ROLE registryd_report SET temp_file_limit = -1",
    "ALTER ROLE registryd_app SET statement_timeout = '1ms'",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "SET temp_file_limit = -1",
    "SET session_replication_role = replica",
    "SET log_min_duration_statement = 0",
    "SET session_preload_libraries = 'x'",
    "LOAD 'auto_explain'",
    "COPY report.policy TO '/tmp/mine'",
    "COPY report.policy TO PROGRAM 'cat'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_create(0)",
    "SELECT lo_creat(131072)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_statistic",
    "SELECT * FROM pg_largeobject",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'registryd_app'",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_restore_point('mine')",
    "CHECKPOINT",
    "SELECT registry.policy_in_force(now())",
    "SELECT registry.end_long_reports('0')",
    "SELECT registry.change_policy('{}', now(), 'mine')",
    "SELECT 1; LOCK TABLE registry.contract IN ACCESS SHARE MODE",
    "SELECT 1; LOCK TABLE report.feed_lag IN EXCLUSIVE MODE",
]


def test_whatever_else_it_tries_is_refused(granted: TestDatabase) -> None:
    async def story() -> None:
        await seed(granted)
        async with granted.connect() as dba, granted.connect("registryd_app"), hostile(granted) as connection:
            attempts = list(ATTEMPTS)
            for row in await dba.fetch(
                "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'registry'::regnamespace "
                "AND relkind IN ('r', 'p', 'v')"
            ):
                attempts += [f"SELECT FROM {row['name']}", f"INSERT INTO {row['name']} DEFAULT VALUES", f"DELETE FROM {row['name']}"]
                attempts += [f"TRUNCATE {row['name']}", f"DROP TABLE {row['name']}", f"COPY {row['name']} TO STDOUT"]
            for row in await dba.fetch("SELECT proname::text, pronargs FROM pg_proc WHERE pronamespace = 'registry'::regnamespace"):
                attempts.append(f"SELECT registry.{row['proname']}({', '.join(['NULL'] * row['pronargs'])})")
            allowed = []
            for attempt in attempts:
                try:
                    await connection.execute(attempt)
                    allowed.append(attempt)
                except (asyncpg.InsufficientPrivilegeError, asyncpg.CantChangeRuntimeParamError):
                    pass
                except asyncpg.PostgresError as error:
                    allowed.append(f"{attempt}: {type(error).__name__} {error}")
            assert allowed == []

    asyncio.run(story())


def test_what_the_planner_and_the_monitor_know_is_not_told(granted: TestDatabase) -> None:
    async def story() -> None:
        await seed(granted)
        async with granted.connect() as dba, granted.connect("registryd_app") as app, hostile(granted) as connection:
            assert await dba.fetchval("SELECT count(*) FROM pg_stats WHERE schemaname = 'registry'") > 0
            assert await connection.fetchval("SELECT count(*) FROM pg_stats WHERE schemaname = 'registry'") == 0
            await app.fetch("SELECT status FROM registry.contract WHERE msisdn = 79160000001")
            seen = await connection.fetch("SELECT query FROM pg_stat_activity WHERE usename <> 'registryd_report'")
            assert {row["query"] for row in seen} <= {"<insufficient privilege>", ""}

    asyncio.run(story())


def test_it_has_five_sessions_and_its_bounds_before_it_sets_them(granted: TestDatabase) -> None:
    async def story() -> None:
        sessions = [await asyncpg.connect(granted.dsn("registryd_report")) for _ in range(5)]
        try:
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await asyncpg.connect(granted.dsn("registryd_report"))
            wanted = {
                "statement_timeout": "30s",
                "idle_in_transaction_session_timeout": "1min",
                "idle_session_timeout": "1h",
                "lock_timeout": "5s",
                "work_mem": "16MB",
                "temp_file_limit": "1GB",
                "default_transaction_read_only": "on",
            }
            assert {name: await sessions[0].fetchval(f"SHOW {name}") for name in wanted} == wanted
        finally:
            for session in sessions:
                await session.close()

    asyncio.run(story())


def test_a_report_that_set_its_limits_off_is_ended_and_nobody_else(granted: TestDatabase) -> None:
    async def story() -> None:
        async with granted.connect() as dba, granted.connect("registryd_app") as app, hostile(granted) as long:
            running = asyncio.create_task(long.execute("SELECT pg_sleep(600)"))
            state = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active' AND datname = $1"
            await eventually(lambda: dba.fetchval(state, granted.name))
            other = asyncio.create_task(app.execute("SELECT pg_advisory_lock(1), pg_sleep(0.3)"))
            assert await dba.fetchval("SELECT registry.end_long_reports($1)", reports.LONGEST) == 0, "it is not a minute old"
            async with granted.connect("registryd_app") as housekeeper:
                assert await housekeeper.fetchval("SELECT registry.end_long_reports($1)", timedelta(0)) == 1
            with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError)):
                await running
            await other

    asyncio.run(story())


def test_who_is_granted_the_role_is_ended_like_it_and_the_owners_and_the_daemons_are_not(granted: TestDatabase) -> None:
    roles = {
        "reporter": "registryd_report",
        "migrator": "registryd_report, registryd_owner",
        "service": "registryd_report, registryd_app",
        "stranger": "registryd_breakglass",
    }
    names = {role: f"{role}_{secrets.token_hex(4)}" for role in (*roles, "root")}

    async def story() -> None:
        async with granted.connect() as dba:
            for role, groups in roles.items():
                await dba.execute(f"CREATE ROLE {names[role]} LOGIN; GRANT {groups} TO {names[role]}")
            await dba.execute(f"CREATE ROLE {names['root']} LOGIN SUPERUSER; GRANT registryd_report TO {names['root']}")
            try:
                async with AsyncExitStack() as stack:
                    sessions = {role: await stack.enter_async_context(granted.connect(name)) for role, name in names.items()}
                    elsewhere = [
                        await asyncpg.connect(granted.server.dsn("postgres", name)) for name in (names["reporter"], "registryd_report")
                    ]
                    for session in elsewhere:
                        stack.push_async_callback(session.close)
                    locking = await stack.enter_async_context(granted.connect(names["reporter"]))
                    await locking.execute("SELECT pg_advisory_lock(1)")
                    async with granted.connect("registryd_app") as housekeeper:
                        end = "SELECT registry.end_long_reports($1)"
                        for session in (*sessions.values(), *elsewhere):
                            await session.execute("BEGIN; SELECT 1")
                        there = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND datname = $2"
                        here = (names["reporter"], granted.name)
                        for longest, left in ((reports.LONGEST, 1), (timedelta(0), 0)):  # the one with a lock, then the other
                            assert await housekeeper.fetchval(end, longest) == 1
                            await eventually(partial(dba.fetchval, f"SELECT ({there}) = {left}", *here))
                    assert [await session.fetchval("SELECT true") for session in elsewhere] == [True, True], (
                        "those of other databases go on"
                    )
                    for role in sessions.keys() - {"reporter"}:
                        assert await dba.fetchval(there, names[role], granted.name) == 1, role
            finally:
                for name in names.values():
                    await dba.execute(f"DROP ROLE {name}")

    asyncio.run(story())


def test_who_reports_too_carries_a_break_glass_request_out_in_peace(granted: TestDatabase) -> None:
    """A look holds the log's lock while it reads the whole journal, and an undoing of ends the feed's: both may take minutes."""

    async def story(persons: Persons) -> None:
        async with granted.connect() as dba, granted.connect("registryd_app") as housekeeper:
            await dba.execute(f"GRANT registryd_report TO {persons.anna}")
            end = "SELECT registry.end_long_reports('0')"
            async with persons.session(persons.anna) as anna, persons.session(persons.boris) as boris:
                ask = "SELECT breakglass.request_reinstate('billing ended the wrong list', now() - interval '1 hour')"
                request = await anna.fetchval(ask)
                await boris.execute("SELECT breakglass.approve($1)", request)
                for step, argument in (("breakglass.reinstate($1)", request), ("breakglass.request($1, 'complaint 17')", FIRST)):
                    async with anna.transaction():
                        await anna.fetch(f"SELECT {step}", argument)
                        assert await housekeeper.fetchval(end) == 0, step
                        assert await anna.fetchval("SELECT true")
            async with granted.connect(persons.anna) as anna:
                await anna.execute("BEGIN; SELECT count(*) FROM report.policy")
                assert await housekeeper.fetchval(end) == 1, "a report of hers is a report"
                anna.terminate()

    with acting(granted) as persons:
        asyncio.run(story(persons))


def test_a_report_session_cannot_keep_the_daemon_from_starting(site: Site) -> None:
    """An advisory lock is anybody's to take, and the daemon's housekeeping waits for one."""
    assert site.database.psql("-f", str(resources.path("sql/roles.sql"))).returncode == 0

    async def story() -> None:
        async with hostile(site.database) as connection, site.database.connect("registryd_app") as app, site.database.connect() as dba:
            await connection.execute("SELECT pg_advisory_lock(hashtextextended('registry.make_partitions', 0))")
            # As make_partitions does, but for as long as it takes.
            waiting = asyncio.create_task(app.execute("SELECT pg_advisory_xact_lock(hashtextextended('registry.make_partitions', 0))"))
            await waits(dba, app.get_server_pid())
            with daemon(site, "operate") as running:
                await eventually(lambda: any(line["event"] == "reports_ended" for line in running.log()))
            await waiting
            there = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'registryd_report' AND datname = $1"
            assert await dba.fetchval(there, site.database.name) == 0
            connection.terminate()

    asyncio.run(story())
