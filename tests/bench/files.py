"""What billing and the DBA do in bulk: a mass termination, and the import that other benches begin with."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Figure
from tests.conftest import Site


def import_contracts(site: Site, file: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "registryd", "--config", str(site.path), "contracts", "import", str(file), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout)["seconds"])


def bench_terminations(site: Site, contracts: int) -> Iterator[Figure]:
    """One UPDATE that ends contracts with three bindings each, beside an INSERT of as many plain rows as it writes notifications."""

    async def run() -> Figure:
        async with site.database.connect() as connection:
            await connection.execute("INSERT INTO registry.messenger (name) SELECT 'm' || n FROM generate_series(1, 3) AS n")
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
            return Figure(what=what, value=rate, unit="notifications/s", baseline=baseline, of="plain INSERT")

    site.database.allow_ends()
    yield asyncio.run(run())
