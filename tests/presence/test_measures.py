"""What an alarm is raised by: canaries, and the measures of the policy in force."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest

from registryd.store import guard as store
from tests.conftest import Site
from tests.presence.scans import DEFAULTS, SPACE
from tests.presence.searching import PER_MINUTE, World, ask, draw, in_world, is_throttled, scan, unlimited


def test_whoever_asks_for_a_canary_is_slowed_down_at_once(site: Site) -> None:
    async def story(world: World) -> None:
        single, batch, honest = [await world.messenger(name) for name in ("single", "batch", "honest")]
        canary = draw.choice(SPACE)
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
        canary = draw.choice(SPACE)
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
            guard.record(unlimited(after), [draw.choice(SPACE)], [False])
            await guard.exchange()
            assert (len(await world.alarms()) == 2) == (place == 19), "27.6 / ln(0.8 / 0.2) is 19.9"

    in_world(site, story)


def test_alarms_can_be_told_without_slowing_anybody(site: Site) -> None:
    async def story(world: World) -> None:
        await world.site.slow_nobody()
        scanner = await world.messenger()
        guard = await world.worker()
        for _ in range(30):
            ask(guard, scanner, draw.choice(SPACE), present=False)
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
