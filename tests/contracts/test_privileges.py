"""Who may do what: the whole matrix beside a golden file, and the refusals that matter tried out.

privileges.txt is the matrix as it is meant. A change of grants changes it by hand, on purpose, in the same commit.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from registryd import resources
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, add_contracts, add_messengers, ask, bind

GOLDEN = Path(__file__).with_name("privileges.txt")
ROLES = ("registryd_app", "registryd_report", "registryd_breakglass", "registryd_approver", "public")


@pytest.fixture
def granted(database: TestDatabase) -> TestDatabase:
    """A clone does not have its template's grants on the database itself: roles.sql is run again, which changes nothing else."""
    done = database.psql("-f", str(resources.path("sql/roles.sql")))
    assert (done.returncode, done.stderr) == (0, "")
    return database


MATRIX = """
WITH role(role, place) AS (SELECT * FROM unnest($1::text[]) WITH ORDINALITY),
held(kind, object, role, place, privileges) AS (
    SELECT 'database', 'this one', r.role, r.place, string_agg(p.name, ' ' ORDER BY p.name)
      FROM role AS r, unnest(ARRAY['CONNECT', 'CREATE', 'TEMPORARY']) AS p(name)
     WHERE has_database_privilege(r.role, current_database(), p.name) GROUP BY r.role, r.place
    UNION ALL
    SELECT 'schema', n.nspname::text, r.role, r.place, string_agg(p.name, ' ' ORDER BY p.name)
      FROM pg_namespace AS n, role AS r, unnest(ARRAY['CREATE', 'USAGE']) AS p(name)
     WHERE n.nspname IN ('registry', 'report', 'breakglass', 'public') AND has_schema_privilege(r.role, n.oid, p.name)
     GROUP BY n.nspname, r.role, r.place
    UNION ALL
    SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, c.oid::regclass::text, r.role, r.place,
           string_agg(p.name || coalesce(' (' || columns.list || ')', ''), ', ' ORDER BY p.place)
      FROM pg_class AS c, role AS r,
           unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) WITH ORDINALITY AS p(name, place),
           LATERAL (SELECT string_agg(a.attname, ', ' ORDER BY a.attname) AS list FROM pg_attribute AS a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT has_table_privilege(r.role, c.oid, p.name)
                       AND CASE WHEN p.name IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                                THEN has_column_privilege(r.role, c.oid, a.attnum, p.name) END) AS columns
     WHERE c.relnamespace::regnamespace::text IN ('registry', 'report', 'breakglass') AND c.relkind IN ('r', 'p', 'v', 'm')
       AND (has_table_privilege(r.role, c.oid, p.name) OR columns.list IS NOT NULL)
     GROUP BY c.oid, c.relkind, r.role, r.place
    UNION ALL
    SELECT 'sequence', c.oid::regclass::text, r.role, r.place, string_agg(p.name, ' ' ORDER BY p.name)
      FROM pg_class AS c, role AS r, unnest(ARRAY['SELECT', 'UPDATE', 'USAGE']) AS p(name)
     WHERE c.relnamespace::regnamespace::text IN ('registry', 'report', 'breakglass') AND c.relkind = 'S'
       AND has_sequence_privilege(r.role, c.oid, p.name) GROUP BY c.oid, r.role, r.place
    UNION ALL
    SELECT 'function', f.oid::regprocedure::text, r.role, r.place, 'EXECUTE'
      FROM pg_proc AS f, role AS r
     WHERE f.pronamespace::regnamespace::text IN ('registry', 'report', 'breakglass') AND has_function_privilege(r.role, f.oid, 'EXECUTE')
)
SELECT format('%s %s: %s %s', kind, object, role, privileges) FROM held
 ORDER BY array_position(ARRAY['database', 'schema', 'table', 'view', 'sequence', 'function'], kind), object COLLATE "C", place
"""


def test_the_whole_matrix_is_the_golden_one(granted: TestDatabase, tmp_path: Path) -> None:
    async def run() -> str:
        async with granted.connect() as connection:
            return "".join(f"{row[0]}\n" for row in await connection.fetch(MATRIX, ROLES))

    found = asyncio.run(run())
    actual = tmp_path / "privileges.txt"
    actual.write_text(found)
    assert found.splitlines() == GOLDEN.read_text().splitlines(), f"if that is meant: cp {actual} {GOLDEN}"


def test_what_is_made_later_is_nobodys_until_it_is_granted(granted: TestDatabase) -> None:
    async def run() -> None:
        async with granted.connect() as connection:
            await connection.execute(
                "SET ROLE registryd_owner; CREATE FUNCTION registry.later() RETURNS integer LANGUAGE sql AS 'SELECT 1'; "
                "CREATE TABLE registry.later (); CREATE SEQUENCE registry.later_1; CREATE VIEW registry.later_2 AS SELECT 1 AS one; "
                "SELECT registry.make_partitions('2031-05-01', 1); RESET ROLE"
            )
            rows = await connection.fetch(MATRIX, ROLES)
            assert [row[0] for row in rows if "later" in row[0] or "2031" in row[0]] == []

    asyncio.run(run())


def test_no_role_of_ours_is_more_than_its_grants(granted: TestDatabase) -> None:
    async def run() -> None:
        async with granted.connect() as connection:
            rows = await connection.fetch(
                "SELECT rolname, rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls, rolconnlimit "
                "FROM pg_roles WHERE rolname LIKE 'registryd%' ORDER BY rolname"
            )
            assert [tuple(row) for row in rows] == [
                ("registryd_app", True, False, -1),
                ("registryd_approver", False, False, -1),
                ("registryd_breakglass", False, False, -1),
                ("registryd_owner", False, False, -1),
                ("registryd_report", True, False, 5),
            ]
            members = await connection.fetch(
                "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members "
                "WHERE roleid::regrole::text LIKE 'registryd%' OR member::regrole::text LIKE 'registryd%' ORDER BY 1"
            )
            # Whose sessions the owner may end, and since when they go on.
            wanted = ("pg_read_all_stats", "pg_signal_backend", "registryd_report")
            assert [tuple(row) for row in members] == [(role, "registryd_owner") for role in wanted]
            owners = await connection.fetch(
                "SELECT relowner::regrole::text AS owner FROM pg_class WHERE relnamespace::regnamespace::text IN ('registry', 'report') "
                "UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace::regnamespace::text IN ('registry', 'breakglass')"
            )
            assert [row["owner"] for row in owners] == ["registryd_owner"]

    asyncio.run(run())


def test_functions_that_run_as_their_owner_look_nowhere_a_caller_can_write(granted: TestDatabase) -> None:
    async def run() -> None:
        async with granted.connect() as connection:
            rows = await connection.fetch(
                "SELECT oid::regprocedure::text AS name, coalesce(proconfig, '{}') AS settings FROM pg_proc WHERE prosecdef "
                "AND pronamespace::regnamespace::text IN ('registry', 'breakglass')"
            )
            assert len(rows) >= 8
            loose = [row["name"] for row in rows if "search_path=registry, pg_temp" not in row["settings"]]
            assert loose == []

    asyncio.run(run())


def test_a_callers_own_tables_do_not_stand_in_for_the_registrys(granted: TestDatabase) -> None:
    """A temporary table is found before any other unless the path names pg_temp last."""

    async def run() -> None:
        async with granted.connect() as connection:
            await add_contracts(connection, 1)
            (messenger_id,) = await add_messengers(connection, 1)
            await bind(connection, messenger_id, 1)
        async with granted.connect("registryd_app") as connection:
            for table in ("binding", "notification", "changed", "added", "policy", "contract_movement"):
                await connection.execute(f"CREATE TEMPORARY TABLE {table} (msisdn bigint)")
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST)
            assert await connection.fetchval("SELECT count(*) FROM registry.notification") == 1
            assert await connection.fetchval("SELECT count(*) FROM pg_temp.notification") == 0

    asyncio.run(run())


DENIED = {
    "registryd_app": [
        "SELECT * FROM registry.journal_page",
        "SELECT count(*) FROM registry.presence_query",
        "SELECT registry.find_query('01a20259-70ff-7558-b883-9a09fbfb0000')",
        "UPDATE registry.journal_page SET present = B'1'",
        "DELETE FROM registry.journal_page",
        "DELETE FROM registry.contract",
        "DELETE FROM registry.binding",
        "DELETE FROM registry.notification",
        "DELETE FROM registry.notification_delivered",
        "DELETE FROM registry.delivery_attempt",
        "DELETE FROM registry.messenger",
        "DELETE FROM registry.feed_event",
        "UPDATE registry.feed_event SET outcome = 'applied'",
        "INSERT INTO registry.feed_event (recorded_at) VALUES (now())",
        "INSERT INTO registry.contract (recorded_at) VALUES (NULL)",
        "INSERT INTO registry.operator_key (created_at) VALUES (now())",
        "INSERT INTO registry.replay (own) VALUES (true)",
        "TRUNCATE registry.contract",
        "UPDATE registry.contract SET msisdn = 1",
        "UPDATE registry.contract SET started_at = now()",
        "UPDATE registry.binding SET identification_code = 'x'",
        "UPDATE registry.notification SET deadline_at = now()",
        "INSERT INTO registry.notification DEFAULT VALUES",
        "INSERT INTO registry.notification_delivered DEFAULT VALUES",
        "UPDATE registry.notification_delivered SET delivered_at = now()",
        "UPDATE registry.messenger_key SET secret_sha256 = ''",
        "UPDATE registry.messenger_secret SET ciphertext = ''",
        "UPDATE registry.messenger SET name = 'x'",
        "UPDATE registry.policy SET notice_within = '1 year'",
        "INSERT INTO registry.policy DEFAULT VALUES",
        "INSERT INTO registry.canary_number VALUES (79010800002)",
        "DELETE FROM registry.canary_number",
        "DELETE FROM registry.enumeration_alarm",
        "UPDATE registry.enumeration_alarm SET raised_at = now()",
        "INSERT INTO registry.contract_movement DEFAULT VALUES",
        "INSERT INTO registry.schema_migration DEFAULT VALUES",
        "SELECT registry.notify_messengers_of_ends()",
        "SELECT registry.id_at(now())",
        "INSERT INTO registry.handover DEFAULT VALUES",
        "UPDATE registry.replayed_notification SET replayed_at = now()",
        "UPDATE registry.notification SET replayed = true",
        "UPDATE registry.digest SET sha256 = ''",
        "DELETE FROM registry.digest",
        "DROP TABLE registry.journal_page_default",
        "SELECT * FROM registry.seal",
        "SELECT * FROM registry.breakglass_event",
        "SELECT breakglass.look(1)",
        "INSERT INTO registry.seal DEFAULT VALUES",
        "SELECT registry.append_seal('window', now(), 0, 0, sha256(''), '')",
        "SELECT registry.seal_windows_before(now())",
        "SELECT setval('registry.sealed_until_ms', 1)",
        "UPDATE registry.presence_day SET queries = 0",
        "DELETE FROM registry.delivered_day",
        "SELECT * FROM registry.presence_day",
        "CREATE TABLE registry.mine ()",
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "ALTER TABLE registry.contract DISABLE TRIGGER ALL",
        "SET session_replication_role = 'replica'",
        "SET ROLE registryd_owner",
        "COPY registry.contract TO PROGRAM 'cat'",
    ],
    "registryd_report": [
        "SELECT * FROM registry.contract",
        "SELECT * FROM registry.presence_query",
        "SELECT * FROM registry.canary_number",
        "SELECT registry.policy_in_force(now())",
        "SELECT registry.settle_delivered(1, '{}', 'pull')",
        "SELECT registry.make_partitions('2031-05-01', 1)",
        "SELECT registry.settle_by_hand(1, '{}', 'x', NULL)",
        "SELECT registry.owe_again(1, 1)",
        "CREATE TEMPORARY TABLE mine ()",
        "CREATE TABLE report.mine ()",
        "UPDATE registry.contract SET ended_at = now()",
    ],
    "registryd_breakglass": [
        "SELECT * FROM registry.contract",
        "SELECT * FROM registry.breakglass_event",
        "SELECT registry.append_breakglass(NULL)",
        "SELECT * FROM registry.breakglass_number",
        "SELECT registry.begin_again()",
        "SELECT breakglass.approve(1)",
        "SELECT * FROM report.quota_today",
    ],
    "registryd_approver": [
        "SELECT * FROM registry.contract",
        "SELECT breakglass.request(79160000000, 'a complaint')",
        "SELECT breakglass.look(1)",
    ],
}


@pytest.mark.parametrize("role", DENIED)
def test_a_role_is_refused_what_is_not_its_work(granted: TestDatabase, role: str) -> None:
    async def run() -> None:
        async with granted.connect("postgres" if role in ("registryd_breakglass", "registryd_approver") else role) as connection:
            if role in ("registryd_breakglass", "registryd_approver"):  # which cannot log in
                await connection.execute(f"SET SESSION AUTHORIZATION {role}")
            # What holds is the grants, not the role's own setting, which it may change.
            await connection.execute("SET default_transaction_read_only = off")
            allowed = []
            for statement in DENIED[role]:
                try:
                    await connection.execute(statement)
                except asyncpg.InsufficientPrivilegeError:
                    continue
                allowed.append(statement)
            assert allowed == []

    asyncio.run(run())


def test_the_report_role_reads_every_report_within_its_bounds(granted: TestDatabase) -> None:
    async def run() -> None:
        async with granted.connect() as connection, granted.pool() as db:
            await add_contracts(connection, 2)
            (messenger_id,) = await add_messengers(connection, 1)
            await ask(db, messenger_id, (FIRST, "code"), (FIRST + 1, None))
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST)
        async with granted.connect("registryd_report") as connection:
            names = await connection.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'report'")
            assert len(names) >= 12
            for row in names:
                await connection.fetch(f"SELECT * FROM {row['viewname']}")  # its search path is the schema
            assert await connection.fetchval("SELECT terminated FROM binding_by_messenger") == 1
            bounds = {name: await connection.fetchval(f"SHOW {name}") for name in ("statement_timeout", "default_transaction_read_only")}
            assert bounds == {"statement_timeout": "30s", "default_transaction_read_only": "on"}

    asyncio.run(run())


def test_nobody_else_may_connect(granted: TestDatabase) -> None:
    async def run() -> None:
        async with granted.connect() as connection:
            name = f"stranger_{granted.name}"
            await connection.execute(f"CREATE ROLE {name} LOGIN")
            try:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await asyncpg.connect(granted.dsn(name))
            finally:
                await connection.execute(f"DROP ROLE {name}")

    asyncio.run(run())
