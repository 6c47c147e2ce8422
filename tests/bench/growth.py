"""What more contracts cost a query, and what a million queries leave in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

from tests.bench.load import run_load
from tests.bench.measure import Figure, alternate, bench_site, rss_mib
from tests.bench.queries import CHUNK, SECONDS, ask_numbers, hundred, load_contracts, measured
from tests.conftest import Site, daemon


def bench_memory(site: Site, contracts: int) -> Iterator[Figure]:
    """The daemon's memory while it answers a million single queries: what it holds, and how it grows over the last half."""
    load_contracts(site, contracts)
    keys, numbers = hundred(site), ask_numbers(contracts)
    with daemon(site) as running:
        answered, samples = 0, [(time.monotonic(), rss_mib(running.process.pid))]
        while answered < 1_000_000:
            answered += run_load(running.api, keys, numbers, connections=64, seconds=SECONDS).numbers
            samples.append((time.monotonic(), rss_mib(running.process.pid)))
    late = samples[len(samples) // 2 :]
    slope = statistics.linear_regression([at / 60 for at, _ in late], [mib for _, mib in late]).slope
    yield Figure(what=f"memory after {answered:,} queries", value=samples[-1][1], unit="MiB", baseline=samples[0][1], of="MiB at start")
    yield Figure(what="its growth over the last half", value=slope, unit="MiB/min", target="≤ 0.5")


def bench_growth(site: Site, contracts: int) -> Iterator[Figure]:
    """What a query costs among many contracts, beside what it costs among a million; and how much disk a contract takes."""
    seconds = load_contracts(site, contracts)
    yield Figure(what=f"loading {contracts:,} contracts, one INSERT a million", value=contracts / seconds, unit="contracts/s")
    pages = "SELECT pg_total_relation_size('registry.contract')::float8 / count(*) FROM registry.contract"
    size = float(site.database.psql("-tAc", pages).stdout)
    yield Figure(what=f"{contracts:,} contracts on disk, indexes included", value=size, unit="bytes each", target="≤ 120")
    with bench_site(site.database.server, site.directory) as small:
        load_contracts(small, CHUNK)
        ours, theirs = hundred(site), hundred(small)
        with daemon(site) as many, daemon(small) as few:
            ask = partial(measured, connections=64, seconds=SECONDS)
            taken = alternate(
                {
                    "many": partial(ask, site, many.process.pid, many.api, ours, ask_numbers(contracts)),
                    "few": partial(ask, small, few.process.pid, few.api, theirs, ask_numbers(CHUNK)),
                }
            )
    for what, field, unit, target in (("CPU", "cpu_s_per_1000", "s/1,000", 1.2), ("p99", "p99_ms", "ms", 1.3)):
        yield Figure(
            what=f"{what} of a query among {contracts:,} contracts",
            value=getattr(taken["many"], field),
            unit=unit,
            baseline=getattr(taken["few"], field),
            of=f"{unit} among {CHUNK:,}",
            target=f"ratio ≤ {target}",
        )
