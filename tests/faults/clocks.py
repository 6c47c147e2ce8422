"""The daemon's clock is wrong (libfaketime); the database's, billing's and the messengers' are right."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from registryd.demo import embedded
from tests import programs
from tests.conftest import TestDatabase, eventually, prepare_database
from tests.faults.database import NAME, load
from tests.faults.figures import NOT_AUTHENTIC, Figure


async def _off_by(place: Path, minutes: int) -> list[Figure]:
    """Endpoints refuse pushes whose timestamp is off by more than five minutes, so they are delivered once the clock is right again."""
    clock = place / "clock"
    clock.write_text(f"{minutes:+d}m\n")
    environment = {
        "LD_PRELOAD": str(programs.library("faketime")),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with embedded.Server(embedded.find_binaries(), place / "server") as server:
        await prepare_database(server, NAME)
        database = TestDatabase(server, NAME)
        async with load(database, place, environment=environment) as loaded:
            await asyncio.sleep(10)
            clock.write_text("+0m\n")
            mended = time.monotonic()
            owed = await loaded.play.owed()
            await eventually(lambda: loaded.play.is_delivered(owed), timeout=600)
            delivered_s = time.monotonic() - mended
            found = await loaded.end()
        async with database.connect() as connection:
            refused = await connection.fetchval("SELECT count(*) FROM registry.feed_event WHERE outcome = 'refused' AND reason ~ 'future'")
            late = await connection.fetchval("SELECT count(*) FROM registry.notification_delivered WHERE delivered_at > deadline_at")
        return [
            Figure("operations without an answer", sum(op.told is None for _, op in loaded.play.clients.operations), 0),
            Figure("events refused for their time", refused, 0),
            Figure("what was owed is delivered after the clock is right, s", delivered_s, 75),
            Figure("notices told as late", late, 0),
            *(figure._replace(at_most=None) if figure.what == NOT_AUTHENTIC else figure for figure in found),
        ]


async def hour_ahead(place: Path) -> list[Figure]:
    """An hour ahead."""
    return await _off_by(place, 60)


async def hour_behind(place: Path) -> list[Figure]:
    """An hour behind."""
    return await _off_by(place, -60)


async def minutes_ahead(place: Path) -> list[Figure]:
    """Ten minutes ahead."""
    return await _off_by(place, 10)


async def minutes_behind(place: Path) -> list[Figure]:
    """Ten minutes behind."""
    return await _off_by(place, -10)
