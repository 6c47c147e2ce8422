"""Partitions of the journal, of deliveries and of attempts: made ahead, chosen by UTC, filled from the default one."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

from registryd.store import days
from tests.conftest import TestDatabase
from tests.store.conftest import Connection, add_messengers

FAMILIES = ("journal_page", "notification_delivered", "delivery_attempt")


def test_a_week_of_partitions_is_made_ahead_once(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db, database.pool() as other:
            await days.make_partitions(db)  # the clone may be of yesterday
            assert list(await asyncio.gather(days.make_partitions(db), days.make_partitions(other))) == [0, 0]
            assert await connection.fetchval("SELECT registry.make_partitions('2031-05-01', 2)") == len(FAMILIES)
            assert await connection.fetchval("SELECT registry.make_partitions('2031-05-01', 5)") == 1, "a week begins, and no month"

    asyncio.run(run())


def partition(family: str, day: date) -> str:
    """The one that holds a day: of its week for the journal, of its month for the others."""
    first = day - timedelta(days=day.weekday()) if family == "journal_page" else day.replace(day=1)
    return f"registry.{family}_{first:%Y%m%d}"


def test_rows_go_to_the_partition_of_their_week_or_month_by_utc(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await connection.execute("SET timezone = 'Europe/Moscow'")
            await connection.execute("SELECT registry.make_partitions('2031-08-31', 2)")  # a Sunday, and the first of a month
            (messenger_id,) = await add_messengers(connection, 1)
            for at, day in (
                (datetime(2031, 8, 25, tzinfo=UTC), date(2031, 8, 25)),
                (datetime(2031, 8, 31, 23, 59, 59, 999_000, tzinfo=UTC), date(2031, 8, 31)),
                (datetime(2031, 9, 1, tzinfo=UTC), date(2031, 9, 1)),
            ):
                assert await insert_rows(connection, messenger_id, at) == [partition(family, day) for family in FAMILIES]
            assert await insert_rows(connection, messenger_id, datetime(2031, 10, 1, tzinfo=UTC)) == [
                f"registry.{family}_default" for family in FAMILIES
            ]

    asyncio.run(run())


async def insert_rows(connection: Connection, messenger_id: int, at: datetime) -> list[str]:
    """A row of each family at a time; where each went."""
    values = {
        "journal_page": "(registry.id_at($1), $1, 1, 1, ARRAY[$2::integer], '{1}', '{0}', decode(repeat('00', 16), 'hex'), B'1')",
        "notification_delivered": "($2, 1, 1, $1, registry.id_at($1), 79160000000, $1, $1, $1, 'push', 'u')",
        "delivery_attempt": "($2, $1, 1, 'acknowledged', 204, 5, NULL)",
    }
    return [
        await connection.fetchval(
            f"INSERT INTO registry.{family} VALUES {values[family]} RETURNING tableoid::regclass::text", at, messenger_id
        )
        for family in FAMILIES
    ]


def test_what_the_default_partition_caught_moves_to_its_partition_when_that_is_made(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as writer:
            (messenger_id,) = await add_messengers(connection, 1)
            at = datetime(2031, 5, 1, 12, tzinfo=UTC)
            for days_later in (0, 31):
                await insert_rows(connection, messenger_id, at + timedelta(days=days_later))
            # It stops no writer: one of today has its transaction open all the while.
            transaction = writer.transaction()
            await transaction.start()
            await insert_rows(writer, messenger_id, datetime.now(UTC))
            assert await connection.fetchval("SELECT registry.make_partitions('2031-05-01', 1)") == len(FAMILIES)
            await transaction.commit()
            for family in FAMILIES:
                where = {
                    row["tableoid"]: row["count"]
                    for row in await connection.fetch(f"SELECT tableoid::regclass::text, count(*) FROM registry.{family} GROUP BY 1")
                }
                assert where[partition(family, at.date())] == where[f"registry.{family}_default"] == 1
                assert sum(where.values()) == 3

    asyncio.run(run())
