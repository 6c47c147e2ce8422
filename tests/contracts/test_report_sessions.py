"""Sessions of registryd_report: five, bounded, ended when they go on for too long, and none of them in the daemon's way."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

import asyncpg
import pytest

from registryd import resources
from registryd.store import reports
from tests.conftest import Site, TestDatabase, daemon, eventually
from tests.contracts.conftest import hostile
from tests.persons import Persons, acting
from tests.store.conftest import FIRST, waits


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
