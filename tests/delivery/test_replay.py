"""Replays: the same ids again, at their pace, without a cap; the first delivery stays as the proof."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from registryd.keep import erasure
from registryd.keep import replays as keeping
from registryd.store import replays
from registryd.store.pool import Connection, Database
from registryd.store.replays import EVER, Choice
from tests.conftest import Site, TestMessenger, eventually
from tests.delivery.conftest import FIRST_NUMBER, Lookup, delivering, is_verified, listening, looking

HOUR = timedelta(hours=1)
PROOF = "SELECT * FROM registry.notification_delivered ORDER BY notification_id"
REPORT = "SELECT owed, in_time, late, overdue, pending FROM report.notification_deadline"


async def ask(database: Lookup, messenger: TestMessenger, per_second: int = 20, **choice: Any) -> int:
    everything = {"since": EVER, "until": datetime.now(UTC), "ids": None}
    wanted = Choice(messenger.messenger_id, **{**everything, **choice})  # type: ignore[arg-type]
    connection: Connection = database.connection
    counted = await replays.count(connection, wanted)
    assert await replays.ask(connection, wanted, per_second) == counted
    return counted


async def let_in(database: Lookup, db: Database) -> int:
    """What an operate process lets in, a second after the last time."""
    await database.run("UPDATE registry.replay SET let_in_at = now() - interval '1 second' WHERE finished_at IS NULL")
    return await keeping.let_in(db)


async def deliver(database: Lookup, messenger: TestMessenger) -> None:
    await database.run(
        "SELECT registry.settle_delivered($1, (SELECT array_agg(notification_id) FROM registry.notification), 'push')",
        messenger.messenger_id,
    )


def test_what_was_delivered_is_delivered_again_under_the_same_id_and_the_proof_stays(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a", "b", deadline_in=HOUR)
            async with site.database.pool() as db, delivering(site):
                await eventually(database.none_pending)
                first = list(endpoint.received)
                proof = await database.rows(PROOF)
                report = await database.rows(REPORT)
                for times in (1, 2):
                    assert await ask(database, messenger) == 2
                    assert await let_in(database, db) == 2
                    await eventually(database.none_pending)
                    assert len(endpoint.received) == 2 + 2 * times
            again = endpoint.received[2:4]
            assert sorted((r.headers["webhook-id"], r.body) for r in again) == sorted((r.headers["webhook-id"], r.body) for r in first)
            assert all(is_verified(r, messenger.secret) for r in again)
            assert await database.rows(PROOF) == proof
            assert len(proof) == 2
            assert await database.rows("SELECT via::text, count(delivered_at) FROM registry.replayed_notification GROUP BY 1") == [
                ("push", 4)
            ]
            assert await database.rows(REPORT) == report == [(2, 2, 0, 0, 0)]

    asyncio.run(run())


def test_a_replay_after_the_deadline_is_neither_late_nor_overdue(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger = await site.add_messenger()
            await database.owe(messenger, "a", deadline_in=-HOUR)
            await deliver(database, messenger)
            await database.run("UPDATE registry.notification_delivered SET delivered_at = deadline_at - interval '1 hour'")
            await database.run("UPDATE registry.delivered_day SET in_time = 1, late = 0")
            assert await database.rows(REPORT) == [(1, 1, 0, 0, 0)]
            await ask(database, messenger)
            assert await let_in(database, db) == 1
            for _ in range(2):
                assert await database.rows(REPORT) == [(1, 1, 0, 0, 0)]
                assert await database.value("SELECT overdue FROM report.notification_backlog") == 0
                await deliver(database, messenger)
            assert await database.pending() == 0

    asyncio.run(run())


def test_a_replay_lets_in_no_more_than_a_second_s_worth_while_the_endpoint_is_behind(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger = await site.add_messenger()
            await database.owe(messenger, *(f"c{n}" for n in range(25)))
            await deliver(database, messenger)
            assert await ask(database, messenger, per_second=10) == 25
            assert [await let_in(database, db) for _ in range(3)] == [10, 0, 0]
            counts = []
            while await database.pending():
                await deliver(database, messenger)
                counts.append(await let_in(database, db))
            assert counts == [10, 5, 0]
            assert await database.value("SELECT count(*) FROM registry.replay WHERE finished_at IS NULL") == 0
            assert await database.delivered() == 25
            assert await database.value("SELECT count(delivered_at) FROM registry.replayed_notification") == 25

    asyncio.run(run())


def test_several_processes_let_a_replay_in_at_one_pace(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger = await site.add_messenger()
            await database.owe(messenger, *(f"c{n}" for n in range(20)))
            await deliver(database, messenger)
            await ask(database, messenger, per_second=8)
            before = await database.value("SELECT now()")
            assert await let_in(database, db) == 8
            assert await database.value("SELECT let_in_at >= $1 FROM registry.replay", before), "every process reads when that was"
            await deliver(database, messenger)
            await database.run("UPDATE registry.replay SET let_in_at = now() + interval '1 minute'")
            assert await keeping.let_in(db) == 0, "it is too soon"
            assert await let_in(database, db) == 8

    asyncio.run(run())


def test_replays_of_one_messenger_follow_each_other_and_do_not_wait_for_another_s(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            one, other = await site.add_messenger("one"), await site.add_messenger("other")
            await database.owe(one, "a", "b")
            await database.owe(other, "c", first=FIRST_NUMBER + 10)
            for messenger in (one, other):
                await deliver(database, messenger)
            for messenger in (one, one, other):
                await ask(database, messenger, per_second=2)
            assert await let_in(database, db) == 3
            assert await database.value("SELECT count(*) FROM registry.replayed_notification WHERE replayed_at IS NULL") == 2

    asyncio.run(run())


def test_a_replay_waits_while_what_was_never_delivered_is_due(site: Site) -> None:
    again = "(SELECT array_agg(notification_id) FROM registry.notification WHERE replayed)"

    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            one, other = await site.add_messenger("one"), await site.add_messenger("other")
            await database.owe(one, *(f"c{n}" for n in range(9)))
            await database.owe(other, *(f"o{n}" for n in range(9)), first=FIRST_NUMBER + 10)
            for messenger in (one, other):
                await deliver(database, messenger)
                await ask(database, messenger, per_second=2)
            await database.owe(one, "refused", "new", first=FIRST_NUMBER + 20)
            assert await let_in(database, db) == 4, "its lane may be about to push them"
            await database.run(f"SELECT registry.settle_delivered(messenger_id, {again}, 'push') FROM registry.messenger")
            await database.run("UPDATE registry.notification SET not_before = now() - interval '6 seconds'")
            assert await let_in(database, db) == 2
            assert await database.rows("SELECT messenger_id FROM registry.notification WHERE replayed") == [(other.messenger_id,)] * 2
            refused = "UPDATE registry.notification SET not_before = now() + $1::interval WHERE identification_code = 'refused'"
            await database.run(refused, HOUR)
            assert await let_in(database, db) == 0
            await database.run("SELECT registry.settle_delivered($1, $2, 'push')", one.messenger_id, [await database.id_of("new")])
            assert await let_in(database, db) == 2, "what waits for its retry does not hold it up"

    asyncio.run(run())


def test_a_window_is_by_delivery_and_ids_are_a_messenger_s_own(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger, other = await site.add_messenger(), await site.add_messenger("other")
            await database.owe(messenger, "a", "b", "c")
            await deliver(database, messenger)
            ids = {code: await database.id_of(code) for code in "abc"}
            day = datetime(2026, 3, 4, tzinfo=UTC)
            await database.run("UPDATE registry.notification_delivered SET delivered_at = $2 WHERE notification_id = $1", ids["a"], day)
            assert await ask(database, other) == 0
            assert await ask(database, other, ids=[ids["b"]]) == 0
            assert await ask(database, messenger, since=day + HOUR) == 2
            await database.run("DELETE FROM registry.replayed_notification")
            assert await ask(database, messenger, since=day, until=day + HOUR) == 1
            assert await ask(database, messenger, ids=[ids["b"], ids["b"], UUID(int=7)]) == 1
            for _ in range(4):
                await let_in(database, db)
            codes = await database.rows("SELECT identification_code FROM registry.notification ORDER BY 1")
            # That of March was delivered, by its row, before its contract ended: what the look-up leaves out was never so.
            assert codes == [("b",)]

    asyncio.run(run())


def test_a_replay_is_forgotten_when_deliveries_of_its_time_are_and_what_it_owes_is_not(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database, site.database.pool() as db:
            messenger = await site.add_messenger()
            await database.owe(messenger, *(f"c{n}" for n in range(5)))
            await deliver(database, messenger)
            await ask(database, messenger)
            assert await let_in(database, db) == 5
            some = "(SELECT array_agg(n.notification_id) FROM (SELECT * FROM registry.notification LIMIT $2) AS n)"
            settle = f"SELECT registry.settle_delivered($1, {some}, 'pull')"
            await database.run(settle, messenger.messenger_id, 4)
            assert await database.value("SELECT count(*) FROM registry.replay WHERE finished_at IS NOT NULL") == 1
            assert await erasure.forget(db) == (0, 0, 0)
            kept = "(SELECT notification_kept FROM registry.policy_in_force(now()))"
            await database.run(f"UPDATE registry.replay SET finished_at = now() - {kept} + interval '1 day'")
            assert await erasure.forget(db) == (0, 0, 0)
            await database.run(f"UPDATE registry.replay SET finished_at = now() - {kept} - interval '1 month'")
            assert await erasure.forget(db, 3) == (4, 0, 0)
            assert await database.value("SELECT count(*) FROM registry.replayed_notification") == 1, "it is owed"
            await database.run(settle, messenger.messenger_id, 1)
            assert await erasure.forget(db) == (1, 0, 0)
            assert await database.value("SELECT count(*) FROM registry.replay") == 0
            assert len(await database.rows(PROOF)) == 5

    asyncio.run(run())
