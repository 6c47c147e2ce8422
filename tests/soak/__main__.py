"""`make soak`: everything at once for half an hour at 60 % load, and what has gathered by then.

    python -m tests.soak [--minutes N] [--share S]

`registryd serve` with two processes that answer and two that deliver. The clients of `make history` bind numbers, end contracts and begin
them again, with pushes to endpoints that fail now and then, and their history is checked at the end. Beside them other messengers ask
single queries, with and without codes, at a share of what the service can, and batches; and connections are cut in the middle of requests.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from registryd.demo import embedded
from tests.bench.load import Load, run_load
from tests.bench.measure import bench_site
from tests.bench.queries import FIRST, STEP, load_contracts
from tests.conftest import Site
from tests.history.audit import KINDS
from tests.history.play import Play, playing
from tests.soak.watch import Verdict, Watch

CONTRACTS = 200_000
ASKING = 20
PACE_S = 0.2
"""From one operation of each of the sixteen clients to its next."""
CHUNK_S = 20.0
"""So long one load lasts: then its connections end, and the next one begins."""
BATCHES_PER_S = 2.0
CUTS_PER_S = 5.0


ANSWERED_MIN = 0.95
"""Of the single queries that were due."""


async def ask(play: Play, keys: list[str], share: float, until: float) -> tuple[float, list[Load]]:
    """Single queries and batches until a moment. What a load finds refused ends it with an error. Returns how many singles were
    due a second, too.
    """
    numbers = [FIRST + n * STEP for n in range(0, CONTRACTS, 70)]
    load = partial(run_load, play.served.api, keys, numbers)
    most = await asyncio.to_thread(partial(load, connections=32, seconds=5.0))
    rate = most.numbers / most.seconds * share
    told: list[Load] = []
    while (left_s := until - time.monotonic()) > 1:
        seconds = min(CHUNK_S, left_s)
        singles = partial(load, connections=32, seconds=seconds, rate=rate, with_codes=len(told) % 2 == 0)
        batches = partial(load, connections=4, seconds=seconds, rate=BATCHES_PER_S, batch=1_000)
        single, _ = await asyncio.gather(asyncio.to_thread(singles), asyncio.to_thread(batches))
        told.append(single)
    return rate, told


async def cut(play: Play, key: str, until: float) -> int:
    """Connections that end in the middle of a request, or before its answer is read."""
    address = urlsplit(play.served.api)
    body = json.dumps({"phoneNumber": f"+{FIRST}"})
    head = f"POST /v1/presence HTTP/1.1\r\nHost: registry\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    cuts = 0
    while time.monotonic() < until:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(request[: len(request) * (cuts % 11) // 10])
            await writer.drain()
            writer.transport.abort()
            cuts += 1
        await asyncio.sleep(1 / CUTS_PER_S)
    return cuts


async def soak(site: Site, minutes: float, share: float) -> list[Verdict]:
    await asyncio.to_thread(load_contracts, site, CONTRACTS)
    keys = [(await site.add_messenger(f"asking-{n}")).api_key for n in range(ASKING)]
    async with playing(site, sys.maxsize, int(time.time()), is_faulty=True, pace_s=PACE_S) as play:
        watch = Watch(play.served, site.database)
        until = time.monotonic() + minutes * 60
        watching, clients = asyncio.create_task(watch.run()), asyncio.create_task(play.run())
        (rate, loads), cuts = await asyncio.gather(ask(play, keys, share, until), cut(play, keys[0], until))
        play.clients.stop()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await clients
        faults = await play.judge()
        errors = [line for line in play.served.lines() if line["level"] in ("error", "critical")]
        restarts = [name for name in play.served.pids if play.served.restarted(name) != 1]
    found = watch.verdicts()
    for kind in KINDS:
        of_kind = [fault.what for fault in faults if fault.kind == kind]
        found.append(
            Verdict(
                f"{kind} in {len(play.clients.operations):,} operations", "; ".join([str(len(of_kind)), *of_kind[:3]]), "0", not of_kind
            )
        )
    told = sorted({line["event"] for line in errors})
    found.append(Verdict("errors in the log", " ".join([str(len(errors)), *told]), "0", not errors))
    found.append(Verdict("processes that started anew", " ".join([str(len(restarts)), *restarts]), "0", not restarts))
    return [*found, answered(loads, rate, cuts)]


def answered(loads: Sequence[Load], rate: float, cuts: int) -> Verdict:
    """Whether the single queries that were due were answered: one whose connection never gets free is not."""
    queries, seconds = sum(load.numbers for load in loads), sum(load.seconds for load in loads)
    p99_ms = max(load.p99_ms for load in loads)
    what = f"{queries:,} single queries, {queries / seconds:,.0f}/s, {cuts:,} connections cut"
    wanted = f">= {ANSWERED_MIN:.0%} of {rate:,.0f}/s"
    return Verdict(what, f"p99 of the worst {CHUNK_S:.0f} s: {p99_ms:.0f} ms", wanted, queries >= ANSWERED_MIN * rate * seconds)


@click.command()
@click.option("--minutes", default=30.0, show_default=True, help="How long.")
@click.option("--share", default=0.6, show_default=True, help="Of what the service can, how many single queries are asked.")
def main(minutes: float, share: float) -> None:
    """Run everything at once, and say what has gathered."""
    with (
        tempfile.TemporaryDirectory() as directory,
        embedded.Server(embedded.find_binaries(), durable=True) as server,
        bench_site(server, Path(directory)) as site,
    ):
        verdicts = asyncio.run(soak(site, minutes, share))
    table = Table("what", "found", "wanted", "")
    for what, told, wanted, is_good in verdicts:
        table.add_row(what, told, wanted, "pass" if is_good else "FAIL")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    sys.exit(not all(verdict.is_good for verdict in verdicts))


if __name__ == "__main__":
    main()
