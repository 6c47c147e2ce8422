"""Nothing is lost: the daemon killed at any moment of a burst, and stopped with pushes in flight."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import sys
from collections import defaultdict

import pytest
from aiohttp.web import Response

from tests.conftest import Site, daemon, eventually
from tests.delivery.burst import TERMINATIONS, Inbox, calls, send
from tests.delivery.conftest import Received, listening, looking

KILLS = 20


def test_daemon_killed_twenty_times_in_a_burst_loses_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    seed = secrets.randbits(32)
    moments = random.Random(seed)
    unanswered: list[list[dict[str, str]]] = []
    outcomes: dict[str, list[str]] = defaultdict(list)
    inbox = Inbox(seed)

    async def burst(operator: str) -> None:
        """Billing's calls in one life of the daemon: what was not answered in the last one again, first."""
        while unanswered:
            results = await send(site, operator, unanswered[0])
            if results is None:
                return
            for result in results:
                outcomes[result["eventId"]].append(result["outcome"])
            del unanswered[0]

    async def run() -> tuple[int, int]:
        cut = 0
        async with looking(site.database) as database, inbox.open(site, database):
            coming = iter(calls())
            for kill in range(KILLS):
                with daemon(site) as running:
                    unanswered.append(next(coming))
                    billing = asyncio.create_task(burst(running.operator))
                    # Half of the kills hit the calls, half the pushes.
                    await asyncio.sleep(moments.uniform(0, 0.06) if kill % 2 else moments.uniform(0.05, 0.5))
                    running.process.kill()
                    await billing
                    cut += bool(unanswered)
                # The 45 s that a dead worker's lease has to run are over.
                await database.run("UPDATE registry.lane SET lease_until = now() WHERE owner IS NOT NULL")
            with daemon(site) as running:
                await burst(running.operator)
                await eventually(database.none_pending, 30)
                assert running.stop() == 0
            return await inbox.assert_whole(database), cut

    repeated, cut = asyncio.run(run())
    with capsys.disabled():
        sys.stdout.write(
            f"\nkilled -9 {KILLS} times (seed {seed}): of {2 * TERMINATIONS} notifications none lost, {repeated} repeated;"
            f" {cut} of billing's calls cut off and repeated\n"
        )
    assert len(outcomes) == TERMINATIONS
    assert {tuple(told) for told in outcomes.values()} <= {("applied",), ("duplicate",)}
    assert cut > 0, "some kill must have hit a call"


def test_sigterm_settles_what_is_in_flight_and_gives_the_lanes_back(site: Site) -> None:
    async def answer(_: Received) -> Response:
        await asyncio.sleep(0.7)
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, *(f"c{n}" for n in range(40)))
            with daemon(site) as running:
                await eventually(lambda: len(endpoint.received) == 16)
                running.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running.process.wait, 20) == 0
            assert len(endpoint.received) == 16
            assert await database.delivered() == 16
            assert await database.rows("SELECT owner, lease_until, failures FROM registry.lane") == [(None, None, 0)]
            with daemon(site) as running:
                await eventually(database.none_pending)
                assert running.stop() == 0
            assert len(endpoint.ids) == len(set(endpoint.ids)) == 40

    asyncio.run(run())
