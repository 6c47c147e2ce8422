"""A backlog over 100 lanes that drains: what queries feel of it, and what a transaction that somebody left open makes it cost."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator

from tests.bench.delivery import ECHO_KNOWN_S, FIRST, LANES, ROUNDS, deliver, owe, point, run
from tests.bench.load import run_load
from tests.bench.measure import Figure
from tests.bench.receiver import Receiver
from tests.conftest import Daemon, Site, daemon

RATE = 500.0
SECONDS = 10.0
PRESSING_H = 6
"""Of the 24 hours of notice. More than half is gone, so nothing holds the drain back."""
NICE = 10


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


async def _messengers(site: Site) -> dict[int, str]:
    """A hundred, each with its id and its key."""
    added = [await site.add_messenger(f"drains-{n}", batch_max=100) for n in range(LANES)]
    return {messenger.messenger_id: messenger.api_key for messenger in added}


def _p99(running: Daemon, keys: list[str], numbers: list[int], seconds: float = SECONDS) -> float:
    """Queries asked when they are due, whether or not the last was answered; the p99 from then, in ms; the median of rounds."""
    loads = [run_load(running.api, keys, numbers, connections=64, seconds=seconds, rate=RATE) for _ in range(ROUNDS)]
    return statistics.median(load.p99_ms for load in loads)
