"""What a session of ours has, whatever lies between it and the server and whatever the database's defaults are."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import pytest

from registryd.domain.errors import Unavailable
from registryd.store import session
from registryd.store.bulk import connect
from registryd.store.failures import brief, explain
from registryd.store.pool import Connection, Database
from registryd.store.session import SETTINGS, TransactionPooling
from tests.conftest import Site, TestDatabase, daemon
from tests.http.conftest import ask
from tests.process.commands import run, told
from tests.store.pooler import pooling

OF_THE_SERVER = {
    "enable_nestloop": "on",
    "enable_indexscan": "on",
    "random_page_cost": "4",
    "join_collapse_limit": "8",
    "synchronous_commit": "on",
}
Work = Callable[[Database], Awaitable[Any]]


async def through_pooler(database: TestDatabase, work: Work, *, transactions: bool = False) -> Any:
    place = dict(parse_qsl(urlsplit(database.dsn()).query))
    async with pooling(place["host"], int(place["port"]), transactions=transactions) as port:
        dsn = f"postgresql://registryd_app@127.0.0.1:{port}/{database.name}"
        async with Database(dsn, size=2, connect_timeout_s=3, command_timeout_s=10) as db:
            return await work(db)


async def settings_of(db: Database) -> dict[str, str]:
    async with db.connection() as connection:
        values = {name: await connection.fetchval("SELECT current_setting($1, true)", name) for name in SETTINGS}
        return {name: value for name, value in values.items() if value is not None}


def in_force(found: dict[str, str]) -> bool:
    return len(found) > 8 and found.items() <= SETTINGS.items()


def test_a_pooler_of_sessions_needs_no_setting_of_its_own_and_ours_are_in_force(database: TestDatabase) -> None:
    assert in_force(asyncio.run(through_pooler(database, settings_of)))


def test_a_pooler_of_transactions_is_refused_with_what_to_set(database: TestDatabase) -> None:
    async def work(db: Database) -> None:
        await settings_of(db)

    with pytest.raises(TransactionPooling) as refused:
        asyncio.run(through_pooler(database, work, transactions=True))
    assert "pool_mode = session" in explain(refused.value)


def test_no_default_of_database_or_role_reaches_our_sessions(site: Site) -> None:
    defaults = {
        "default_transaction_isolation": "serializable",
        "statement_timeout": "1ms",
        "idle_session_timeout": "1s",
        "enable_seqscan": "on",
        "jit": "on",
        "lock_timeout": "1ms",
        "enable_nestloop": "off",
        "enable_indexscan": "off",
        "random_page_cost": "1000",
        "join_collapse_limit": "1",
        "synchronous_commit": "off",
    }
    for name, value in defaults.items():
        site.database.psql(
            *("-c", f"ALTER DATABASE \"{site.database.name}\" SET {name} = '{value}'"),
            *("-c", f"ALTER ROLE registryd_app IN DATABASE \"{site.database.name}\" SET {name} = '{value}'"),
        )

    async def of_the_server(connection: Connection) -> dict[str, str]:
        return {name: await connection.fetchval("SELECT current_setting($1)", name) for name in OF_THE_SERVER}

    async def read() -> dict[str, str]:
        command = await connect(site.database.dsn("registryd_app"))
        assert await of_the_server(command) == OF_THE_SERVER, "nor those of commands, such as an import's"
        await command.close()
        async with site.database.pool() as db:
            async with db.connection() as connection:
                assert await of_the_server(connection) == OF_THE_SERVER
            return await settings_of(db)

    assert in_force(asyncio.run(read()))
    assert "failed" not in {finding["state"] for finding in told(site, "check")}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("infinity", datetime.max.replace(tzinfo=UTC)),
        ("294276-12-31 00:00+00", datetime.max.replace(tzinfo=UTC)),
        ("10000-01-01 00:00+00", datetime.max.replace(tzinfo=UTC)),
        ("9999-12-31 23:59:59.999999+00", datetime.max.replace(tzinfo=UTC)),
        ("2026-03-29 02:30:00.123456+03", datetime(2026, 3, 28, 23, 30, 0, 123456, UTC)),
        ("1999-12-31 23:59:59.999999+00", datetime(1999, 12, 31, 23, 59, 59, 999999, UTC)),
        ("0001-01-01 00:00+00", datetime.min.replace(tzinfo=UTC)),
        ("4000-01-01 00:00+00 BC", datetime.min.replace(tzinfo=UTC)),
        ("-infinity", datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_every_time_that_the_database_can_hold_is_read_as_one_that_can_be_compared(
    database: TestDatabase, written: str, read: datetime
) -> None:
    async def work() -> None:
        async with database.pool() as db, db.connection() as connection:
            found = await connection.fetchrow("SELECT $1::text::timestamptz, ARRAY[$1::text::timestamptz]", written)
            assert found is not None
            assert (found[0], found[1], found[0].tzinfo) == (read, [read], UTC)
            if written[-1:] != "y":
                assert await connection.fetchval("SELECT $1::timestamptz = $2::text::timestamptz", read, read.isoformat())

    asyncio.run(work())


def test_the_deadlines_of_the_network_are_set_on_tcp_alone(database: TestDatabase) -> None:
    """A Unix socket has none, and is not refused for it."""

    async def work() -> None:
        async with database.pool() as db, db.connection() as connection:
            session.bound_network(connection)

    asyncio.run(work())


def test_a_command_s_connection_ends_with_a_network_that_is_dead(database: TestDatabase) -> None:
    """An import, or what a person began in the console, would else wait for ever, and hold what others wait for."""
    place = dict(parse_qsl(urlsplit(database.dsn()).query))

    async def user_timeout_ms() -> int:
        async with pooling(place["host"], int(place["port"]), transactions=False) as port:
            connection = await connect(f"postgresql://postgres@127.0.0.1:{port}/{database.name}")
            try:
                sock = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined] # as session.bound_network asks
                return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
            finally:
                await connection.close()

    assert asyncio.run(user_timeout_ms()) == session.TCP_USER_TIMEOUT_MS


def test_under_a_default_that_switches_triggers_off_nothing_works(site: Site) -> None:
    """Nobody would be told of an end. Who may set it, such as the owner, works with triggers."""
    site.database.psql("-c", f"ALTER DATABASE \"{site.database.name}\" SET session_replication_role = 'replica'")

    async def of_the_owner() -> str:
        connection = await connect(site.database.dsn())
        try:
            return str(await connection.fetchval("SELECT current_setting('session_replication_role')"))
        finally:
            await connection.close()

    assert asyncio.run(of_the_owner()) == "origin"
    [found] = [finding for finding in json.loads(run(site, "check", "--json").stdout) if finding["state"] == "failed"]
    assert (found["check"], "session_replication_role" in found["detail"]) == ("permissions", True)
    with daemon(site, "operate", until="database_away") as running:
        answer = ask(running.operator, "POST", "/operator/v1/contract-events", {"events": []}, headers=site.operator_headers)
        assert answer.status == 503


def test_what_a_pooler_refuses_is_told_in_its_words() -> None:
    refused = Unavailable()
    refused.__cause__ = asyncpg.ProtocolViolationError("no such database: registri")
    assert "no such database: registri" in explain(refused)
    assert "no such database: registri" in brief(refused)


def test_a_termination_is_applied_whatever_the_database_s_isolation_is(site: Site) -> None:
    """An end needs READ COMMITTED, which the database's default would not give it."""
    number = 79_160_000_001
    asyncio.run(site.add_contracts(number))
    for isolation in ("repeatable read", "serializable"):
        site.database.psql("-c", f"ALTER DATABASE \"{site.database.name}\" SET default_transaction_isolation = '{isolation}'")
        with daemon(site, "operate") as running:
            kind = "terminated" if isolation == "serializable" else "suspended"
            event = {"eventId": kind, "type": kind, "phoneNumber": f"+{number}", "occurredAt": "2026-01-02T03:04:05Z"}
            answer = ask(running.operator, "POST", "/operator/v1/contract-events", {"events": [event]}, headers=site.operator_headers)
            assert (answer.status, answer.body["results"][0]["outcome"]) == (200, "applied")


def test_a_command_s_own_connection_reads_every_time_too(database: TestDatabase) -> None:
    async def work() -> None:
        connection = await connect(database.dsn())
        assert await connection.fetchval("SELECT 'infinity'::timestamptz") == datetime.max.replace(tzinfo=UTC)
        await connection.close()

    asyncio.run(work())
