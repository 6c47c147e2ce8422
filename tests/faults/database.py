"""The database is cut off, slow, or has no room left, under queries, bindings, ends of contracts and deliveries."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path

import asyncpg

from registryd.demo import embedded
from tests.conftest import TestDatabase, eventually, make_site, prepare_database
from tests.faults.figures import Figure, judged
from tests.faults.relay import Relayed, relaying
from tests.history.load import CLIENTS, Clients
from tests.history.play import Play, playing

PACE_S = CLIENTS / 200
NAME = "registry"
BEFORE_S, AFTER_S = 3.0, 3.0
SMALL = {"min_wal_size": "32MB", "max_wal_size": "64MB", "wal_keep_size": "0"}


class Load:
    """200 operations a second. `play` has what they were told."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self._running = asyncio.create_task(play.run())

    async def end(self) -> list[Figure]:
        """Does no more, waits until all is delivered, and judges."""
        self.play.clients.stop()
        await self._running
        return judged(await self.play.judge())


@asynccontextmanager
async def load(database: TestDatabase, place: Path, *, environment: dict[str, str] | None = None) -> AsyncIterator[Load]:
    site = make_site(database, place / "site")
    site.write_config(log='level = "info"')
    async with playing(site, 10**9, 1, pace_s=PACE_S, environment=environment) as play:
        loaded = Load(play)
        await asyncio.sleep(BEFORE_S)
        yield loaded


def back_after(clients: Clients, mended: float) -> Figure:
    first = next(iter(clients.answered_at(mended)), inf)
    return Figure("first answer after the mend, s", first - mended, 2.0)


async def ready(play: Play) -> int:
    """The status of /readyz; 0 where there is none. It is asked in a thread: the loop here is that of the clients that are measured."""
    return await asyncio.to_thread(_ready, play)


def _ready(play: Play) -> int:
    address = play.served.started["health"]["answer@1"].removeprefix("http://")
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


async def is_away(play: Play) -> bool:
    return await ready(play) == 503


async def is_back(play: Play, mended: float) -> bool:
    return bool(play.clients.answered_at(mended)) and await ready(play) == 200


async def partition(place: Path) -> list[Figure]:
    """20 s without a word between the daemon and its database."""
    with embedded.Server(embedded.find_binaries(), place / "server") as server:
        await prepare_database(server, NAME)
        with relaying(server) as relay:
            async with load(Relayed(server, NAME, relay), place) as loaded:
                clients, began = loaded.play.clients, time.monotonic()
                relay.cut()
                await asyncio.sleep(20)
                relay.mend()
                mended = time.monotonic()
                await eventually(lambda: bool(clients.answered_at(mended)))
                await asyncio.sleep(AFTER_S)
                found = await loaded.end()
                return [Figure("longest request, s", clients.longest_s(began), 2.0), back_after(clients, mended), *found]


async def slow(place: Path) -> list[Figure]:
    """A round trip takes 200 ms more."""
    with embedded.Server(embedded.find_binaries(), place / "server") as server:
        await prepare_database(server, NAME)
        with relaying(server, 0.1) as relay:
            async with load(Relayed(server, NAME, relay), place) as loaded:
                began = time.monotonic()
                await asyncio.sleep(20)
                found = await loaded.end()
                operations = [op for _, op in loaded.play.clients.operations if op.began > began]
            queries = [op for op in operations if op.kind in ("ask", "bind")]
            took = sorted(op.ended - op.began for op in queries)
            return [
                Figure("queries without an answer", sum(op.told is None for op in queries), 0),
                Figure("median of a query, s", took[len(took) // 2], 1.0),
                Figure("longest query, s", took[-1]),
                Figure("events that billing has to send again", sum(op.told is None for op in operations if op not in queries)),
                *found,
            ]


def mounted(place: Path, megabytes: int) -> Path:
    """A small disk. It goes with the campaign's namespace."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", str(place)], check=True)
    return place


def fill(disk: Path) -> Path:
    path = disk / "filling"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65_536))
    return path


async def disk_full(place: Path) -> list[Figure]:
    """The disk of data and WAL is full."""
    disk = mounted(place / "disk", 300)
    with embedded.Server(embedded.find_binaries(), disk / "server", options=SMALL) as server:
        await prepare_database(server, NAME)
        async with load(TestDatabase(server, NAME), place) as loaded:
            play, filling = loaded.play, fill(disk)
            await eventually(lambda: play.clients.told["status 503"] > 0)
            filling.unlink()
            filling = fill(disk)
            await eventually(lambda: is_away(play))
            refused = play.clients.told["status 503"]
            await eventually(lambda: play.clients.told["status 503"] > refused + 100)
            is_ready = float(await ready(play) == 200)
            filling.unlink()
            mended = time.monotonic()
            await eventually(lambda: is_back(play, mended))
            await asyncio.sleep(AFTER_S)
            found = await loaded.end()
        return [Figure("/readyz says 200 while it is full", is_ready, 0), back_after(play.clients, mended), *found]


async def wal_full(place: Path) -> list[Figure]:
    """The disk of the WAL alone is full: PostgreSQL panics, and a person starts it again once there is room."""
    disk = mounted(place / "disk", 100)
    server = embedded.Server(embedded.find_binaries(), place / "server", options=SMALL)
    with server:
        server.stop()
        wal = server.directory / "data/pg_wal"
        owner = wal.stat()
        shutil.move(wal, disk / "pg_wal")
        subprocess.run(["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", str(disk / "pg_wal")], check=True)
        wal.symlink_to(disk / "pg_wal")
        server.start()
        await prepare_database(server, NAME)
        async with load(TestDatabase(server, NAME), place) as loaded:
            play, filling = loaded.play, fill(disk)
            while server.pid is not None:
                with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    connection = await asyncpg.connect(server.dsn())
                    await connection.execute("SELECT pg_logical_emit_message(true, 'filling', repeat('x', 1000000)), pg_switch_wal()")
                    await connection.close()
                await asyncio.sleep(0.1)
            await eventually(lambda: is_away(play))
            filling.unlink()
            os.sync()
            await asyncio.to_thread(server.start)
            mended = time.monotonic()
            await eventually(lambda: bool(play.clients.answered_at(mended)))
            await asyncio.sleep(AFTER_S)
            found = await loaded.end()
        return [back_after(play.clients, mended), *found]
