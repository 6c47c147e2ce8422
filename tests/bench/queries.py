"""Presence queries: single ones, batches, and the two together."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.progress import track

from tests.bench.events import CALL_EVENTS, posting
from tests.bench.load import Load, command, run_load
from tests.bench.measure import Figure, Sample, alternate, children_cpu_seconds, cpu_seconds
from tests.conftest import Daemon, Site, daemon, wait_for
from tests.served import serving

SECONDS = 5.0
SINGLES_S = 3.0
FIRST = 79_000_000_000
STEP = 3
"""Of three numbers one is a contract's, as sparse as a real numbering range."""
CHUNK = 1_000_000
MESSENGERS = 100
PGBENCH_CLIENTS = 16
"""With more pgbench is slower on two cores."""


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
    return Sample(done.numbers / done.seconds, (cpu_seconds(pid) - own) / thousands + database, database, done.p99_ms, done.p50_ms)


def hundred(site: Site) -> list[str]:
    """The keys of a hundred messengers. An operator has that many, and one alone costs less than they do."""

    async def add() -> list[str]:
        return [(await site.add_messenger(f"messenger-{n}")).api_key for n in range(MESSENGERS)]

    return asyncio.run(add())


def one_with_half(keys: list[str]) -> list[str]:
    """The same keys, of which one is drawn every second time."""
    return keys[:1] * (len(keys) - 1) + keys[1:]


def bench_queries(site: Site, contracts: int) -> Iterator[Figure]:
    """Single queries of a hundred messengers, journaled durably before the answer, beside servers that do less and pgbench that does the
    same; then a lone query."""
    load_contracts(site, contracts)
    keys, numbers = hundred(site), ask_numbers(contracts)
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

        def ask(name: str, of: list[str], connections: int) -> Callable[[], Sample]:
            api, pid = servers[name]
            return partial(measured, site, pid, api, of, numbers, connections=connections, seconds=SINGLES_S)

        for connections in (64, 256):
            contenders = {name: ask(name, keys, connections) for name in servers}
            contenders["1 worker, one messenger with half"] = ask("1 worker", one_with_half(keys), connections)
            contenders["1 worker, one messenger"] = ask("1 worker", keys[:1], connections)
            taken = alternate({**contenders, "pgbench": partial(pgbench, site, contracts, PGBENCH_CLIENTS)})
            yield from _singles(connections, taken)
        lone = alternate({"daemon": ask("1 worker", keys, 1), "pgbench": partial(pgbench, site, contracts, 1)})
    daemons, baseline_ms = lone["daemon"], 1000 / lone["pgbench"].rate
    yield _compared("a lone query on an idle server, p50", daemons.p50_ms, "ms", baseline_ms, "ms pgbench, mean", daemons, None)


def _singles(connections: int, taken: Mapping[str, Sample]) -> Iterator[Figure]:
    """Rates and CPU of single queries. A server with hyper and tokio-postgres that does the same takes 1.24 times pgbench's CPU."""
    pgbench, one, two = taken["pgbench"], taken["1 worker"], taken["2 workers"]
    targets = {"1 worker": "ratio ≥ 0.8", "2 workers": "ratio ≥ 0.9" if connections == 256 else None}
    for name in [name for name in taken if name != "pgbench"]:
        what = f"single queries, {connections} connections, {name}"
        yield _figure(what, taken[name], "queries/s", pgbench, "pgbench select + insert", targets.get(name))
    for name in ("1 worker", "1 worker, one messenger with half"):
        what = f"CPU of single queries, {connections} connections, {name}"
        value, baseline = taken[name].cpu_s_per_1000, pgbench.cpu_s_per_1000
        yield _compared(what, value, "s/1,000", baseline, "s/1,000 pgbench", taken[name], "ratio ≤ 1.0")
    what = f"CPU of single queries, {connections} connections, 2 workers"
    yield _compared(what, two.cpu_s_per_1000, "s/1,000", one.cpu_s_per_1000, "s/1,000 with 1 worker", two, "ratio ≤ 1.15")
    alone = taken["1 worker, one messenger"]
    what = f"CPU of single queries, {connections} connections, {MESSENGERS} messengers"
    yield _compared(what, one.cpu_s_per_1000, "s/1,000", alone.cpu_s_per_1000, "s/1,000 as one messenger", one, None)


def _compared(what: str, value: float, unit: str, baseline: float, of: str, sample: Sample, target: str | None) -> Figure:
    """A figure other than the rate."""
    return Figure(
        what=what,
        value=value,
        unit=unit,
        baseline=baseline,
        of=of,
        cpu_s_per_1000=sample.cpu_s_per_1000,
        database_cpu_s_per_1000=sample.database_cpu_s_per_1000,
        p99_ms=sample.p99_ms,
        target=target,
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
    words = f"{binaries.directory / 'pgbench'} -n -M prepared -c {clients} -j {min(clients, 2)} -T {SINGLES_S:.0f} -f {script}".split()
    postmaster = site.database.server.pid or 0
    own, theirs = children_cpu_seconds(), cpu_seconds(postmaster)
    done = subprocess.run([*words, site.database.dsn()], capture_output=True, text=True, check=True, env=binaries.environment())
    rate, answered = _told(done.stdout, "tps"), _told(done.stdout, "number of transactions actually processed")
    database = (cpu_seconds(postmaster) - theirs) / answered * 1000
    return Sample(rate, (children_cpu_seconds() - own) / answered * 1000 + database, database)


def _told(output: str, what: str) -> float:
    return float(next(line for line in output.splitlines() if line.startswith(what)).removeprefix(what).split()[1])


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
    """Single queries at 500 a second, alone, and while another messenger's batches or billing's calls take all that is left."""
    load_contracts(site, contracts)
    numbers = ask_numbers(contracts)
    asking, flooding = (asyncio.run(site.add_messenger(name)) for name in ("asking", "flooding"))
    with daemon(site, "answer", "operate") as running:

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

        def beside_events() -> Sample:
            with posting(site, running.operator, numbers[::2]) as posted:
                done = singles()
                return Sample(posted.rate, p99_ms=done.p99_ms)

        contenders: dict[str, Callable[[], Sample]] = {
            "batches of 1,000 numbers": partial(beside, 1_000),
            "batches of 10,000 numbers": partial(beside, 10_000),
            f"calls of {CALL_EVENTS:,} events": beside_events,
        }
        taken = alternate({"idle": lambda: Sample(0, p99_ms=singles().p99_ms), **contenders})
        for what in contenders:
            yield Figure(
                what=f"p99 of single queries beside {what} ({taken[what].rate:,.0f}/s)",
                value=taken[what].p99_ms,
                unit="ms",
                baseline=taken["idle"].p99_ms,
                of="ms idle",
                target="ratio ≤ 2",
            )


def batch_statements(running: Daemon) -> float:
    """How many statements have answered batches."""
    found = re.search(r'^registryd_query_group_size_count\{line="batch"\} (\S+)$', running.metrics(), re.MULTILINE)
    return float(found[1]) if found else 0.0
