"""Two who change a messenger at the same time."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Site, eventually
from tests.process.commands import run

FORMER, CONFIRMED = "http://127.0.0.1:9/former", "http://127.0.0.1:9/confirmed"


@pytest.mark.parametrize("words", [("suspend", "alpha"), ("resume", "alpha"), ("set", "alpha", "--batch-max", "7")])
def test_a_command_leaves_what_was_confirmed_while_it_ran(site: Site, words: tuple[str, ...]) -> None:
    """It writes all settings, and must not bring back an endpoint that somebody changed meanwhile."""

    async def story() -> None:
        await site.add_messenger("alpha", FORMER)
        async with site.database.connect() as one, site.database.connect() as other:
            async with one.transaction():
                await one.execute("UPDATE registry.messenger SET endpoint_url = $1", CONFIRMED)
                command = asyncio.create_task(asyncio.to_thread(run, site, "messenger", *words))
                blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock')"
                await eventually(lambda: other.fetchval(blocked))
            assert (await command).exit_code == 0
            assert await other.fetchval("SELECT endpoint_url FROM registry.messenger") == CONFIRMED

    asyncio.run(story())
