"""One fault under load: queries with fresh codes, contracts that end and begin, deliveries to two endpoints and one that pulls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import asyncpg

from tests.conftest import make_site, prepare_database
from tests.history.load import CLIENTS, Clients
from tests.history.play import Play, playing
from tests.patroni.cluster import Cluster, ClusterDatabase, ClusterServer
from tests.patroni.faults import Kind

OPERATIONS_PER_S = 320
"""Of which 70 % are queries, most of them with a code."""
BEFORE_S = 4.0
AFTER_S = 4.0
BACK_S = 60.0
"""Who has not answered so long after the mend is stuck."""
LOOK_S = 0.1
TIMELINE = """SELECT CASE WHEN pg_is_in_recovery() THEN 0
                          ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END"""


class Outcome(NamedTuple):
    """Times in seconds."""

    promoted_after: float | None
    """From the fault until a node took writes on a new timeline; None where none did."""
    confirmed_after: float | None
    """From the promotion until the new primary first confirmed a commit, for which it needs a standby in the strict mode."""
    no_answer_for: float
    """The longest time between two answers."""
    first_answer_after: float | None
    """From the promotion, or from the mend where there was none; None: never, though all was mended."""
    longest_request: float
    answers: int
    refused: int
    """503."""
    cut_off: int
    """Requests whose connection was closed, or that had another status."""
    wrong: int
    lost: int
    doubled: int
    """Notices that came under two ids."""
    pushed_again: int
    """Notices that came more than once under one id, which is allowed."""
    faults: list[str]
    """What was found, in words; not all of it."""


class Promotions:
    """Watches every node for a new timeline, and tries there until a commit is confirmed. Use: `async with Promotions(...)`."""

    def __init__(self, addresses: list[str]) -> None:
        self.known = 0
        self.promoted_at: float | None = None
        self.confirmed_at: float | None = None
        self._addresses = addresses
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Promotions:
        self._tasks = [asyncio.create_task(self._watch(address)) for address in self._addresses]
        while not self.known:
            await asyncio.sleep(LOOK_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, address: str) -> None:
        while True:
            try:
                connection = await asyncpg.connect(f"postgresql://postgres@{address}:5432/postgres", timeout=1)
                while True:
                    timeline = await connection.fetchval(TIMELINE, timeout=1)
                    if timeline and not self.known:
                        self.known = timeline
                    if timeline > self.known and self.confirmed_at is None:
                        self.promoted_at = self.promoted_at or time.monotonic()
                        await connection.execute("SELECT pg_logical_emit_message(true, 'promoted', '')", timeout=60)
                        self.confirmed_at = self.confirmed_at or time.monotonic()
                    await asyncio.sleep(LOOK_S)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(LOOK_S)


async def run(cluster: Cluster, kind: Kind, directory: Path, name: str, hosts: str) -> Outcome:
    """`hosts`: what the daemon's DSN names. The registry is a new one, `name`."""
    server = ClusterServer(cluster)
    await prepare_database(server, name)
    site = make_site(ClusterDatabase(server, name, hosts), directory / name)
    site.write_config(log='level = "info"')
    async with (
        playing(site, 10**9, 1, pace_s=CLIENTS / OPERATIONS_PER_S) as play,
        Promotions(list(cluster.network.addresses.values())) as promotions,
    ):
        running = asyncio.create_task(play.run())
        await asyncio.sleep(BEFORE_S)
        primary = await asyncio.to_thread(cluster.leader)
        began = time.monotonic()
        fault = kind.makes(cluster, primary)
        await asyncio.to_thread(fault.__enter__)
        try:
            if kind.promotes:
                await _until(lambda: _first(play.clients, promotions.promoted_at) is not None, kind.lasts_s)
                await asyncio.sleep(AFTER_S)
            else:
                await asyncio.sleep(kind.lasts_s)
        finally:
            await asyncio.to_thread(fault.__exit__, None, None, None)
        mended = time.monotonic()
        await asyncio.to_thread(cluster.wait_healthy)
        healthy = time.monotonic()
        await _until(lambda: _first(play.clients, healthy) is not None, BACK_S)
        await asyncio.sleep(AFTER_S)
        play.clients.stop()
        await running
        return await _outcome(play, began, mended, promotions if kind.promotes else None)


async def _outcome(play: Play, began: float, mended: float, promotions: Promotions | None) -> Outcome:
    clients = play.clients
    promoted, confirmed = (promotions.promoted_at, promotions.confirmed_at) if promotions else (None, None)
    first = _first(clients, promoted or mended)
    found = await play.judge() if first is not None else []
    ids = [item["notificationId"] for inbox in play.inboxes.values() for item in inbox.notifications]
    count = {which: sum(fault.kind == which for fault in found) for which in ("wrong", "not authentic", "lost", "doubled")}
    return Outcome(
        promoted_after=None if promoted is None else promoted - began,
        confirmed_after=None if promoted is None or confirmed is None else confirmed - promoted,
        no_answer_for=clients.no_answer_for(began - 1),
        first_answer_after=None if first is None else first - (promoted or mended),
        longest_request=clients.longest_s(began - 1),
        answers=len(clients.answered_at(began - 1)),
        refused=clients.told["status 503"],
        cut_off=sum(count for what, count in clients.told.items() if what.startswith("status ") and what != "status 503"),
        wrong=count["wrong"] + count["not authentic"],
        lost=count["lost"],
        doubled=count["doubled"],
        pushed_again=len(ids) - len(set(ids)),
        faults=[fault.what for fault in found[:5]],
    )


def _first(clients: Clients, after: float | None) -> float | None:
    """When the first query was answered since then."""
    return next(iter(clients.answered_at(after)), None) if after is not None else None


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_S)
