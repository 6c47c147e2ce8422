"""SIGKILL of one process of each role under load: how the others' p99 changes over ten seconds, and whether anything is lost.

    python -m tests.bench.kills

Two processes answer and two deliver, under `registryd serve`. Queries come at a fixed rate over kept connections and ends of contracts
beside them. A request whose connection is cut with its process is asked again, as a client does, and counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

from registryd.demo import embedded
from tests.bench.measure import bench_site
from tests.conftest import Site, TestMessenger
from tests.delivery.conftest import Lookup, listening, looking
from tests.served import Served, serving

SECONDS = 10.0
PER_S = 100
ENDS_PER_S = 10
FIRST = 79_160_000_000
CONTRACTS = 1_000


class Window:
    """What was measured in ten seconds."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.told: Counter[str] = Counter()

    @property
    def p99_ms(self) -> float:
        return sorted(self.took_s)[int(len(self.took_s) * 0.99)] * 1000


async def ask(session: aiohttp.ClientSession, number: int, window: Window) -> None:
    """Asks until it is answered; the time of one that was cut off is the killed process's, not the others'."""
    for again in range(100):
        began = time.monotonic()
        try:
            async with session.post("/v1/presence", json={"phoneNumber": f"+{number}"}) as response:
                told = "right" if response.status == 200 and (await response.json())["present"] else f"status {response.status}"
        except aiohttp.ClientError:
            window.told["cut off"] += 1
            await asyncio.sleep(0.05)
            continue
        if not again:
            window.took_s.append(time.monotonic() - began)
        window.told[told] += 1
        return
    window.told["lost"] += 1


async def load(session: aiohttp.ClientSession, database: Lookup, messenger: TestMessenger, ends: list[str]) -> Window:
    window, tasks, began = Window(), [], time.monotonic()
    for turn in range(int(SECONDS * PER_S)):
        await asyncio.sleep(max(0.0, began + turn / PER_S - time.monotonic()))
        tasks.append(asyncio.create_task(ask(session, FIRST + turn % CONTRACTS, window)))
        if turn % (PER_S // ENDS_PER_S) == 0:
            ends.append(f"code-{len(ends)}")
            await database.owe(messenger, ends[-1], first=FIRST + CONTRACTS + len(ends))
    await asyncio.gather(*tasks)
    return window


async def run(site: Site, served: Served) -> bool:
    """Prints a line for each role; False where anything was lost or the others suffered."""
    good = True
    async with listening() as endpoint, looking(site.database) as database:
        messenger = await site.add_messenger("steady", endpoint=endpoint.url)
        await site.slow_nobody()  # numbers in their order look like a search
        await site.add_contracts(*range(FIRST, FIRST + CONTRACTS))
        ends: list[str] = []
        async with aiohttp.ClientSession(served.api, headers=messenger.headers, connector=aiohttp.TCPConnector(limit=32)) as session:
            await asyncio.sleep(2)  # until the messenger is known
            await load(session, database, messenger, ends)
            for role in ("answer@1", "deliver@1", "operate@1"):
                before = await load(session, database, messenger, ends)
                os.kill(served.pids[role], signal.SIGKILL)
                after = await load(session, database, messenger, ends)
                for _ in range(600):
                    if set(ends) <= set(endpoint.codes):
                        break
                    await asyncio.sleep(0.1)
                missing = set(ends) - set(endpoint.codes)
                ratio = after.p99_ms / before.p99_ms
                good = good and not missing and set(after.told) <= {"right", "cut off"}
                sys.stdout.write(
                    f"{role} killed: p99 {before.p99_ms:.1f} -> {after.p99_ms:.1f} ms (x{ratio:.2f}); {dict(after.told)}; "
                    f"{len(missing)} of {len(ends)} notifications missing\n"
                )
    return good


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        embedded.Server(embedded.find_binaries(), durable=False) as server,
        bench_site(server, Path(directory)) as site,
        serving(site, "--answer", "2", "--deliver", "2") as served,
    ):
        sys.exit(0 if asyncio.run(run(site, served)) else 1)


if __name__ == "__main__":
    main()
