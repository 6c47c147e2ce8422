"""The pool tells a database that is away from a mistake of ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import pytest

from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import Attempt
from registryd.store import notifications
from registryd.store.pool import Database
from tests.conftest import TestDatabase


class Link:
    """A way to the server. Of a connection that is opened now, so many bytes of the server's come through, then it is cut."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.bytes_max = 1_000_000
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        left = self.bytes_max
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        server, to_server = await asyncio.open_unix_connection(self.path)
        try:
            asking = asyncio.create_task(_copy(client, to_server))
            while left and (said := await server.read(left)):
                to_client.write(said)
                await to_client.drain()
                left -= len(said)
            asking.cancel()
        except ConnectionError:
            pass
        finally:
            to_client.transport.abort()
            to_server.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while part := await source.read(65_536):
            target.write(part)
            await target.drain()
    target.close()


@asynccontextmanager
async def cutting(path: str) -> AsyncIterator[tuple[Link, int]]:
    """A link and its port on loopback."""
    link = Link(path)
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    try:
        yield link, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in link.tasks:
            task.cancel()
        await asyncio.gather(*link.tasks, return_exceptions=True)


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


@pytest.mark.parametrize("is_known", [False, True], ids=["first statement", "known statement"])
def test_a_primary_that_was_left_is_an_outage_at_whatever_moment_of_a_statement(database: TestDatabase, is_known: bool) -> None:
    async def work(db: Database) -> None:
        async def ask(value: int) -> None:
            async with db.connection() as connection:
                await connection.fetch("SELECT $1::integer, pg_sleep($1::integer)", value)

        for moment in range(40):
            if is_known:
                await ask(0)
            former = set(db._opened)  # those that were cut stay there until they are collected
            asking = asyncio.create_task(ask(5))
            while not is_known and former.issuperset(db._opened):
                await asyncio.sleep(0)
            for _ in range(moment):
                await asyncio.sleep(0)
            db._leave()
            with pytest.raises(Unavailable):
                await asking

    run(database, work)


def test_a_connection_that_is_cut_after_any_byte_is_an_outage(database: TestDatabase) -> None:
    """As by a firewall or a server that dies in the middle of what it says."""
    place = dict(parse_qsl(urlsplit(database.dsn()).query))

    async def ask(db: Database) -> None:
        async with db.transaction() as connection:
            await connection.fetch("SELECT $1::integer, $2::text[], now()", 1, ["a"])

    async def work() -> None:
        async with cutting(f"{place['host']}/.s.PGSQL.{place['port']}") as (link, port):
            dsn = f"postgresql://registryd_app@127.0.0.1:{port}/{database.name}"
            async with Database(dsn, size=1, connect_timeout_s=3, command_timeout_s=10) as db:
                await ask(db)
                link.bytes_max, is_cut = 0, True
                while is_cut:
                    db._leave()
                    link.bytes_max += 11
                    try:
                        await ask(db)
                        is_cut = False
                    except Unavailable:
                        pass
                assert link.bytes_max > 1_000, "what a new session and its statement are told is more"

    asyncio.run(work())


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


def test_what_a_rule_refuses_each_time_is_a_bug_and_no_outage(database: TestDatabase) -> None:
    """It looks like a conflict, which another try would end. As an outage it would be tried for ever, and nobody would hear of it."""
    database.psql(
        "-c",
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'restrict_violation'; END $$; "
        "CREATE TRIGGER refuse BEFORE INSERT ON registry.delivery_attempt FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    )

    async def work(db: Database) -> None:
        attempt = Attempt(datetime.now(UTC), 1, "acknowledged", 204, 5, None)
        with pytest.raises(asyncpg.RestrictViolationError):
            await notifications.settle_receipts(db, MessengerId(1), [], [attempt])

    run(database, work)
