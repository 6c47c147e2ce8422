"""Presence queries: single ones, batches, the two together, memory, and what a hundred times the contracts cost."""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.progress import track

from tests.bench.load import Load, command, run_load
from tests.bench.measure import Figure, Sample, alternate, bench_site, cpu_seconds, rss_mib
from tests.conftest import Daemon, Site, daemon, wait_for
from tests.served import serving

SECONDS = 5.0
FIRST = 79_000_000_000
STEP = 3
"""Of three numbers one is a contract's, as sparse as a real numbering range."""
CHUNK = 1_000_000
MESSENGERS = 100


def load_contracts(site: Site, contracts: int) -> float:
    """Live contracts, in the order of their numbers; returns how long it took."""

    async def insert(first: int, count: int) -> None:
        async with site.database.connect() as connection:
            await connection.execute(
                "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
                "SELECT $1::bigint + n * $2::int, 1, 'active', 'individual', 'not_required', '2020-01-01' "
                "FROM generate_series(0, $3::int - 1) AS n",
                first,
                STEP,
                count,
            )

    started = time.perf_counter()
    for begin in track(range(0, contracts, CHUNK), f"{contracts:,} contracts", transient=True):
        asyncio.run(insert(FIRST + begin * STEP, min(CHUNK, contracts - begin)))
    seconds = time.perf_counter() - started
    done = site.database.psql("-c", "VACUUM ANALYZE registry.contract", "-c", "CHECKPOINT")
    assert done.returncode == 0, done.stderr
    return seconds


def ask_numbers(contracts: int, count: int = 100_000) -> list[int]:
    """Numbers to ask for from all over the registry, half of them absent."""
    drawn = random.Random(1801).choices(range(contracts), k=count)
    return [FIRST + n * STEP + i % 2 for i, n in enumerate(drawn)]


@contextmanager
def baseline_server(site: Site, kind: str) -> Iterator[tuple[str, int]]:
    """One of tests.bench.servers: its address and process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.servers", kind, str(site.path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait(10)


def measured(site: Site, pid: int, api: str, key: str | Sequence[str], numbers: list[int], **how: Any) -> Sample:
    """One load of a server whose process is `pid`."""
    postmaster = site.database.server.pid or 0
    own, theirs = cpu_seconds(pid), cpu_seconds(postmaster)
    done = run_load(api, key, numbers, **how)
    thousands = done.numbers / 1000
    database = (cpu_seconds(postmaster) - theirs) / thousands
    return Sample(done.numbers / done.seconds, (cpu_seconds(pid) - own) / thousands + database, database, done.p99_ms)


def bench_queries(site: Site, contracts: int) -> Iterator[Figure]:
    """Single queries, journaled durably before the answer, beside servers that do less and pgbench that does the same; then as a hundred
    messengers, who ask as much each or of whom one asks half."""
    load_contracts(site, contracts)
    messenger, numbers = asyncio.run(site.add_messenger()), ask_numbers(contracts)
    others = [asyncio.run(site.add_messenger(f"messenger-{n}")).api_key for n in range(MESSENGERS - 1)]
    hundred = {"evenly": [messenger.api_key, *others], "one with half": [messenger.api_key] * len(others) + others}
    targets = {"1 worker": "CPU ≤ 0.12; p99 ≤ 15 at 64", "2 workers": "ratio ≥ 1.2"}
    for connections in (64, 256):
        with (
            daemon(site) as one,
            serving(site, "--answer", "2") as two,
            baseline_server(site, "ceiling") as ceiling,
            baseline_server(site, "one_statement") as single,
        ):
            servers = {
                "1 worker": (one.api, one.process.pid),
                "2 workers": (two.api, two.process.pid),
                "without a database": ceiling,
                "one statement a query": single,
            }
            contenders = {
                name: partial(measured, site, pid, api, messenger.api_key, numbers, connections=connections, seconds=SECONDS)
                for name, (api, pid) in servers.items()
            }
            contenders |= {
                how: partial(measured, site, one.process.pid, one.api, keys, numbers, connections=connections, seconds=SECONDS)
                for how, keys in hundred.items()
            }
            taken = alternate({**contenders, "pgbench": partial(pgbench, site, contracts, min(connections, 64))})
        for name in servers:
            yield _figure(
                f"single queries, {connections} connections, {name}",
                taken[name],
                "queries/s",
                taken["pgbench"],
                "pgbench select + insert",
                targets.get(name),
            )
        for how in hundred:
            yield Figure(
                what=f"the same as {MESSENGERS} messengers, {how}, {connections} connections",
                value=taken[how].cpu_s_per_1000,
                unit="CPU s/1,000",
                baseline=taken["1 worker"].cpu_s_per_1000,
                of="CPU s/1,000 as one messenger",
                cpu_s_per_1000=taken[how].cpu_s_per_1000,
                database_cpu_s_per_1000=taken[how].database_cpu_s_per_1000,
                p99_ms=taken[how].p99_ms,
                target="ratio ≤ 1.15",
            )


def _figure(what: str, sample: Sample, unit: str, baseline: Sample, of: str, target: str | None) -> Figure:
    return Figure(
        what=what,
        value=sample.rate,
        unit=unit,
        baseline=baseline.rate,
        of=of,
        cpu_s_per_1000=sample.cpu_s_per_1000,
        database_cpu_s_per_1000=sample.database_cpu_s_per_1000,
        p99_ms=sample.p99_ms,
        target=target,
    )


def pgbench(site: Site, contracts: int, clients: int) -> Sample:
    """The same work, one query a transaction: select and journal insert."""
    script = site.directory / "pgbench.sql"
    script.write_text(
        f"\\set n random(0, {contracts - 1})\n\\set present random(0, 1)\n\\set m {FIRST} + :n * {STEP} + :present\nBEGIN;\n"
        "SELECT status FROM registry.contract WHERE msisdn = :m AND ended_at IS NULL;\n"
        "INSERT INTO bench_journal (messenger_id, received_at, digest, present) "
        "VALUES (1, now(), decode(md5(:m::text), 'hex'), false);\nCOMMIT;\n"
    )
    site.database.psql(
        "-c",
        "CREATE TABLE IF NOT EXISTS bench_journal (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, messenger_id integer, "
        "received_at timestamptz, digest bytea, present boolean)",
    )
    binaries = site.database.server.binaries
    words = f"{binaries.directory / 'pgbench'} -n -M prepared -c {clients} -j 2 -T {SECONDS:.0f} -f {script}".split()
    done = subprocess.run([*words, site.database.dsn()], capture_output=True, text=True, check=True, env=binaries.environment())
    return Sample(float(next(line for line in done.stdout.splitlines() if line.startswith("tps")).split()[2]))


def bench_batches(site: Site, contracts: int) -> Iterator[Figure]:
    """Batches over HTTP with one worker, beside psql's COPY of the same numbers and a join."""
    load_contracts(site, contracts)
    messenger, numbers = asyncio.run(site.add_messenger()), ask_numbers(contracts)
    with daemon(site) as running:
        ask = partial(measured, site, running.process.pid, running.api, messenger.api_key, numbers, connections=4, seconds=SECONDS)
        for size in (100, 1_000, 10_000):
            taken = alternate({"daemon": partial(ask, batch=size), "join": partial(copy_and_join, site, numbers)})
            target = "≥ 220,000/s" if size == 1_000 else None
            yield _figure(f"batches of {size:,}, 1 worker", taken["daemon"], "numbers/s", taken["join"], "COPY + join", target)


def copy_and_join(site: Site, numbers: list[int]) -> Sample:
    """The numbers by COPY into a table, and a join with the registry."""
    script = (
        "CREATE TEMP TABLE asked (msisdn bigint);\nCOPY asked FROM STDIN;\n"
        + "\n".join(map(str, numbers))
        + "\n\\.\nSELECT count(*) FROM asked JOIN registry.contract AS c USING (msisdn) WHERE c.ended_at IS NULL;\n"
    )
    started = time.perf_counter()
    done = site.database.psql(stdin=script)
    assert done.returncode == 0, done.stderr
    return Sample(len(numbers) / (time.perf_counter() - started))


def bench_mixed(site: Site, contracts: int) -> Iterator[Figure]:
    """Single queries at 500 a second, alone and while another messenger's batches take all that is left."""
    load_contracts(site, contracts)
    numbers = ask_numbers(contracts)
    asking, flooding = (asyncio.run(site.add_messenger(name)) for name in ("asking", "flooding"))
    with daemon(site) as running:

        def singles() -> Load:
            return run_load(running.api, asking.api_key, numbers, connections=64, seconds=SECONDS, rate=500.0)

        def beside(size: int) -> Sample:
            words, given = command(running.api, flooding.api_key, numbers, connections=4, seconds=SECONDS + 2, batch=size)
            flood = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert flood.stdin is not None
            before = batch_statements(running)
            flood.stdin.write(given)
            flood.stdin.close()
            wait_for(lambda: batch_statements(running) > before)
            done = singles()
            assert flood.stdout is not None
            flooded = Load(*json.loads(flood.stdout.read()))
            flood.wait(10)
            return Sample(flooded.numbers / flooded.seconds, p99_ms=done.p99_ms)

        taken = alternate(
            {"idle": lambda: Sample(0, p99_ms=singles().p99_ms), "1,000": lambda: beside(1_000), "10,000": lambda: beside(10_000)}
        )
        for size in ("1,000", "10,000"):
            yield Figure(
                what=f"p99 of single queries beside batches of {size} ({taken[size].rate:,.0f} numbers/s)",
                value=taken[size].p99_ms,
                unit="ms",
                baseline=taken["idle"].p99_ms,
                of="ms idle",
                target="ratio ≤ 3",
            )


def batch_statements(running: Daemon) -> float:
    """How many statements have answered batches."""
    found = re.search(r'^registryd_query_group_size_count\{line="batch"\} (\S+)$', running.metrics(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def bench_memory(site: Site, contracts: int) -> Iterator[Figure]:
    """The daemon's memory while it answers a million single queries: what it holds, and how it grows over the last half."""
    load_contracts(site, contracts)
    messenger, numbers = asyncio.run(site.add_messenger()), ask_numbers(contracts)
    with daemon(site) as running:
        answered, samples = 0, [(time.monotonic(), rss_mib(running.process.pid))]
        while answered < 1_000_000:
            answered += run_load(running.api, messenger.api_key, numbers, connections=64, seconds=SECONDS).numbers
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
        one, other = (asyncio.run(of.add_messenger()).api_key for of in (site, small))
        with daemon(site) as many, daemon(small) as few:
            ask = partial(measured, connections=64, seconds=SECONDS)
            taken = alternate(
                {
                    "many": partial(ask, site, many.process.pid, many.api, one, ask_numbers(contracts)),
                    "few": partial(ask, small, few.process.pid, few.api, other, ask_numbers(CHUNK)),
                }
            )
    for what, field, unit in (("CPU", "cpu_s_per_1000", "s/1,000"), ("p99", "p99_ms", "ms")):
        yield Figure(
            what=f"{what} of a query among {contracts:,} contracts",
            value=getattr(taken["many"], field),
            unit=unit,
            baseline=getattr(taken["few"], field),
            of=f"{unit} among {CHUNK:,}",
            target="ratio ≤ 1.3",
        )
