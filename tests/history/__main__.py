"""A history of sixteen clients over HTTP, checked for every number: 0 anomalies.

    python -m tests.history [--operations N] [--seed N]

`registryd serve` with two processes that answer and two that deliver. Two messengers are pushed to, and their endpoints fail now and then;
a third one pulls. Queries bring fresh codes (60 %) or none (10 %), billing ends contracts (15 %) and begins the next ones (15 %).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from registryd.demo import embedded
from tests.bench.measure import bench_site
from tests.conftest import Site
from tests.history.audit import Fault
from tests.history.load import Clients
from tests.history.play import playing


async def run(site: Site, count: int, seed: int, *, is_faulty: bool) -> tuple[Clients, list[Fault]]:
    """`is_faulty`: endpoints fail now and then. Returns the clients and what is wrong."""
    async with playing(site, count, seed, is_faulty=is_faulty) as play:
        await play.run()
        found = await play.judge()
        asked = [play.served.queries(name) for name in ("answer@1", "answer@2")]
        assert all(asked), f"one process answered all: {asked}"
        return play.clients, found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.history")
    parser.add_argument("--operations", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as directory,
        embedded.Server(embedded.find_binaries(), durable=False) as server,
        bench_site(server, Path(directory)) as site,
    ):
        clients, found = asyncio.run(run(site, options.operations, options.seed, is_faulty=True))
    for what, count in sorted(clients.told.items()):
        sys.stdout.write(f"{count:>10,} {what}\n")
    sys.stdout.write("".join(f"{fault.what}\n" for fault in found[:20]))
    say = f"{len(clients.operations):,} operations, seed {options.seed}, {time.monotonic() - began:.0f} s: {len(found)} anomalies\n"
    sys.stdout.write(say)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
