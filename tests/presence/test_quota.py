"""The enumeration guard: a day's budget that workers share, and that neither a busy nor a missing database opens."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest

from registryd.domain.errors import QuotaExceeded, Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.presence.quota import QuotaGuard
from registryd.store import guard as store
from registryd.store.messengers import Messenger
from registryd.store.pool import Database
from tests.conftest import Site
from tests.lost_answers import cut_at_commit

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Clock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()


def answered(guard: QuotaGuard, messenger_id: MessengerId, numbers: int, absent: int = 0, quota: int | None = 10) -> None:
    reserved = guard.reserve(limited(messenger_id, quota), numbers)
    reserved.record(range(numbers), [place >= absent for place in range(numbers)])
    reserved.close()


def limited(messenger_id: MessengerId, quota: int | None = 10) -> Messenger:
    return Messenger(messenger_id, "one", "active", None, 1, False, quota, [])


async def add_messenger(site: Site, name: str = "one") -> MessengerId:
    return MessengerId((await site.add_messenger(name)).messenger_id)


async def recorded(site: Site) -> dict[tuple[int, date], tuple[int, int]]:
    async with site.database.connect() as connection:
        rows = await connection.fetch("SELECT * FROM registry.quota_usage")
    return {(row["messenger_id"], row["day"]): (row["used"], row["absent"]) for row in rows}


def test_workers_share_one_budget(site: Site) -> None:
    async def run(db: Database) -> None:
        messenger_id, other = await add_messenger(site), await add_messenger(site, "two")
        clock = Clock()
        first, second = QuotaGuard(db, clock), QuotaGuard(db, clock)
        answered(first, messenger_id, 6, absent=2)
        answered(second, messenger_id, 3, absent=3)
        for guard in (first, second, first):
            await guard.exchange()
        for guard in (first, second):
            assert guard.usage(messenger_id) == (NOON.date(), 9, 5)
            assert guard.usage(other) == (NOON.date(), 0, 0)
            with pytest.raises(QuotaExceeded):
                answered(guard, messenger_id, 2)
            answered(guard, other, 10)
        answered(second, messenger_id, 1)
        with pytest.raises(QuotaExceeded):
            answered(second, messenger_id, 1)
        answered(second, messenger_id, 1_000, quota=None)
        for guard in (first, second):
            await guard.exchange()
        assert await recorded(site) == {(messenger_id, NOON.date()): (1_010, 5), (other, NOON.date()): (20, 0)}

    async def with_pool() -> None:
        async with site.database.pool() as db:
            await run(db)

    asyncio.run(with_pool())


def test_what_is_being_answered_holds_its_part_of_the_budget() -> None:
    guard = QuotaGuard(nobody(), Clock())
    messenger_id = MessengerId(1)
    messenger = limited(messenger_id)
    six = guard.reserve(messenger, 6)
    with pytest.raises(QuotaExceeded):
        guard.reserve(messenger, 5)
    four = guard.reserve(messenger, 4)
    with pytest.raises(QuotaExceeded):
        guard.reserve(messenger, 1)
    guard.reserve(limited(MessengerId(2)), 10)
    assert guard.usage(messenger_id).used == 0
    six.close()
    four.close()
    assert guard.in_flight[messenger_id] == 0, "what was not answered is given back"
    answered(guard, messenger_id, 10)
    assert guard.usage(messenger_id).used == 10


def nobody() -> Database:
    """A database that is not asked."""
    return Database("", size=1, connect_timeout_s=1, command_timeout_s=1)


@pytest.mark.parametrize(
    ("now", "wait_s"),
    [(NOON, 43_200), (datetime(2026, 3, 2, tzinfo=UTC), 86_400), (datetime(2026, 3, 2, 23, 59, 57, 900_000, tzinfo=UTC), 3)],
)
def test_the_budget_begins_anew_at_midnight_utc(now: datetime, wait_s: int) -> None:
    clock = Clock(now)
    guard = QuotaGuard(nobody(), clock)
    messenger_id = MessengerId(1)
    answered(guard, messenger_id, 10)
    with pytest.raises(QuotaExceeded) as refused:
        answered(guard, messenger_id, 1)
    assert refused.value.retry_after_s == wait_s
    clock.now += timedelta(seconds=wait_s)
    assert guard.usage(messenger_id) == (date(2026, 3, 3), 0, 0)
    answered(guard, messenger_id, 10)


def test_yesterday_s_numbers_are_counted_for_yesterday(site: Site) -> None:
    async def run() -> None:
        messenger_id = await add_messenger(site)
        clock = Clock()
        async with site.database.pool() as db:
            guard = QuotaGuard(db, clock)
            answered(guard, messenger_id, 4, absent=1)
            await guard.exchange()
            answered(guard, messenger_id, 3, absent=2)
            clock.now += timedelta(days=1)
            answered(guard, messenger_id, 5)
            await guard.exchange()
            assert guard.usage(messenger_id) == (NOON.date() + timedelta(days=1), 5, 0)
        assert await recorded(site) == {(messenger_id, NOON.date()): (7, 3), (messenger_id, clock.now.date()): (5, 0)}

    asyncio.run(run())


def test_a_messenger_that_a_dba_deleted_meanwhile_stops_nobody_s_exchange(site: Site) -> None:
    async def run() -> None:
        messenger_id = await add_messenger(site)
        gone, day = MessengerId(messenger_id + 1_000), NOON.date()
        async with site.database.pool() as db:
            usage = [(gone, day, 5, 5), (messenger_id, day, 3, 1)]
            shared = await store.exchange(db, day, usage, [(gone, "absent"), (messenger_id, "absent")], lambda _: None)
        assert [raised.name for raised in shared.raised] == ["one"]
        assert await recorded(site) == {(messenger_id, day): (3, 1)}

    asyncio.run(run())


def test_counts_are_kept_while_the_database_does_not_take_them(site: Site) -> None:
    async def run() -> None:
        messenger_id = await add_messenger(site)
        async with site.database.pool() as db, site.database.connect() as other:
            guard = QuotaGuard(db, Clock())
            answered(guard, messenger_id, 4, absent=1)
            async with other.transaction():
                await other.execute("LOCK TABLE registry.quota_usage")
                exchange = asyncio.create_task(guard.exchange())
                while not exchange.done():
                    assert guard.usage(messenger_id).used >= 4, "on their way they count as before"
                    if guard.usage(messenger_id).used < 9:
                        answered(guard, messenger_id, 5)
                    await asyncio.sleep(0.01)
                with pytest.raises(Unavailable):
                    await exchange
            assert guard.usage(messenger_id) == (NOON.date(), 9, 1)
            with pytest.raises(QuotaExceeded):
                answered(guard, messenger_id, 2)
            for _ in range(2):
                await guard.exchange()
                assert guard.usage(messenger_id) == (NOON.date(), 9, 1)
        assert await recorded(site) == {(messenger_id, NOON.date()): (9, 1)}

    asyncio.run(run())


def test_usage_is_not_counted_twice_where_the_exchange_was_cancelled_at_its_commit(site: Site) -> None:
    """As at the end of a process, which then exchanges once more."""

    async def run() -> None:
        messenger_id = await add_messenger(site)
        async with cut_at_commit(site.database, is_committed=True) as (db, cut):
            guard = QuotaGuard(db, Clock())
            await guard.exchange()
            answered(guard, messenger_id, 2, absent=1)
            cut.is_armed = True
            exchange = asyncio.create_task(guard.exchange())
            while cut.is_armed:
                await asyncio.sleep(0)
            exchange.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange
            await guard.exchange()
        assert await recorded(site) == {(messenger_id, NOON.date()): (2, 1)}

    asyncio.run(run())


@pytest.mark.parametrize("is_committed", [True, False])
def test_usage_whose_commit_is_in_doubt_is_neither_lost_nor_counted_twice(site: Site, is_committed: bool) -> None:
    """The connection is lost between COMMIT and its answer; or before COMMIT has reached the server."""

    async def run() -> None:
        messenger_id = await add_messenger(site)
        async with cut_at_commit(site.database, is_committed) as (db, cut):
            guard = QuotaGuard(db, Clock())
            answered(guard, messenger_id, 3, absent=1)
            await guard.exchange()
            answered(guard, messenger_id, 2)
            cut.is_armed = True
            with pytest.raises(Unavailable):
                await guard.exchange()
            answered(guard, messenger_id, 1)
            await guard.exchange()
            assert guard.usage(messenger_id) == (NOON.date(), 6, 1)
        assert await recorded(site) == {(messenger_id, NOON.date()): (6, 1)}

    asyncio.run(run())
