"""What holds when deliveries meet: receipts, pulls, leases and deadlocks, nothing lost and nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import Attempt
from registryd.store import lanes, notifications
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, bind, take_lanes, waits

"""The daemon's own, in store/pool.py."""


async def owe(connection: Connection, messenger_id: int, count: int, first: int = FIRST) -> list[UUID]:
    """Contracts that were bound to a messenger and have ended; the ids of what it is owed, earliest deadline first."""
    await add_contracts(connection, count, first)
    await bind(connection, messenger_id, count, first)
    await connection.execute(
        "UPDATE registry.contract SET ended_at = now() - (msisdn - $1) * interval '1 min' WHERE msisdn >= $1::bigint AND msisdn < $1 + $2",
        first,
        count,
    )
    rows = await connection.fetch(
        "SELECT notification_id FROM registry.notification WHERE messenger_id = $1 ORDER BY deadline_at", messenger_id
    )
    return [row["notification_id"] for row in rows]


def test_push_and_pull_of_the_same_notifications_settle_each_once(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(4) as db:
            (number,) = await add_messengers(connection, 1)
            messenger_id = MessengerId(number)
            ids = await owe(connection, messenger_id, 600)

            async def push(part: Sequence[UUID]) -> int:
                async with db.transaction() as own:
                    return await notifications.settle_push(own, messenger_id, 0, part, [], [])

            settled = 0
            for start in range(0, 600, 60):
                part = ids[start : start + 60]
                # The pull names them from the other end, each twice, as a client may.
                settled += sum(await asyncio.gather(push(part), notifications.acknowledge(db, messenger_id, [*part[::-1], *part])))
            assert settled == 600
            assert await connection.fetchval("SELECT count(*) FROM registry.notification") == 0
            delivered = await connection.fetch("SELECT notification_id, via, attempts FROM registry.notification_delivered")
            assert sorted(row["notification_id"] for row in delivered) == sorted(ids)
            assert {(row["via"], row["attempts"]) for row in delivered} <= {("push", 1), ("pull", 0)}
            assert await notifications.acknowledge(db, messenger_id, ids) == 0

    asyncio.run(run())


def test_only_a_messengers_own_notifications_are_settled(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(2) as db:
            one, other = await add_messengers(connection, 2)
            ids = await owe(connection, one, 3)
            assert await notifications.acknowledge(db, MessengerId(other), ids) == 0
            assert await notifications.acknowledge(db, MessengerId(one), [*ids[:2], UUID(int=7)]) == 2

    asyncio.run(run())


def test_the_victim_of_a_deadlock_is_told_to_come_again_and_has_changed_nothing(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as dba, database.pool(2) as db:
            (number,) = await add_messengers(connection, 1)
            messenger_id = MessengerId(number)
            first, second = await owe(connection, messenger_id, 2)
            # Whoever looks first is the victim: this one never looks.
            await dba.execute("SET deadlock_timeout = '10min'")
            lock = "SELECT FROM registry.notification WHERE notification_id = $1 FOR UPDATE"
            other = dba.transaction()
            await other.start()
            await dba.execute(lock, first)
            waiting: list[asyncio.Task[str]] = []

            async def settle_both() -> None:
                async with db.transaction() as own:
                    await notifications.settle_push(own, messenger_id, 0, [second], [], [])
                    waiting.append(asyncio.create_task(dba.execute(lock, second)))
                    await waits(connection, dba.get_server_pid())
                    await notifications.settle_push(own, messenger_id, 0, [first], [], [])

            with pytest.raises(Unavailable):
                await settle_both()
            await waiting[0]
            await other.rollback()
            assert await connection.fetchval("SELECT count(*) FROM registry.notification") == 2

    asyncio.run(run())


def test_a_former_owners_failures_change_nothing_and_its_receipts_count(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(4) as db:
            (number,) = await add_messengers(connection, 1, "http://127.0.0.1:1/")
            messenger_id = MessengerId(number)
            ids = await owe(connection, messenger_id, 4)
            (former,) = await take_lanes(db, "former", 10, [])
            await connection.execute("UPDATE registry.lane SET lease_until = now() - interval '1 second'")
            (present,) = await take_lanes(db, "present", 10, [])
            assert present.token > former.token
            before = await connection.fetchrow("SELECT * FROM registry.lane")
            progress = lanes.Progress(ids[0], timedelta(minutes=1))

            assert await lanes.renew(db, former, progress) is False
            await lanes.release(db, former, progress, succeeded=True)
            push = Attempt(datetime.now(UTC), 1, "failed", 500, 12, "status 500")
            async with db.transaction() as own:
                await lanes.gate(own, former, timedelta(minutes=1), "status 500")
                await lanes.reopen(own, former)
                await notifications.settle_push(own, messenger_id, former.token, [], [(ids[0], timedelta(0), "status 500")], [push])
            assert await connection.fetchrow("SELECT * FROM registry.lane") == before
            assert await connection.fetchval("SELECT count(*) FROM registry.notification WHERE attempts > 0 OR last_error <> ''") == 0

            async with db.transaction() as own:
                assert (
                    await notifications.settle_push(own, messenger_id, former.token, ids[1:3], [], [push._replace(outcome="acknowledged")])
                    == 2
                )

            assert await lanes.renew(db, present, progress) is True
            async with db.transaction() as own:
                await notifications.settle_push(own, messenger_id, present.token, [], [(ids[0], timedelta(0), "status 500")], [push])
                await lanes.gate(own, present, timedelta(minutes=1), "status 500")
            row = await connection.fetchrow("SELECT attempts, last_error FROM registry.notification WHERE notification_id = $1", ids[0])
            assert tuple(row or ()) == (1, "status 500")
            gated_for = await connection.fetchval("SELECT gate_until - now() FROM registry.lane")
            assert timedelta(seconds=50) < gated_for <= timedelta(minutes=1)
            assert (await lanes.find(db, messenger_id)).last_error == "status 500"
            await lanes.release(db, present, progress, succeeded=False)
            assert await connection.fetchval("SELECT owner IS NULL AND last_success_at IS NULL FROM registry.lane") is True

    asyncio.run(run())


def test_each_lane_is_leased_by_one_owner_only(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(4) as one, database.pool(4) as other:
            messengers = await add_messengers(connection, 30, "http://127.0.0.1:1/")
            for i, messenger_id in enumerate(messengers):
                await owe(connection, messenger_id, 1, FIRST + i)
            for _ in range(10):
                taken = await asyncio.gather(
                    *(take_lanes(db, owner, 4, []) for db, owner in [(one, "a"), (other, "b"), (one, "c"), (other, "d")] for _ in range(2))
                )
                assert all(len(leases) <= 4 for leases in taken)
                # An owner asked twice and worked nothing, so its own lanes may come to it twice; never to another.
                owners: dict[int, set[int]] = {}
                for place, leases in enumerate(taken):
                    for lease in leases:
                        owners.setdefault(lease.messenger_id, set()).add(place // 2)
                assert owners
                assert all(len(places) == 1 for places in owners.values())
                await connection.execute("UPDATE registry.lane SET owner = NULL, lease_until = NULL")

    asyncio.run(run())


def test_a_lane_is_leased_when_it_is_free_open_and_has_something_due(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(2) as db:

            async def leased(owner: str, *working: int) -> list[int]:
                return [lease.messenger_id for lease in await take_lanes(db, owner, 10, [MessengerId(m) for m in working])]

            (pulls,) = await add_messengers(connection, 1)
            idle, messenger_id = await add_messengers(connection, 2, "http://127.0.0.1:1/")
            await owe(connection, pulls, 1, FIRST)
            await owe(connection, messenger_id, 1, FIRST + 1)
            assert idle not in await leased("a")  # nor the one without an endpoint
            assert await leased("b") == []
            assert await leased("a", messenger_id) == []
            assert await leased("a") == [messenger_id]  # its own, which no task of it works
            await connection.execute("UPDATE registry.lane SET lease_until = now() - interval '1 ms' WHERE owner = 'a'")
            assert await leased("b") == [messenger_id]
            set_gate = "UPDATE registry.lane SET owner = NULL, lease_until = NULL, failures = 1, gate_until = now() + $1::interval"
            await connection.execute(set_gate, timedelta(minutes=1))
            assert await leased("a") == []
            await connection.execute(set_gate, timedelta(seconds=-1))
            assert await leased("a") == [messenger_id]
            await connection.execute(set_gate, timedelta(hours=24))
            assert await leased("a") == [messenger_id], "no gate lies so far ahead: a clock has been set"
            await connection.execute("UPDATE registry.lane SET owner = NULL, lease_until = NULL, gate_until = NULL")
            await connection.execute("UPDATE registry.notification SET not_before = now() + interval '1 minute'")
            assert await leased("a") == []

    asyncio.run(run())
