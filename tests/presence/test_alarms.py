"""Enumeration alarms: raised in one worker, in force in all, through restarts and a missing database, ended by time or the operator."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from registryd.domain.errors import Throttled, Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.presence.bucket import MINUTE_S, TokenBucket
from registryd.presence.quota import QuotaGuard, Throttle
from registryd.store import guard as store
from registryd.store.messengers import Messenger
from registryd.store.pool import Database
from tests.conftest import Site, rewrite_policy
from tests.presence.scans import DEFAULTS, SPACE

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
UNTIL_ALARM = 11
"""Absent answers in a row."""
PER_MINUTE = 60
_draw = random.Random(1801)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now.timestamp()


class World:
    """A registry with some workers' guards on one clock."""

    def __init__(self, site: Site, db: Database, dba: Any) -> None:
        self.site = site
        self.db = db
        self.dba = dba
        self.clock = Clock()

    async def messenger(self, name: str = "one") -> MessengerId:
        return MessengerId((await self.site.add_messenger(name)).messenger_id)

    async def worker(self) -> QuotaGuard:
        """One that has just started, as the daemon starts it."""
        guard = QuotaGuard(self.db, self.clock, self.clock)
        await guard.exchange()
        return guard

    async def policy(self, **columns: object) -> None:
        for column, value in columns.items():
            await rewrite_policy(self.dba, f"{column} = '{value}'")

    async def alarms(self) -> list[tuple[Any, ...]]:
        rows = await self.dba.fetch("SELECT messenger, kind, in_force, signs FROM report.enumeration_alarm ORDER BY raised_at, kind")
        return [tuple(row) for row in rows]


def in_world(site: Site, story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            db = await stack.enter_async_context(site.database.pool())
            dba = await stack.enter_async_context(site.database.connect())
            await story(World(site, db, dba))

    asyncio.run(run())


def unlimited(messenger_id: MessengerId) -> Messenger:
    return Messenger(messenger_id, "one", "active", None, 1, False, None, [])


def ask(guard: QuotaGuard, messenger_id: MessengerId, *numbers: int, present: bool = True) -> None:
    guard.reserve(unlimited(messenger_id), len(numbers)).record(numbers, [present] * len(numbers))


def scan(guard: QuotaGuard, messenger_id: MessengerId) -> int:
    """Asks for absent numbers until it is slowed down; how many were answered."""
    for answered in range(100):
        try:
            ask(guard, messenger_id, _draw.choice(SPACE), present=False)
        except Throttled:
            return answered
    raise AssertionError("a hundred absent answers in a row are no alarm")


def is_throttled(guard: QuotaGuard, messenger_id: MessengerId) -> bool:
    """Whether more than a trickle is refused: a batch of a minute's and one."""
    try:
        guard.reserve(unlimited(messenger_id), PER_MINUTE + 1).close()
    except Throttled:
        return True
    return False


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


# Canaries


def test_whoever_asks_for_a_canary_is_slowed_down_at_once(site: Site) -> None:
    async def story(world: World) -> None:
        single, batch, honest = [await world.messenger(name) for name in ("single", "batch", "honest")]
        canary = _draw.choice(SPACE)
        guard = await world.worker()
        await world.dba.execute("INSERT INTO registry.canary_number (msisdn) VALUES ($1)", canary)
        await guard.exchange()
        ask(guard, honest, canary + 1, present=False)
        ask(guard, single, canary, present=False)
        ask(guard, batch, canary + 1, canary, canary + 2, present=False)
        assert [is_throttled(guard, messenger_id) for messenger_id in (single, batch, honest)] == [True, True, False]
        await guard.exchange()
        assert {row[:2] for row in await world.alarms()} == {("single", "canary"), ("batch", "canary")}

    in_world(site, story)


def test_a_canary_that_was_issued_after_all_is_somebody_s_number(site: Site) -> None:
    async def story(world: World) -> None:
        messenger_id = await world.messenger()
        canary = _draw.choice(SPACE)
        await world.dba.execute("INSERT INTO registry.canary_number (msisdn) VALUES ($1)", canary)
        guard = await world.worker()
        await world.site.add_contracts(canary)
        ask(guard, messenger_id, canary, present=True)
        assert not is_throttled(guard, messenger_id), "before the worker knows"
        await world.dba.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", canary)
        await guard.exchange()
        ask(guard, messenger_id, canary, present=False)
        assert not is_throttled(guard, messenger_id), "a former user may still have it"

    in_world(site, story)


# The policy


def test_the_policy_s_defaults_are_those_that_are_simulated(site: Site) -> None:
    async def story(world: World) -> None:
        measures = await world.db.fetch(store.READ_MEASURES)
        assert {name: getattr(measures[0], name) for name in DEFAULTS} == DEFAULTS
        assert measures[0][4:] == (timedelta(hours=1), PER_MINUTE, [])

    in_world(site, story)


def test_a_change_of_policy_is_in_force_at_the_next_exchange(site: Site) -> None:
    async def story(world: World) -> None:
        guard = await world.worker()
        await world.dba.execute(
            "SELECT registry.change_policy("
            """'{"honest_absent_ratio": 0.2, "scan_absent_ratio": 0.8, "alarm_queries_per_minute": 1000}', now(), 'a test')"""
        )
        before, after = await world.messenger(), await world.messenger("two")
        scan(guard, before)
        await guard.exchange()
        world.clock.now += timedelta(seconds=4)
        assert not is_throttled(guard, before), "a thousand a minute are let through"
        for place in range(20):
            guard.record(unlimited(after), [_draw.choice(SPACE)], [False])
            await guard.exchange()
            assert (len(await world.alarms()) == 2) == (place == 19), "27.6 / ln(0.8 / 0.2) is 19.9"

    in_world(site, story)


def test_alarms_can_be_told_without_slowing_anybody(site: Site) -> None:
    async def story(world: World) -> None:
        await world.site.slow_nobody()
        scanner = await world.messenger()
        guard = await world.worker()
        for _ in range(30):
            ask(guard, scanner, _draw.choice(SPACE), present=False)
        ask(guard, scanner, *range(10_000))
        await guard.exchange()
        assert {row[1] for row in await world.alarms()} == {"absent", "consecutive"}

    in_world(site, story)


@pytest.mark.parametrize(
    ("column", "value", "constraint"),
    [
        ("honest_absent_ratio", "0", "scans_miss_more_than_honest_messengers"),
        ("honest_absent_ratio", "0.4", "scans_miss_more_than_honest_messengers"),
        ("scan_absent_ratio", "1", "scans_miss_more_than_honest_messengers"),
        ("honest_density", "0.96", "scans_are_denser_than_honest_messengers"),
        ("honest_queries_per_alarm", "999", "false_alarms_are_rare"),
        ("alarm_lasts", "0", "alarms_end"),
        ("alarm_queries_per_minute", "0", "alarms_slow_and_do_not_stop"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(site: Site, column: str, value: str, constraint: str) -> None:
    async def story(world: World) -> None:
        with pytest.raises(asyncpg.CheckViolationError, match=constraint):
            await world.policy(**{column: value})

    in_world(site, story)


# The trickle


def test_a_slowed_messenger_is_answered_so_many_a_minute_evenly() -> None:
    trickle = Throttle(3_600)
    waits = []
    for tenth in range(6_000):  # ten minutes, ten times a second
        try:
            trickle.take(tenth / 10, 1, PER_MINUTE)
            waits.append(0)
        except Throttled as refused:
            waits.append(refused.retry_after_s)
    assert waits.count(0) == PER_MINUTE + 599
    assert set(waits) == {0, 1}
    assert {sum(wait == 0 for wait in waits[second : second + 10]) for second in range(600, 6_000, 10)} == {1}


def test_a_minute_s_worth_may_be_saved_up_and_no_more() -> None:
    trickle = Throttle(3_600)
    trickle.take(0, PER_MINUTE, PER_MINUTE)
    with pytest.raises(Throttled) as refused:
        trickle.take(0, 31, PER_MINUTE)
    assert refused.value.retry_after_s == 31
    trickle.take(31, 31, PER_MINUTE)
    later = 1_800
    trickle.take(later, PER_MINUTE, PER_MINUTE)
    with pytest.raises(Throttled):
        trickle.take(later, 1, PER_MINUTE)
    with pytest.raises(Throttled) as refused:
        trickle.take(later + MINUTE_S, PER_MINUTE + 1, PER_MINUTE)
    assert refused.value.retry_after_s == 29 * 60, "until the alarm's end: it will never fit"


def test_a_bucket_tells_what_may_be_taken_and_when_it_is_whole_again() -> None:
    bucket = TokenBucket()
    now = 1_000.0
    assert bucket.limit("calls", now, 120) == ("calls", 120, 60, 120, 0.0)
    bucket.take(now, 90, 120)
    assert bucket.limit("calls", now, 120)[3:] == (30, 45.0)
    assert bucket.limit("calls", now + 44, 120)[3:] == (118, 1.0)
    left = bucket.limit("calls", now + 10, 120).left
    assert bucket.take(now + 10, left + 1, 120) > 0, "no more than it tells"
    assert bucket.take(now + 10, left, 120) == 0
    assert bucket.limit("calls", now + 10, 120).left == 0
