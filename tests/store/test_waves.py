"""Ends beyond the bound of an hour: their notifications are held until a person releases them, and other ends flow on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, bind

BOUND = 3


async def bounded(connection: Connection, contracts: int = 20) -> int:
    """Contracts from FIRST on, bound to one messenger, under a policy that lets three end in an hour. Returns the messenger."""
    await connection.execute("SELECT registry.change_policy('{\"ends_max\": 3, \"ends_max_share\": 0}', now(), 'a test')")
    (messenger_id,) = await add_messengers(connection, 1)
    await add_contracts(connection, contracts)
    await bind(connection, messenger_id, contracts)
    return messenger_id


async def end(connection: Connection, numbers: Sequence[int]) -> None:
    await connection.execute(
        "UPDATE registry.contract SET ended_at = now() WHERE msisdn = ANY ($1::bigint[])", [FIRST + n for n in numbers]
    )


async def counts(connection: Connection) -> tuple[int, int]:
    """How many notifications are on their way, and how many are held; the report must say the same."""
    pending = int(await connection.fetchval("SELECT count(*) FROM registry.notification"))
    held = int(await connection.fetchval("SELECT count(*) FROM registry.notification_held"))
    assert await connection.fetchval("SELECT sum(pending) FROM report.notification_backlog") == pending + held
    assert await connection.fetchval("SELECT sum(held) FROM report.notification_backlog") == held
    return pending, held


def test_a_statement_beyond_the_bound_is_held_and_other_ends_flow_on(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await bounded(connection)
            await end(connection, [0, 1])
            await end(connection, range(2, 10))
            assert await counts(connection) == (2, 8), "the wave is held as a whole"
            await end(connection, [10])
            assert await counts(connection) == (3, 8), "what is held does not count, so there is room for one more"
            await end(connection, [11])
            await end(connection, [12, 13])
            assert await counts(connection) == (3, 11)
            waves = await connection.fetch("SELECT ends, notifications, held, released, ended_by FROM report.wave")
            assert [tuple(wave) for wave in waves] == [(11, 11, 11, 0, "postgres")], "a user's statements are one wave"
            assert await connection.fetchval("SELECT count(*) FROM registry.binding WHERE ended_at IS NULL") == 6

    asyncio.run(run())


def test_the_hour_is_the_time_of_recording_and_folding_changes_nothing(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await bounded(connection)
            for number in range(3):
                await end(connection, [number])
            await connection.execute("SELECT registry.fold_ends()")
            assert await connection.fetchval("SELECT registry.ends_left()") == 0
            await end(connection, [3])
            await connection.execute("UPDATE registry.ends_recorded SET recorded_at = now() - interval '61 minutes'")
            assert await connection.fetchval("SELECT registry.ends_left()") == BOUND
            await end(connection, [4, 5])
            await connection.execute("SELECT registry.fold_ends()")
            assert await counts(connection) == (5, 1)
            assert await connection.fetchval("SELECT sum(ends) FROM registry.ends_recorded") == 2

    asyncio.run(run())


def test_ends_that_are_folded_are_not_written_again(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await connection.execute(
                "INSERT INTO registry.ends_recorded (recorded_at, ends) "
                "SELECT now() - n / 2 * interval '1 minute', 1 FROM generate_series(0, 19) AS n"
            )
            await connection.execute("SELECT registry.fold_ends()")
            rows = "SELECT xmin::text, ctid::text, ends FROM registry.ends_recorded ORDER BY recorded_at"
            folded = await connection.fetch(rows)
            assert [row["ends"] for row in folded] == [2] * 10
            await connection.execute("SELECT registry.fold_ends()")
            assert await connection.fetch(rows) == folded

    asyncio.run(run())


def test_the_bound_grows_with_the_live_contracts(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await bounded(connection, 40)
            await connection.execute("SELECT registry.change_policy('{\"ends_max_share\": 0.1}', now(), 'a test')")
            assert await connection.fetchval("SELECT registry.ends_left()") == 4
            await end(connection, range(4))
            await end(connection, [4])
            assert await counts(connection) == (4, 1)

    asyncio.run(run())


def test_an_allowance_lets_its_number_through_until_its_time(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await bounded(connection)
            await connection.execute(
                "INSERT INTO registry.wave_allowance (ends, until_at, reason) VALUES (5, now() + interval '1 hour', 'a known wave'), "
                "(100, now() - interval '1 second', 'one that is over')"
            )
            assert await connection.fetchval("SELECT registry.ends_left()") == BOUND + 5
            await end(connection, range(4))
            assert await counts(connection) == (4, 0)
            assert await connection.fetchval("SELECT registry.ends_left()") == BOUND + 1, "the allowance is used before the bound"
            await end(connection, range(4, 9))
            assert await counts(connection) == (4, 5), "five are more than what is left"
            await end(connection, range(9, 13))
            assert await counts(connection) == (8, 5)
            assert await connection.fetchval("SELECT registry.ends_left()") == 0

    asyncio.run(run())


def test_a_released_wave_is_owed_as_if_it_had_never_been_held(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            await bounded(connection)
            await end(connection, range(10))
            held = await connection.fetch(
                "SELECT notification_id, deadline_at, msisdn, terminated_at FROM registry.notification_held ORDER BY 1"
            )
            wave = await connection.fetchval("SELECT wave_id FROM report.wave")
            moved = [await app.fetchval("SELECT registry.release_wave($1, 'the holding was sold', 6)", wave) for _ in range(3)]
            assert moved == [6, 4, 0]
            assert await counts(connection) == (10, 0)
            owed = await connection.fetch(
                "SELECT notification_id, deadline_at, msisdn, terminated_at FROM registry.notification ORDER BY 1"
            )
            assert owed == held
            row = await connection.fetchrow("SELECT released, held, released_by, release_reason FROM report.wave")
            assert row is not None
            assert tuple(row) == (10, 0, "registryd_app", "the holding was sold")
            await end(connection, range(10, 14))
            assert await connection.fetchval("SELECT count(*) FROM report.wave") == 2, "what comes after a release is judged anew"

    asyncio.run(run())


def test_an_end_within_the_bound_waits_for_no_wave_that_is_being_written(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as first, database.connect() as second:
            await bounded(first)
            async with first.transaction():
                await end(first, range(5))
                await end(second, [5])
                await end(second, range(6, 12))
            assert await counts(first) == (1, 11)
            assert await first.fetchval("SELECT count(*) FROM report.wave") == 2

    asyncio.run(run())
