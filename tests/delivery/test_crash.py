"""Nothing is lost: the daemon killed at any moment of a burst, and stopped with pushes in flight."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest
from aiohttp.web import Response

from tests.conftest import LONG, Site, daemon, eventually
from tests.delivery.burst import TERMINATIONS, Inbox, calls, send
from tests.delivery.conftest import FIRST_NUMBER, Lookup, Received, listening, looking
from tests.delivery.worker import POINTS

KILLS = 20 if LONG else 6
CRASHES = int(os.environ.get("REGISTRYD_CRASHES", "2"))
"""Kills at each named point."""
PIECE, PIECES = 20, 60
"""Contracts that end in one statement, and how many statements may pass until a kill has come."""


def test_daemon_killed_again_and_again_in_a_burst_loses_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.database.allow_ends()
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
                with daemon(site, "operate", "deliver") as running:
                    unanswered.append(next(coming))
                    billing = asyncio.create_task(burst(running.operator))
                    # Half of the kills hit the calls, half the pushes.
                    await asyncio.sleep(moments.uniform(0, 0.06) if kill % 2 else moments.uniform(0.05, 0.5))
                    running.kill()
                    await billing
                    cut += bool(unanswered)
                # The 45 s that a dead worker's lease has to run are over.
                await database.run("UPDATE registry.lane SET lease_until = now() WHERE owner IS NOT NULL")
            unanswered.extend(coming)
            with daemon(site, "operate", "deliver") as running:
                await burst(running.operator)
                await eventually(database.none_pending)
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


@contextlib.contextmanager
def working(site: Site, owner: str, point: str = "never", passages: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A worker that dies at a named point."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.delivery.worker",
            site.database.dsn("registryd_app"),
            site.secrets_key.hex(),
            owner,
            point,
            str(passages),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_one_of_two_workers_killed_at_each_named_point_loses_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """`make crash` kills 50 times at each point and waits once each for the lease to lapse; here the 45 s are taken as passed."""
    site.database.allow_ends()
    seed = secrets.randbits(32)
    moments = random.Random(seed)
    kills = CRASHES * len(POINTS)
    pieces = kills * PIECES
    in_flight, takeovers = 0, []

    async def answer(_: Received) -> Response:
        await asyncio.sleep(moments.uniform(0, 0.02))
        return Response(status=204)

    async def end(database: Lookup, piece: int) -> None:
        """Contracts end that one messenger knows: its lane falls idle soon, and is anybody's for the next piece."""
        first = FIRST_NUMBER + piece * PIECE
        await database.run("UPDATE registry.contract SET ended_at = now() WHERE msisdn BETWEEN $1 AND $2", first, first + PIECE - 1)

    async def kill(database: Lookup, number: int, ended: int) -> int:
        """A second worker dies at its point, in a burst; returns up to where the burst came."""
        nonlocal in_flight
        point = POINTS[number % len(POINTS)]
        with working(site, f"victim-{number}", point, 1 if point == "after lease" else moments.randint(1, 10)) as victim:
            assert victim.stdout is not None
            assert await asyncio.to_thread(victim.stdout.readline) == "ready\n"
            died = asyncio.create_task(asyncio.to_thread(victim.wait, 60))
            while not died.done():
                assert ended < pieces, f"{point}: it never came there (seed {seed})"
                await end(database, ended)
                ended += 1
                await asyncio.sleep(0.05)
            assert await died == -signal.SIGKILL
            in_flight += int(victim.stdout.readline())
        return ended

    async def run() -> tuple[int, int]:
        async with listening(answer) as endpoint, looking(site.database) as database:
            lanes = [await site.add_messenger(f"m{n}", endpoint.url, batch_max=batch_max) for n, batch_max in enumerate((1, 7) * 5)]
            for number, lane in enumerate(lanes):
                for piece in range(number, pieces, len(lanes)):
                    await database.bind(lane, *(f"{piece}-{n}" for n in range(PIECE)), first=FIRST_NUMBER + piece * PIECE)
            ended = 0
            with working(site, "survivor"):
                for number in range(kills):
                    ended = await kill(database, number, ended)
                    held = "SELECT extract(epoch FROM max(lease_until) - now())::float FROM registry.lane WHERE owner LIKE 'victim%'"
                    assert (await database.value(held) or 0) <= 45
                    if CRASHES == 2 or number >= len(POINTS):
                        await database.run("UPDATE registry.lane SET lease_until = now() WHERE owner LIKE 'victim%'")
                    died_at = time.monotonic()
                    await eventually(database.none_pending, 60)
                    takeovers.append(time.monotonic() - died_at)
            told = {f"{piece}-{n}" for piece in range(ended) for n in range(PIECE)}
            assert set(endpoint.codes) == told, f"lost (seed {seed})"
            assert await database.delivered() == len(told)
            return len(endpoint.codes), len(told)

    received, told = asyncio.run(run())
    with capsys.disabled():
        sys.stdout.write(
            f"\none of two workers killed -9 {kills} times (seed {seed}): of {told} notifications none lost,"
            f" {received - told} repeated of {in_flight} in flight; taken over within {max(takeovers):.1f} s\n"
        )
    assert received - told <= in_flight
    assert max(takeovers) <= 60


def test_sigterm_settles_what_is_in_flight_and_gives_the_lanes_back(site: Site) -> None:
    async def answer(_: Received) -> Response:
        await asyncio.sleep(0.7)
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, *(f"c{n}" for n in range(40)))
            with daemon(site, "deliver") as running:
                await eventually(lambda: len(endpoint.received) == 16)
                running.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running.process.wait, 60) == 0
            assert len(endpoint.received) == 16
            assert await database.delivered() == 16
            assert await database.rows("SELECT owner, lease_until, failures FROM registry.lane") == [(None, None, 0)]
            with daemon(site, "deliver") as running:
                await eventually(database.none_pending)
                assert running.stop() == 0
            assert len(endpoint.ids) == len(set(endpoint.ids)) == 40

    asyncio.run(run())
