"""What has ended is erased when the policy says so, never before, and never what is still owed or still live."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from registryd import observe
from registryd.keep import erasure
from registryd.store.session import PROBES
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, bind, change_policy, explaining

KEPT = timedelta(days=365 * 3)
"""The policy's three years, but for a leap day."""


async def end(connection: Connection, ago: timedelta, *numbers: int) -> None:
    """Contracts with their bindings, ended so long ago."""
    await connection.execute(
        "UPDATE registry.contract SET ended_at = $1::timestamptz WHERE msisdn = ANY($2)", datetime.now(UTC) - ago, list(numbers)
    )


async def deliver(connection: Connection) -> None:
    await connection.execute(
        "SELECT registry.settle_delivered(messenger_id, array_agg(notification_id), 'push') FROM registry.notification "
        "GROUP BY messenger_id"
    )


async def left(connection: Connection, table: str) -> list[int]:
    """Which numbers, from FIRST on, still have a row."""
    rows = await connection.fetch(f"SELECT msisdn FROM registry.{table} ORDER BY msisdn")
    return [row["msisdn"] - FIRST for row in rows]


def counted(kind: str) -> Any:
    return observe.child(observe.ended_purged, kind)._value.get()


def test_what_is_over_goes_and_what_is_kept_owed_or_live_stays(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await add_contracts(connection, 6)
            (messenger_id,) = await add_messengers(connection, 1)
            bound_at = datetime(2020, 2, 1, tzinfo=UTC)
            for n in range(5):
                await bind(connection, messenger_id, 1, FIRST + n)
            # A binding is never changed: the test makes them older than they are, as its owner.
            await connection.execute("ALTER TABLE registry.binding DISABLE TRIGGER refuse_binding_change")
            await connection.execute("UPDATE registry.binding SET bound_at = $1", bound_at)
            await connection.execute("ALTER TABLE registry.binding ENABLE TRIGGER refuse_binding_change")
            over, kept = KEPT + timedelta(days=2), KEPT - timedelta(days=2)
            await end(connection, over, FIRST + 0, FIRST + 5)  # 0 with a binding, 5 with none
            await end(connection, kept, FIRST + 1)
            await deliver(connection)
            await end(connection, over, FIRST + 2)  # its notification is owed
            # 3: replaced long ago on a live contract; 4: live
            await connection.execute(
                "UPDATE registry.binding SET ended_at = $1, end_reason = 'replaced' WHERE msisdn = $2", datetime.now(UTC) - over, FIRST + 3
            )
            bindings, contracts = counted("binding"), counted("contract")
            purged = await erasure.purge_ended(db)
            assert purged == (2, 2)
            assert (counted("binding") - bindings, counted("contract") - contracts) == (2, 2)
            assert await left(connection, "contract") == [1, 2, 3, 4]
            assert await left(connection, "binding") == [1, 2, 4]
            assert await erasure.purge_ended(db) == (0, 0)
            await deliver(connection)
            assert await erasure.purge_ended(db) == (1, 1)
            assert await left(connection, "contract") == [1, 3, 4]
            # The policy decides, from the moment it is there.
            await change_policy(connection, ended_kept="2 years")
            assert await erasure.purge_ended(db) == (1, 1)
            assert await left(connection, "contract") == [3, 4]

    asyncio.run(run())


def test_a_kept_binding_keeps_its_contract(database: TestDatabase) -> None:
    """A binding that was recorded late ends after its contract: greatest(ended_at, bound_at)."""

    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await add_contracts(connection, 1)
            (messenger_id,) = await add_messengers(connection, 1)
            await bind(connection, messenger_id, 1)
            await end(connection, KEPT + timedelta(days=2), FIRST)
            await deliver(connection)
            assert await erasure.purge_ended(db) == (0, 0)
            assert await left(connection, "contract") == [0]

    asyncio.run(run())


def test_batches_are_small_and_one_worker_is_at_it(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as other, database.pool() as db:
            await add_contracts(connection, 25)
            await end(connection, KEPT + timedelta(days=2), *range(FIRST, FIRST + 25))
            transaction = other.transaction()
            await transaction.start()
            assert await other.fetchval("SELECT contracts FROM registry.purge_ended(10)") == 10
            assert await erasure.purge_ended(db) == (0, 0)  # another is at it, and is not waited for
            await transaction.rollback()
            assert await erasure.purge_ended(db, batch_rows=10) == (0, 25)

    asyncio.run(run())


def test_erasure_reads_what_has_ended_in_the_order_of_its_end(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await add_contracts(connection, 20_000)
            (messenger_id,) = await add_messengers(connection, 1)
            await bind(connection, messenger_id, 10_000)
            await end(connection, timedelta(days=1), *range(FIRST + 5_000, FIRST + 10_000))
            await end(connection, KEPT + timedelta(days=2), *range(FIRST + 15_000, FIRST + 15_500))
            await connection.execute("VACUUM ANALYZE")
        async with explaining(database, PROBES) as explained:
            assert await explained.connection.fetchval("SELECT contracts FROM registry.purge_ended(100)") == 100
            for table, words in (("contract", "DELETE FROM registry.contract"), ("binding", "DELETE FROM registry.binding")):
                plan = (await explained.plans(words))[-1]
                assert f"{table}_ended" in plan.indexes(table)
                # That 5,000 notifications are owed of younger ends costs nothing.
                assert plan.rows_touched() < 100 * 20
            for plan in await explained.plans("FROM registry.notification AS n WHERE n.messenger_id = whose"):
                assert plan.indexes("notification") == {"notification_pkey", "notification_undoes"}
                assert plan.rows_touched() < 10

    asyncio.run(run())


def test_billings_events_are_forgotten_with_the_contracts_of_their_time(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await connection.execute(
                "INSERT INTO registry.feed_event (event_id, type, content, outcome, occurred_at, recorded_at) "
                "SELECT 'e' || n, 'activated', decode(repeat('00', 16), 'hex'), 'applied', now(), "
                "now() - $1::interval + (n - 3) * interval '2 days' "
                "FROM generate_series(0, 5) AS n",
                KEPT,
            )
            told = await connection.fetch("SELECT day, type, outcome, events FROM report.feed_lag")
            assert await erasure.forget(db, 2) == (0, 3, 0)
            left = await connection.fetch("SELECT event_id FROM registry.feed_event ORDER BY 1")
            assert [row["event_id"] for row in left] == ["e3", "e4", "e5"]
            assert await connection.fetch("SELECT day, type, outcome, events FROM report.feed_lag") == told

    asyncio.run(run())


RECORDS = {
    "quota_usage": "(messenger_id, day) VALUES ($1, (now() - $2::interval)::date)",
    "digest": "(messenger_id, day, notifications, sha256) VALUES ($1, (now() - $2::interval)::date, 0, sha256(''))",
    "handover": "(messenger_id, handed_at, channel, notifications) VALUES ($1, now() - $2::interval, 'post', 1)",
    "enumeration_alarm": "(messenger_id, raised_at, kind, ends_at) "
    "VALUES ($1, now() - $2::interval - interval '1 hour', 'absent', now() - $2::interval)",
    "change_request": "(messenger_id, kind, endpoint_url, requested_by, requested_at, expires_at, outcome, decided_at, decided_by) "
    "VALUES ($1, 'endpoint', 'https://example.net/', 'aaaaaaaa', '2000-01-01', now() - $2::interval, 'superseded', now(), 'messenger')",
}


def test_usage_digests_hand_overs_changes_and_alarms_go_when_they_are_as_old_as_ended_contracts(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            await connection.execute("INSERT INTO registry.messenger_key VALUES ('aaaaaaaa', $1, sha256(''))", messenger_id)
            for age in (KEPT + timedelta(days=2), KEPT + timedelta(days=3), KEPT - timedelta(days=2)):
                for table, values in RECORDS.items():
                    await connection.execute(f"INSERT INTO registry.{table} {values}", messenger_id, age)
            assert (await erasure.forget(db, 1)).records == 2
            for table in RECORDS:
                assert await connection.fetchval(f"SELECT count(*) FROM registry.{table}") == 1, table

    asyncio.run(run())


def test_newest_states_and_events_that_nobody_sends_again_are_forgotten_after_30_days(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            for place, days in enumerate((31, 29)):
                at = datetime.now(UTC) - timedelta(days=days)
                await connection.execute(
                    "INSERT INTO registry.newest_state (msisdn, status, status_at, recorded_at) VALUES ($1, 'suspended', $2, $2)",
                    FIRST + place,
                    at,
                )
                await connection.execute(
                    "INSERT INTO registry.feed_waiting (event_id, type, reason, occurred_at, first_at, last_at) "
                    "VALUES ($1, 'activated', 'still_live', $2, now() - interval '60 days', $2)",
                    f"e{place}",
                    at,
                )
            assert (await erasure.forget(db, 10)).events == 1
            assert await left(connection, "newest_state") == [1]
            assert [row["event_id"] for row in await connection.fetch("SELECT event_id FROM registry.feed_waiting")] == ["e1"]

    asyncio.run(run())
