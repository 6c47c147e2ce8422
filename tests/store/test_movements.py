"""What reports sum instead of counting: the same as a count, whatever path a row took, while others write and somebody folds."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from registryd.store import days
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, ask, bind

COUNTED = {
    "binding_by_messenger": """
        SELECT m.name, count(b) FILTER (WHERE b.ended_at IS NULL), count(*) FILTER (WHERE b.end_reason = 'terminated'),
               count(*) FILTER (WHERE b.end_reason = 'replaced'), count(*) FILTER (WHERE b.end_reason = 'removed')
          FROM registry.messenger AS m LEFT JOIN registry.binding AS b USING (messenger_id) GROUP BY 1 ORDER BY 1""",
    "notification_backlog": """
        SELECT m.name, count(n), count(*) FILTER (WHERE n.deadline_at < date_trunc('minute', now())), min(n.deadline_at)
          FROM registry.messenger AS m LEFT JOIN registry.notification AS n USING (messenger_id) GROUP BY 1 ORDER BY 1""",
    "contract_daily": """
        SELECT day, sum(a), sum(t), sum(p), sum(h) FROM (
            SELECT (started_at AT TIME ZONE 'UTC')::date AS day, 1 AS a, 0 AS t, 0 AS p, 0 AS h FROM registry.contract
            UNION ALL
            SELECT (ended_at AT TIME ZONE 'UTC')::date, 0, (end_reason = 'terminated')::int, (end_reason = 'ported_out')::int,
                   (end_reason = 'holder_changed')::int FROM registry.contract WHERE ended_at IS NOT NULL) AS c GROUP BY 1 ORDER BY 1""",
    "feed_lag": """
        SELECT (recorded_at AT TIME ZONE 'UTC')::date, type, outcome::text, count(*),
               make_interval(secs => avg(extract(epoch FROM recorded_at - occurred_at))::float8),
               max(recorded_at - occurred_at)
          FROM registry.feed_event GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
}


async def told_and_counted(connection: Connection) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Both in one snapshot."""
    told, counted = {}, {}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for name, count in COUNTED.items():
            counted[name] = [tuple(row) for row in await connection.fetch(count)]
            told[name] = [
                tuple(row)[: len(counted[name][0]) if counted[name] else None]
                for row in await connection.fetch(f"SELECT * FROM report.{name} ORDER BY 1, 2, 3")
            ]
    return told, counted


EVENT = (
    "INSERT INTO registry.feed_event (event_id, type, content, outcome, reason, occurred_at) "
    "VALUES ($1, $2, decode(repeat('00', 16), 'hex'), $3::text::registry.feed_outcome, "
    "CASE $3::text WHEN 'refused' THEN 'x' END, now() - $4::interval) "
    "ON CONFLICT DO NOTHING"
)


def test_reports_tell_what_a_count_would_while_everybody_writes_and_folds(database: TestDatabase) -> None:
    async def story() -> None:
        async with database.connect() as dba, database.pool(8) as db:
            messengers = await add_messengers(dba, 3)
            await add_contracts(dba, 400)
            for messenger_id in messengers:
                await bind(dba, messenger_id, 50)

            async def queries(seed: int) -> None:
                draw = random.Random(seed)
                for place in range(25):
                    numbers = sorted(draw.sample(range(FIRST, FIRST + 400), 5))
                    try:
                        await ask(db, draw.choice(messengers), *((number, f"c-{seed}-{place}-{number}") for number in numbers))
                    except asyncpg.UniqueViolationError:
                        continue  # two at once bind one number; the daemon asks again

            async def ends(seed: int) -> None:
                draw = random.Random(seed)
                async with database.connect() as connection:
                    for place in range(15):
                        await connection.execute(
                            "UPDATE registry.contract SET ended_at = $3, end_reason = $2 WHERE msisdn = ANY ($1) AND ended_at IS NULL",
                            draw.sample(range(FIRST, FIRST + 400), 4),
                            draw.choice(["terminated", "ported_out", "holder_changed"]),
                            await connection.fetchval("SELECT now()") - timedelta(hours=draw.choice([0, 1, 30, 80])),
                        )
                        kind, outcome = draw.choice(["terminated", "activated"]), draw.choice(["applied", "refused"])
                        await connection.execute(EVENT, f"e-{place % 9}-{seed}", kind, outcome, timedelta(seconds=draw.randrange(900)))

            async def settles() -> None:
                async with database.connect("registryd_app") as connection:
                    for _ in range(8):
                        for messenger_id in messengers:
                            await connection.execute(
                                "SELECT registry.settle_delivered($1, (SELECT array_agg(notification_id) FROM (SELECT notification_id "
                                "FROM registry.notification WHERE messenger_id = $1 LIMIT 1) AS n), 'push')",
                                messenger_id,
                            )

            async def folds() -> None:
                for _ in range(20):
                    await db.fetch(days.FOLD_MOVEMENTS)

            async def watches() -> None:
                async with database.connect() as connection:
                    for _ in range(20):
                        told, counted = await told_and_counted(connection)
                        assert told == counted

            await asyncio.gather(queries(1), queries(2), ends(3), ends(4), settles(), folds(), folds(), watches())
            told, counted = await told_and_counted(dba)
            assert told == counted
            assert sum(row[2] for row in told["binding_by_messenger"]) > 20
            assert sum(row[3] for row in told["binding_by_messenger"]) > 10
            assert sum(row[2] for row in told["notification_backlog"]) > 0, "some are overdue"
            await db.fetch(days.FOLD_MOVEMENTS)
            assert await dba.fetchval("SELECT count(*) FROM registry.binding_movement") == 3
            assert await dba.fetchval("SELECT count(*) = count(DISTINCT day) FROM registry.contract_movement")
            assert await dba.fetchval("SELECT count(*) FROM registry.feed_movement") == 4
            assert await told_and_counted(dba) == (told, counted)

    asyncio.run(story())


def test_what_is_settled_leaves_nothing_behind(database: TestDatabase) -> None:
    async def story() -> None:
        async with database.connect() as dba:
            (messenger_id,) = await add_messengers(dba, 1)
            await add_contracts(dba, 3)
            await bind(dba, messenger_id, 3)
            await dba.execute("UPDATE registry.contract SET ended_at = now()")
            ids = [row["notification_id"] for row in await dba.fetch("SELECT notification_id FROM registry.notification")]
            await dba.execute("SELECT registry.settle_delivered($1, $2, 'pull')", messenger_id, ids)
            assert await dba.fetchval("SELECT pending FROM report.notification_backlog") == 0
            assert await dba.fetchval("SELECT registry.fold_movements()")
            assert await dba.fetchval("SELECT count(*) FROM registry.notification_movement") == 0
            assert await dba.fetchval("SELECT owed - in_time FROM report.notification_deadline") == 0

    asyncio.run(story())


def test_two_that_fold_do_not_wait_for_each_other(database: TestDatabase) -> None:
    async def story() -> None:
        async with database.connect("registryd_app") as one, database.connect("registryd_app") as two, one.transaction():
            assert await one.fetchval("SELECT registry.fold_movements()") is True
            assert await two.fetchval("SELECT registry.fold_movements()") is False
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await two.fetch("SELECT * FROM registry.binding_movement")

    asyncio.run(story())


def test_a_fold_leaves_what_has_nothing_to_fold(database: TestDatabase) -> None:
    """Else each would write all rows anew, one for each minute of the notice period and each messenger."""

    async def run() -> None:
        async with database.connect() as dba, database.connect("registryd_app") as app:
            await add_contracts(dba, 6)
            (messenger_id,) = await add_messengers(dba, 1)
            await bind(dba, messenger_id, 6)
            end = "UPDATE registry.contract SET ended_at = now() - $2 * interval '1 hour' WHERE msisdn = $1"
            for place, hours in enumerate((1, 1, 2, 2, 3)):
                await dba.execute(end, FIRST + place, hours)

            async def rows() -> list[tuple[Any, ...]]:
                await app.execute("SELECT registry.fold_movements()")
                found = await dba.fetch("SELECT ctid, pending FROM registry.notification_movement ORDER BY due")
                return [tuple(row) for row in found]

            folded = await rows()
            assert [pending for _, pending in folded] == [1, 2, 2]
            assert await rows() == folded
            await dba.execute(end, FIRST + 5, 3)
            again = await rows()
            assert ([pending for _, pending in again], again[1:]) == ([2, 2, 2], folded[1:])
            settle = "SELECT registry.settle_delivered($1, array_agg(notification_id), 'push') FROM registry.notification"
            await dba.execute(settle, messenger_id)
            assert await rows() == []

    asyncio.run(run())


def test_a_publication_of_all_tables_stops_no_job(database: TestDatabase) -> None:
    """Tools that follow changes make one. PostgreSQL then refuses to delete from a table whose rows it cannot name."""

    async def run() -> None:
        async with database.connect() as dba, database.connect("registryd_app") as app:
            await dba.execute("CREATE PUBLICATION everything FOR ALL TABLES")
            await add_contracts(dba, 2)
            (messenger_id,) = await add_messengers(dba, 1)
            await bind(dba, messenger_id, 2)
            for number in (FIRST, FIRST + 1):
                await dba.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", number)
            attempt = "INSERT INTO registry.delivery_attempt VALUES ($1, $2, 1, 'failed', NULL, 30, 'timeout')"
            for month in (1, 2, 2):
                await dba.execute(attempt, messenger_id, datetime(2020, month, 1, tzinfo=UTC))
            assert await dba.fetchval("SELECT registry.make_partitions('2020-02-01', 1)") == 3
            assert await app.fetchval("SELECT registry.fold_movements()") is True
            assert await app.fetchval("SELECT registry.fold_ends()") is True
            assert await dba.fetchval("SELECT count(*) FROM registry.ends_recorded") <= 2
            while await app.fetchval("SELECT registry.drop_part('delivery_attempt')"):
                pass
            assert await dba.fetchval("SELECT count(*) FROM registry.delivery_attempt") == 0
            unnamed = await dba.fetch(
                "SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'registry'::regnamespace AND c.relkind = 'r' "
                "AND c.relreplident <> 'f' AND c.relname !~ '^delivery_attempt_[0-9]' "
                "AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)"
            )
            assert unnamed == []

    asyncio.run(run())
