"""The pool tells a database that is away from a mistake of ours."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from registryd.domain.errors import Unavailable
from registryd.store.pool import Database
from tests.conftest import TestDatabase


def run(database: TestDatabase, work) -> None:  # type: ignore[no-untyped-def]
    async def entered() -> None:
        async with database.pool() as db:
            await work(db)

    asyncio.run(entered())


def test_a_wrong_number_of_arguments_is_a_bug_and_no_outage(database: TestDatabase) -> None:
    async def work(db: Database) -> None:
        with pytest.raises(asyncpg.InterfaceError):
            async with db.connection() as connection:
                await connection.fetch("SELECT $1::integer", 1, 2)

    run(database, work)


@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT pg_sleep(5)"])
def test_a_connection_that_is_lost_is_an_outage(database: TestDatabase, statement: str) -> None:
    """Killed while it is idle in a transaction, and under a statement."""

    async def kill(pid: int) -> None:
        async with database.connect() as dba:
            while not await dba.fetchval("SELECT pg_terminate_backend($1)", pid):
                pass

    async def lose(db: Database) -> None:
        async with db.transaction() as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            if "sleep" in statement:
                await asyncio.gather(connection.fetch(statement), kill(pid))
            await kill(pid)
            while not connection.is_closed():
                await asyncio.sleep(0)
            await connection.fetch(statement)

    async def work(db: Database) -> None:
        with pytest.raises(Unavailable):
            await lose(db)

    run(database, work)


def test_a_primary_that_was_left_is_an_outage_even_under_a_first_statement(database: TestDatabase) -> None:
    async def work(db: Database) -> None:
        async def ask() -> None:
            async with db.connection() as connection:
                await connection.fetch("SELECT $1::integer, pg_sleep(5)", 1)

        asking = asyncio.create_task(ask())
        while not db._opened:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        db._leave()
        with pytest.raises(Unavailable):
            await asking

    run(database, work)


def test_a_limit_that_only_a_statement_of_ours_can_meet_is_a_bug_and_no_outage(database: TestDatabase) -> None:
    """Though it is of a kind with having no transaction ids left, which is one."""

    async def raised(db: Database, state: str) -> None:
        async with db.connection() as connection:
            await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$")

    async def work(db: Database) -> None:
        for state in ("54001", "54011", "54023", "XX000", "22012", "42601"):
            with pytest.raises(asyncpg.PostgresError):
                await raised(db, state)
        for state in ("54000", "58000", "58030", "XX001", "XX002", "53100", "53200", "57P01"):
            with pytest.raises(Unavailable):
                await raised(db, state)

    run(database, work)
