"""A registry large enough that a wrong plan would be chosen if it could be, and a report session that minds no limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from registryd import resources
from registryd.demo import embedded
from tests.conftest import TestDatabase, cloned
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, bind

CONTRACTS = 100_000
BOUND = 4_000
ENDED = 1_500


@pytest.fixture(scope="module")
def populated(server: embedded.Server, template: str) -> Iterator[TestDatabase]:
    async def populate(database: TestDatabase) -> None:
        async with database.connect() as connection:
            await add_contracts(connection, CONTRACTS)
            await connection.execute("INSERT INTO registry.numbering_range (first_msisdn, last_msisdn) VALUES (79160000000, 79169999999)")
            for messenger_id in await add_messengers(connection, 3, "http://127.0.0.1:1/"):
                await bind(connection, messenger_id, BOUND)
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn < $1", FIRST + ENDED)
            await connection.execute("VACUUM ANALYZE")

    with cloned(server, template) as database:
        asyncio.run(populate(database))
        yield database


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
