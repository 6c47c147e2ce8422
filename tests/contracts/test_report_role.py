"""A session of registryd_report that tries everything: it reads the reports, and neither anything else nor the daemon's peace."""

from __future__ import annotations

import asyncio
import re

import asyncpg

from registryd import resources
from tests.conftest import TestDatabase
from tests.contracts.conftest import hostile
from tests.store.conftest import FIRST, add_contracts, add_messengers, ask

CODE = "a-code-of-theirs"


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
