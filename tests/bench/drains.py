"""A backlog over 100 lanes that drains: what queries feel of it, and what a transaction that somebody has left open makes of it."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

from registryd.domain.notification import BEGINNING
from registryd.domain.reading import LOOK_BACK_S, PAGE
from registryd.store import lanes as store
from registryd.store.notifications import READ_DUE
from registryd.store.pool import fetch
from tests.bench.delivery import ECHO_KNOWN_S, FIRST, LANES, add_lanes, deliver, drained, echo, owe, point, run
from tests.bench.load import run_load
from tests.bench.measure import ROUNDS, Figure
from tests.bench.receiver import Receiver
from tests.conftest import Daemon, Site, daemon

RATE = 500.0
SECONDS = 10.0
PRESSING_H = 6
"""Of the 24 hours of notice. More than half is gone, so nothing holds the drain back."""
NICE = 10
NEW = 100
"""Notifications a lane is owed when it is looked for."""
LOOKS = 5
LOOKS_BACK_AN_HOUR = int(3600 / LOOK_BACK_S)
"""Each is a lease of a lane that is owed nothing."""


def bench_drain(site: Site, notifications: int) -> Iterator[Figure]:
    """A backlog over 100 lanes that drains beside 500 presence queries a second of 100 messengers: as the policy paces it, then pressed by
    its deadlines, then so with a deliver process that yields the CPU."""
    deliver(site, 16)
    site.database.allow_ends()
    numbers = list(range(FIRST + 800_000_000, FIRST + 800_050_000))
    run(
        site,
        "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)"
        " SELECT n, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM unnest($1::bigint[]) AS n",
        numbers,
    )
    site.database.psql("-c", "VACUUM ANALYZE registry.contract")
    messengers = asyncio.run(_messengers(site))
    lanes, keys = list(messengers), list(messengers.values())
    with Receiver() as receiver, daemon(site, "answer", "deliver") as running:
        idle = _p99(running, keys, numbers)
        found = []
        for what, due_in_h, nice, seconds in (
            ("as the policy paces it", 24, 0, SECONDS),
            ("that deadlines press", PRESSING_H, 0, SECONDS / 2),
            (f"that deadlines press, nice {NICE}", PRESSING_H, NICE, SECONDS / 2),
        ):
            os.setpriority(os.PRIO_PROCESS, running.processes["deliver"].pid, nice)
            owe(site, lanes, notifications, due_in_h=due_in_h)
            point(site, lanes, receiver.url)
            time.sleep(ECHO_KNOWN_S / 4)
            before, started = receiver.seen()["notifications"], time.perf_counter()
            p99 = _p99(running, keys, numbers, seconds)
            found.append((what, p99, (receiver.seen()["notifications"] - before) / (time.perf_counter() - started)))
            point(site, lanes, None)
    for what, p99, rate in found:
        yield Figure(
            what=f"presence p99 at {RATE:.0f}/s beside a drain {what}: {rate:,.0f} notifications/s",
            value=p99,
            unit="ms",
            baseline=idle,
            of="ms idle",
        )


class Looks(NamedTuple):
    """Seconds that a look for what is due takes: for lanes, and in one lane, from its mark and from its beginning."""

    lease: float
    read: float
    look_back: float


LOOKED = {"lease": "a look for lanes", "read": "a lane read from its mark", "look_back": "a lane read from its beginning"}


def bench_longread(site: Site, notifications: int) -> Iterator[Figure]:
    """A backlog over 100 lanes that drains without and beside a transaction that a DBA has left open for an hour, to which every settled
    row and every former lease is still visible; and what a look for new notifications takes behind them."""
    deliver(site, 16)
    echo(site, None)
    lanes = add_lanes(site, LANES, 100, name="drains")
    (rate, looks), (rate_beside, looks_beside) = asyncio.run(_beside_a_reader(site, lanes, notifications))
    what = f"beside an open transaction, {LANES} lanes"
    yield Figure(what=f"a drain {what}", value=rate_beside, unit="notifications/s", baseline=rate, of="without")
    for look, name in LOOKED.items():
        yield Figure(
            what=f"{name} {what}, {notifications:,} settled",
            value=getattr(looks_beside, look) * 1000,
            unit="ms",
            baseline=getattr(looks, look) * 1000,
            of="ms without",
            target=None if look == "look_back" else "ratio ≤ 2",
        )


async def _beside_a_reader(site: Site, lanes: list[int], notifications: int) -> list[tuple[float, Looks]]:
    """A drain's pace and the looks after it: without a reader, and beside one."""
    found = []
    for is_beside in (False, True):
        async with site.database.connect() as reader:
            if is_beside:
                await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM registry.lane")
            rate = await asyncio.to_thread(_drain, site, lanes, notifications)
            found.append((rate, await _looks(site, lanes)))
    return found


def _drain(site: Site, lanes: list[int], notifications: int) -> float:
    """Notifications a second; some that nobody delivers are owed afterwards."""
    with Receiver() as receiver:
        with daemon(site, "deliver") as running:
            owe(site, lanes, notifications)
            point(site, lanes, receiver.url)
            seconds, _, _ = drained(site, lanes, running.process.pid)
            point(site, lanes, None)
        owe(site, lanes, LANES * NEW)
    return notifications / seconds


async def _looks(site: Site, lanes: list[int]) -> Looks:
    async with site.database.connect() as owner, site.database.connect("registryd_app") as connection:
        await owner.execute("UPDATE registry.messenger SET endpoint_url = 'http://127.0.0.1:9/'")
        for _ in range(LOOKS_BACK_AN_HOUR):
            await owner.execute("UPDATE registry.lane SET owner = 'bench', token = token + 1, lease_until = now()")
            await owner.execute("UPDATE registry.lane SET owner = NULL, lease_until = NULL, look_back_at = now() + interval '1 hour'")
        marks = await owner.fetch("SELECT messenger_id, low_water FROM registry.lane WHERE messenger_id = ANY ($1::int[])", lanes)
        leases: list[float] = []
        reads: list[float] = []
        looks_back: list[float] = []
        for _ in range(LOOKS):
            transaction = connection.transaction()
            await transaction.start()
            started = time.perf_counter()
            leased = await store.lease(connection, "bench", LANES, ())
            leases.append(time.perf_counter() - started)
            assert len(leased) == LANES
            await transaction.rollback()
        for taken, after in ((reads, None), (looks_back, BEGINNING)):
            for messenger_id, mark in marks:
                started = time.perf_counter()
                rows = await fetch(connection, READ_DUE, messenger_id, after or mark, PAGE)
                taken.append(time.perf_counter() - started)
                assert len(rows) == NEW
        await owner.execute(
            "SELECT registry.settle_delivered(m.id, (SELECT array_agg(n.notification_id) FROM registry.notification AS n"
            "                                         WHERE n.messenger_id = m.id), 'pull')"
            "  FROM unnest($1::int[]) AS m(id)",
            lanes,
        )
        await owner.execute("UPDATE registry.messenger SET endpoint_url = NULL")
    return Looks(*map(statistics.median, (leases, reads, looks_back)))


async def _messengers(site: Site) -> dict[int, str]:
    """A hundred, each with its id and its key."""
    added = [await site.add_messenger(f"drains-{n}", batch_max=100) for n in range(LANES)]
    return {messenger.messenger_id: messenger.api_key for messenger in added}


def _p99(running: Daemon, keys: list[str], numbers: list[int], seconds: float = SECONDS) -> float:
    """Queries asked when they are due, whether or not the last was answered; the p99 from then, in ms; the median of rounds."""
    loads = [run_load(running.api, keys, numbers, connections=64, seconds=seconds, rate=RATE) for _ in range(ROUNDS)]
    return statistics.median(load.p99_ms for load in loads)
