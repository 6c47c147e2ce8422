"""The longest callback: for how long one step of a process keeps everything else in it from going on."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench.events import CALL_EVENTS, posting
from tests.bench.load import command, run_load
from tests.bench.measure import Figure
from tests.bench.queries import SECONDS, ask_numbers, load_contracts
from tests.conftest import DIES_WITH_US, Site, said, wait_for

SINGLES_RATE = 500.0
CALLS = 10


@dataclass
class Timed:
    """A role's process under tests.bench.timed. `longest_ms` is there once it has ended: of each callback over half a millisecond."""

    process: subprocess.Popen[bytes]
    address: str
    longest_ms: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """From now on it is timed: what came before, such as the start, is forgotten."""
        self.process.send_signal(signal.SIGUSR1)


@contextmanager
def timed(site: Site, role: str, listener: str) -> Iterator[Timed]:
    site.admit_operator()
    log_path = site.directory / f"timed-{secrets.token_hex(3)}.log"
    with log_path.open("wb") as log:
        words = [sys.executable, "-m", "tests.bench.timed", role, str(site.path)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, **DIES_WITH_US)
    facts = wait_for(lambda: said(process, log_path, "started"))
    running = Timed(process, f"http://{facts[listener][0]}")
    try:
        yield running
    finally:
        process.terminate()
        told, _ = process.communicate(timeout=60)
    running.longest_ms = json.loads(told)


def bench_loop(site: Site, contracts: int) -> Iterator[Figure]:
    """The longest callback beside batches of 1,000, batches of 10,000 and calls of 10,000 events."""
    load_contracts(site, contracts)
    numbers = ask_numbers(contracts)
    asking, flooding = (asyncio.run(site.add_messenger(name)) for name in ("asking", "flooding"))
    for size in (1_000, 10_000):
        with timed(site, "answer", "messenger") as running:
            run_load(running.address, flooding.api_key, numbers, connections=4, seconds=1.0, batch=size)
            running.begin()
            words, given = command(running.address, flooding.api_key, numbers, connections=4, seconds=SECONDS, batch=size)
            flood = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            assert flood.stdin is not None
            flood.stdin.write(given)
            flood.stdin.close()
            run_load(running.address, asking.api_key, numbers, connections=64, seconds=SECONDS, rate=SINGLES_RATE)
            flood.wait(60)
        yield _figure(f"batches of {size:,} and single queries", running, 2 if size <= 1_000 else 10)
    with timed(site, "operate", "operator") as running, posting(site, running.address, numbers[::2]) as posted:
        running.begin()
        wanted = posted.events + CALLS * CALL_EVENTS
        wait_for(lambda: posted.events >= wanted)
    yield _figure(f"calls of {CALL_EVENTS:,} events", running, 10)


def _figure(beside: str, running: Timed, target_ms: int) -> Figure:
    """The longest callback, and which it was; the three longest are in the plan for --json."""
    longest = sorted(running.longest_ms.items(), key=lambda found: -found[1])[:3] or [("none over half a millisecond", 0.0)]
    return Figure(
        what=f"longest callback beside {beside}: {longest[0][0]}",
        value=longest[0][1],
        unit="ms of CPU",
        target=f"≤ {target_ms}",
        plan=", ".join(f"{name} {ms:.1f} ms" for name, ms in longest),
    )
