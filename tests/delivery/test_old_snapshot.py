"""Beside a transaction that stays open, what is settled leaves dead entries in the index. Delivery does not read through them each time."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import BEGINNING
from registryd.store import lanes, notifications
from registryd.store.queries import Query
from tests.conftest import Site, eventually
from tests.delivery.conftest import FIRST_NUMBER, Lookup, delivering, listening, looking

SETTLED = 20_000
OWE = (
    "INSERT INTO registry.notification (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, identification_code)"
    " SELECT $1, 1, d.at, registry.id_at(d.at), 79260000000 + n, d.at - interval '1 day', 'c' || n FROM generate_series(1, $2::int) AS n,"
    " LATERAL (SELECT date_trunc('milliseconds', now()) + interval '23 hours' + n * interval '1 ms' AS at) AS d"
)
SETTLE = "SELECT registry.settle_delivered($1, (SELECT array_agg(notification_id) FROM registry.notification), 'push')"


async def pages(database: Lookup, query: Query[Any], *arguments: Any) -> int:
    """How many pages a statement reads, which is undone."""
    transaction = database.connection.transaction()
    await transaction.start()
    try:
        [[told]] = await database.rows(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query.sql}", *arguments)
    finally:
        await transaction.rollback()
    plan = json.loads(told)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_a_lane_is_found_and_read_without_passing_what_was_settled(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database, site.database.connect() as reader:
            messenger_id = MessengerId((await site.add_messenger(endpoint="http://127.0.0.1:9/")).messenger_id)
            await database.run(OWE, messenger_id, SETTLED)
            async with reader.transaction(isolation="repeatable_read"):
                await reader.fetchval("SELECT 1")
                await database.run(SETTLE, messenger_id)
                last = UUID(str(await database.value("SELECT max(notification_id::text) FROM registry.notification_delivered")))
                look: tuple[Any, ...] = (lanes.LEASE_LANES, "this", timedelta(seconds=45), 1, [], [], lanes.GATE_MAX)
                reads, leases = [], []
                for mark in (BEGINNING, last):
                    await database.run("UPDATE registry.lane SET low_water = $1, look_back_at = now() + interval '1 hour'", mark)
                    leases.append(await pages(database, *look))
                    reads.append(await pages(database, notifications.READ_DUE, messenger_id, mark, 500))
                assert min(reads[0], leases[0]) > SETTLED / 100 > 5 * max(reads[1], leases[1]), (reads, leases)

    asyncio.run(run())


def test_what_comes_below_the_mark_is_pushed_all_the_same(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, site.database.connect() as reader:
            messenger = await site.add_messenger(endpoint=endpoint.url, batch_max=1000)
            await database.run(OWE, messenger.messenger_id, 2_000)
            async with reader.transaction(isolation="repeatable_read"), site.database.connect() as other, delivering(site):
                await reader.fetchval("SELECT 1")
                late = other.transaction()
                await late.start()
                await Lookup(other).owe(messenger, "committed late", first=FIRST_NUMBER, deadline_in=timedelta(hours=22))
                await eventually(database.none_pending)
                await late.commit()
                await database.owe(messenger, "backdated", first=FIRST_NUMBER + 1, deadline_in=timedelta(hours=1))
                await eventually(database.none_pending)
            assert set(endpoint.codes) >= {"committed late", "backdated"}
            assert len(endpoint.codes) == len(set(endpoint.codes)) == 2_002

    asyncio.run(run())
