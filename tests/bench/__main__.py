"""`make bench`: what the daemon does in a second here, each figure beside a baseline taken in the same run.

Machines are noisy: read the ratios, and the CPU seconds of daemon and PostgreSQL from /proc, before the rates. Nothing here is a test.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
from rich.console import Console
from rich.table import Table

from registryd import embedded, resources
from registryd.demo import population
from tests.bench import delivery
from tests.bench.load import run_load
from tests.conftest import Daemon, Site, TestDatabase, TestMessenger, daemon, make_site, prepare_database

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
ROUNDS = 3
SECONDS = 5.0

Figure = dict[str, Any]


@contextmanager
def bench_site(server: embedded.Server, directory: Path) -> Iterator[Site]:
    """A registry of its own on the bench's durable server."""
    name = f"bench_{secrets.token_hex(4)}"
    asyncio.run(prepare_database(server, name))
    site = make_site(TestDatabase(server, name), directory / name)
    site.write_config(log='level = "info"')
    yield site


def cpu_seconds(*roots: int) -> float:
    """User and system time of processes and all below them, dead children included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(map(int, fields[11:13]))
    found = set(roots)
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sum(ticks.get(pid, 0) for pid in found) / CLOCK_TICKS


def write_contracts(path: Path, contracts: int) -> list[int]:
    """A CSV of contracts in the shape of reality; returns the numbers of the live ones."""
    live = []

    def rows() -> Iterator[population.Row]:
        ranges = population.read_ranges(resources.path("tests/data/numbering_ranges.csv"))
        for row in population.generate(ranges, contracts):
            if row[2] != "ended":
                live.append(row[0])
            yield row

    population.write_csv(path, rows())
    return live


def import_contracts(site: Site, file: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "registryd", "--config", str(site.path), "contracts", "import", str(file), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout)["seconds"])


def bench_import(site: Site, contracts: int) -> Iterator[Figure]:
    """`contracts import` beside a plain COPY of the same file into a table without keys or checks."""
    file = site.directory / "contracts.csv"
    write_contracts(file, contracts)

    async def copy() -> float:
        async with site.database.connect() as connection:
            await connection.execute(
                "CREATE TABLE plain (msisdn bigint, generation smallint, status text, holder text, end_user text, "
                "started_at timestamptz, ended_at timestamptz, end_reason text)"
            )
            started = time.perf_counter()
            await connection.copy_to_table("plain", source=file, format="csv", header=True)
            return time.perf_counter() - started

    baseline = contracts / asyncio.run(copy())
    rate = contracts / import_contracts(site, file)
    yield {"what": f"contracts import, {contracts:,} rows", "rate": rate, "unit": "rows/s", "baseline": baseline, "of": "plain COPY"}


def bench_terminations(site: Site, contracts: int) -> Iterator[Figure]:
    """One UPDATE that ends contracts with three bindings each, beside an INSERT of as many plain rows as it writes notifications."""

    async def run() -> Figure:
        async with site.database.connect() as connection:
            await connection.execute("INSERT INTO registry.messenger (name) SELECT 'm' || n FROM generate_series(1, 3) AS n")
            await connection.execute("SET registry.bulk_load = 'on'")
            await connection.execute(
                "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
                "SELECT 79000000000 + n, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series(1, $1::int) AS n",
                contracts,
            )
            await connection.execute(
                "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) "
                "SELECT c.msisdn, 1, m.messenger_id, 'u' || c.msisdn FROM registry.contract AS c CROSS JOIN registry.messenger AS m"
            )
            await connection.execute("CREATE TABLE plain (a bigint, b bigint, c timestamptz, d uuid PRIMARY KEY, e text)")
            started = time.perf_counter()
            await connection.execute(
                "INSERT INTO plain SELECT n, n, now(), gen_random_uuid(), 'u' || n FROM generate_series(1, 3 * $1::int) AS n", contracts
            )
            baseline = 3 * contracts / (time.perf_counter() - started)
            # A plan remembered from a statement of one row must not be the plan of this one.
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = 79000000001")
            started = time.perf_counter()
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE ended_at IS NULL")
            rate = 3 * contracts / (time.perf_counter() - started)
            what = f"{contracts:,} ends in one UPDATE"
            return {"what": what, "rate": rate, "unit": "notifications/s", "baseline": baseline, "of": "plain INSERT"}

    yield asyncio.run(run())


def bench_queries(site: Site, contracts: int) -> Iterator[Figure]:
    """Single queries, half of them absent, and batches, each beside pgbench doing select and journal insert a transaction."""
    live = write_contracts(site.directory / "contracts.csv", contracts)
    import_contracts(site, site.directory / "contracts.csv")
    site.database.psql("-c", "VACUUM ANALYZE registry.contract")
    messenger = asyncio.run(site.add_messenger())
    numbers = random.Random(1801).sample(live, 50_000)
    numbers += [number + 7_000_000_000 for number in numbers]
    with daemon(site) as running:
        for connections in (64, 256):
            yield _singles(site, running, messenger, numbers, connections)
        for size in (100, 1_000, 10_000):
            yield asyncio.run(_batches(site, running, messenger, numbers, size))


def _singles(site: Site, running: Daemon, messenger: TestMessenger, numbers: list[int], connections: int) -> Figure:
    rates, baselines, cpus, p99s = [], [], [], []
    postmaster = site.database.server.pid or 0
    for _ in range(ROUNDS):
        before = cpu_seconds(running.process.pid, postmaster)
        load = run_load(running.api, messenger.api_key, numbers, connections, SECONDS)
        cpus.append((cpu_seconds(running.process.pid, postmaster) - before) * 1000 / load.answers)
        rates.append(load.answers / load.seconds)
        p99s.append(load.p99_ms)
        baselines.append(_pgbench(site, min(connections, 64)))
    return {
        "what": f"single queries, {connections} connections",
        "rate": statistics.median(rates),
        "unit": "queries/s",
        "baseline": statistics.median(baselines),
        "of": "pgbench select + insert",
        "cpu_s_per_1000": statistics.median(cpus),
        "p99_ms": statistics.median(p99s),
    }


def _pgbench(site: Site, clients: int) -> float:
    """Transactions a second of the same work, one query each."""
    script = site.directory / "pgbench.sql"
    script.write_text(
        "\\set m random(79010000000, 79899999999)\nBEGIN;\n"
        "SELECT status FROM registry.contract WHERE msisdn = :m AND ended_at IS NULL;\n"
        "INSERT INTO bench_journal (messenger_id, received_at, digest, present) "
        "VALUES (1, now(), decode(md5(:m::text), 'hex'), false);\nCOMMIT;\n"
    )
    site.database.psql(
        "-c",
        "CREATE TABLE IF NOT EXISTS bench_journal (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, messenger_id integer, "
        "received_at timestamptz, digest bytea, present boolean)",
    )
    program = site.database.server.binaries.directory / "pgbench"
    done = subprocess.run(
        [
            str(program),
            "-n",
            "-M",
            "prepared",
            "-c",
            str(clients),
            "-j",
            "2",
            "-T",
            str(int(SECONDS)),
            "-f",
            str(script),
            site.database.dsn(),
        ],
        capture_output=True,
        text=True,
        check=True,
        env=site.database.server.binaries.environment(),
    )
    return float(next(line for line in done.stdout.splitlines() if line.startswith("tps")).split()[2])


async def _batches(site: Site, running: Daemon, messenger: TestMessenger, numbers: list[int], size: int) -> Figure:
    """Numbers a second over HTTP, beside psql's COPY of the same numbers and a join."""
    rates, baselines, cpus = [], [], []
    postmaster = site.database.server.pid or 0
    async with aiohttp.ClientSession(running.api, headers=messenger.headers) as http, site.database.connect() as connection:
        for _ in range(ROUNDS):
            asked = 0
            before, started = cpu_seconds(running.process.pid, postmaster), time.perf_counter()
            while time.perf_counter() - started < SECONDS:
                chosen = random.sample(numbers, size)
                body = orjson.dumps({"queries": [{"phoneNumber": f"+{number}"} for number in chosen]})
                async with http.post("/v1/presence/batch", data=body, headers={"Content-Type": "application/json"}) as answer:
                    answer.raise_for_status()
                    await answer.read()
                asked += size
            rates.append(asked / (time.perf_counter() - started))
            cpus.append((cpu_seconds(running.process.pid, postmaster) - before) * 1000 / asked)
            started = time.perf_counter()
            await connection.execute("CREATE TEMP TABLE asked (msisdn bigint)")
            await connection.copy_records_to_table("asked", records=[(number,) for number in numbers])
            await connection.fetchval("SELECT count(*) FROM asked JOIN registry.contract AS c USING (msisdn) WHERE c.ended_at IS NULL")
            await connection.execute("DROP TABLE asked")
            baselines.append(len(numbers) / (time.perf_counter() - started))
    return {
        "what": f"batches of {size:,}",
        "rate": statistics.median(rates),
        "unit": "numbers/s",
        "baseline": statistics.median(baselines),
        "of": "COPY + join",
        "cpu_s_per_1000": statistics.median(cpus),
    }


BENCHES: dict[str, tuple[Callable[[Site, int], Iterator[Figure]], int]] = {
    "import": (bench_import, 1_000_000),
    "terminations": (bench_terminations, 200_000),
    "queries": (bench_queries, 1_000_000),
    **delivery.BENCHES,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHES)))
@click.option("--scale", type=float, default=1.0, help="Multiplies the contracts of each bench.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(names: tuple[str, ...], scale: float, json_path: Path | None) -> None:
    """Run the benches named, or all."""
    figures: list[Figure] = []
    console = Console()
    with tempfile.TemporaryDirectory(prefix="registryd-bench-") as directory, embedded.Server(embedded.find_binaries()) as server:
        for name in names or BENCHES:
            bench, contracts = BENCHES[name]
            with bench_site(server, Path(directory)) as site:
                for figure in bench(site, int(contracts * scale)):
                    figures.append(figure)
                    console.print(f"{figure['what']}: {figure['rate']:,.0f} {figure['unit']}")
    table = Table("what", "rate", "baseline", "ratio", "CPU s / 1,000", "p99 ms", title=f"{os.cpu_count()} cores")
    for f in figures:
        cpu, p99 = f.get("cpu_s_per_1000"), f.get("p99_ms")
        table.add_row(
            f["what"],
            f"{f['rate']:,.0f} {f['unit']}",
            f"{f['baseline']:,.0f} {f['of']}",
            f"{f['rate'] / f['baseline']:.2f}",
            f"{cpu:.4f}" if cpu else "",
            f"{p99:.1f}" if p99 else "",
        )
    console.print(table)
    if json_path:
        json_path.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
