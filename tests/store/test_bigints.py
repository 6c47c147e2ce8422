"""Arrays of bigint, which are written and read by our own code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from registryd.store.pool import Connection
from tests.conftest import TestDatabase

LEAST, GREATEST = -(2**63), 2**63 - 1


@pytest.mark.parametrize("numbers", [[], [79_160_000_000], [LEAST, -1, 0, 1, GREATEST], list(range(79_160_000_000, 79_160_010_000, 7))])
def test_the_database_reads_the_numbers_that_were_written_and_we_read_what_it_writes(database: TestDatabase, numbers: list[int]) -> None:
    async def ask(connection: Connection) -> None:
        read = await connection.fetch("SELECT n FROM unnest($1::bigint[]) WITH ORDINALITY AS u(n, place) ORDER BY place", numbers)
        assert [row["n"] for row in read] == numbers
        assert await connection.fetchval("SELECT $1::bigint[]", tuple(numbers)) == numbers

    asyncio.run(_with_session(database, ask))


@pytest.mark.parametrize("wrong", [[None], ["79160000000"], [GREATEST + 1], [1.0], [[1]]])
def test_what_is_no_bigint_is_refused_before_it_is_sent(database: TestDatabase, wrong: list[object]) -> None:
    async def ask(connection: Connection) -> None:
        with pytest.raises(asyncpg.DataError):
            await connection.fetchval("SELECT $1::bigint[]", wrong)
        assert await connection.fetchval("SELECT $1::bigint[]", None) is None

    asyncio.run(_with_session(database, ask))


@pytest.mark.parametrize("odd", ["ARRAY[1, NULL]::bigint[]", "ARRAY[[1], [2]]::bigint[]"])
def test_an_array_of_another_shape_is_not_read_as_one_of_numbers(database: TestDatabase, odd: str) -> None:
    async def ask(connection: Connection) -> None:
        with pytest.raises(ValueError, match="one dimension"):
            await connection.fetchval(f"SELECT {odd}")

    asyncio.run(_with_session(database, ask))


async def _with_session(database: TestDatabase, ask: Callable[[Connection], Awaitable[None]]) -> None:
    async with database.pool() as db, db.connection() as connection:
        await ask(connection)
