"""Enumeration alarms: raised in one worker, in force in all, through restarts and a missing database, ended by time or the operator."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from registryd.domain.errors import Throttled, Unavailable
from registryd.presence.quota import QuotaGuard
from registryd.store import guard as store
from tests.conftest import Site
from tests.presence.searching import PER_MINUTE, UNTIL_ALARM, Clock, World, in_world, is_throttled, scan, unlimited


def test_an_alarm_of_one_worker_is_in_force_in_all_after_one_exchange_each(site: Site) -> None:
    async def story(world: World) -> None:
        scanner, honest = await world.messenger(), await world.messenger("two")
        first, second = await world.worker(), await world.worker()
        assert scan(first, scanner) == UNTIL_ALARM + PER_MINUTE
        assert not is_throttled(second, scanner)
        await first.exchange()
        await second.exchange()
        assert await world.alarms() == [("one", "absent", True, 1)]
        for guard in (first, second, await world.worker()):
            assert is_throttled(guard, scanner)
            assert not is_throttled(guard, honest)

    in_world(site, story)


def test_two_workers_that_see_one_scan_raise_one_alarm(site: Site) -> None:
    async def story(world: World) -> None:
        scanner = await world.messenger()
        workers = [await world.worker() for _ in range(4)]
        for guard in workers:
            scan(guard, scanner)
        await asyncio.gather(*(guard.exchange() for guard in workers))
        assert await world.alarms() == [("one", "absent", True, 4)]

    in_world(site, story)


def test_an_alarm_ends_by_time_and_each_further_sign_prolongs_it(site: Site) -> None:
    async def story(world: World) -> None:
        scanner = await world.messenger()
        guard, other = await world.worker(), await world.worker()
        scan(guard, scanner)
        await guard.exchange()
        begin = "SELECT ends_at - raised_at FROM registry.enumeration_alarm"
        assert await world.dba.fetchval(begin) == timedelta(hours=1)
        world.clock.now += timedelta(minutes=5)
        scan(guard, scanner)
        await guard.exchange()
        assert await world.alarms() == [("one", "absent", True, 2)]
        assert await world.dba.fetchval(begin) > timedelta(hours=1)
        await world.dba.execute(
            "UPDATE registry.enumeration_alarm SET raised_at = now() - interval '2 hours', ends_at = now() - interval '1 s'"
        )
        for worker in (guard, other):
            await worker.exchange()
            assert not is_throttled(worker, scanner)
        assert await world.alarms() == [("one", "absent", False, 2)]
        assert scan(guard, scanner) >= UNTIL_ALARM, "it is judged anew"
        await guard.exchange()
        assert [row[1:] for row in await world.alarms()] == [("absent", False, 2), ("absent", True, 1)]

    in_world(site, story)


def test_the_operator_ends_an_alarm_in_all_workers(site: Site) -> None:
    async def story(world: World) -> None:
        scanner = await world.messenger()
        workers = [await world.worker() for _ in range(2)]
        scan(workers[0], scanner)
        for guard in workers:
            await guard.exchange()
        assert [alarm.kind for alarm in await store.find_alarms(world.db, scanner)] == ["absent"]
        assert await store.clear_alarms(world.db, scanner) == 1
        assert await store.clear_alarms(world.db, scanner) == 0
        for guard in workers:
            await guard.exchange()
            assert not is_throttled(guard, scanner)
        assert await world.alarms() == [("one", "absent", False, 1)]

    in_world(site, story)


def test_a_sign_is_kept_while_the_database_does_not_take_it_and_throttles_meanwhile(site: Site) -> None:
    async def story(world: World) -> None:
        scanner = await world.messenger()
        guard = await world.worker()
        scan(guard, scanner)
        async with world.dba.transaction():
            await world.dba.execute("LOCK TABLE registry.enumeration_alarm")
            with pytest.raises(Unavailable):
                await guard.exchange()
            assert is_throttled(guard, scanner)
        await guard.exchange()
        assert await world.alarms() == [("one", "absent", True, 1)]
        assert is_throttled(guard, scanner)
        world.clock.now += timedelta(hours=1)
        assert not is_throttled(guard, scanner), "with no database to say so, it ends all the same"

    in_world(site, story)


def test_a_sign_that_comes_up_during_an_exchange_is_not_lost(site: Site) -> None:
    async def story(world: World) -> None:
        scanner = await world.messenger()
        guard = await world.worker()
        exchange = asyncio.create_task(guard.exchange())
        await asyncio.sleep(0)
        scan(guard, scanner)
        await exchange
        assert is_throttled(guard, scanner)
        await guard.exchange()
        assert await world.alarms() == [("one", "absent", True, 1)]

    in_world(site, story)


@pytest.mark.parametrize(
    "steps", [(timedelta(hours=-1),), (timedelta(hours=1), timedelta(hours=-1)), (timedelta(days=-1), timedelta(days=2))]
)
def test_a_step_of_the_clock_neither_stops_a_slowed_messenger_nor_lets_it_go(site: Site, steps: tuple[timedelta, ...]) -> None:
    async def story(world: World) -> None:
        scanner = await world.messenger()
        wall = Clock()
        guard = QuotaGuard(world.db, wall, world.clock)
        await guard.exchange()
        scan(guard, scanner)
        for step in steps:
            wall.now += step
            await guard.exchange()
            world.clock.now += timedelta(seconds=1)
            guard.reserve(unlimited(scanner), 1).close()
            with pytest.raises(Throttled) as refused:
                guard.reserve(unlimited(scanner), 1)
            assert refused.value.retry_after_s == 1

    in_world(site, story)
