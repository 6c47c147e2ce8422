"""A registry large enough that a wrong plan would be chosen if it could be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from registryd.demo import embedded
from tests.conftest import TestDatabase, cloned
from tests.store.conftest import FIRST, add_contracts, add_messengers, bind

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
