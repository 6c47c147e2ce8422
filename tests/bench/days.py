"""Does anything slow down as days of evidence gather? The hot statement, a look-up and the reports, with ten days and with three years.

`make bench-days`: some minutes, on a private PostgreSQL without durability, because what is measured is planning and locking. Each figure
is the first run on a fresh connection, and the median after it.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg

from registryd.demo import embedded
from registryd.store import presence
from registryd.store.session import PROBES
from tests.conftest import prepare_database

DAYS = 1100
QUERIES = 40
REPORTS = ("presence_daily", "answer_deadline", "notification_deadline", "delivery_attempt_daily", "notification_backlog")


async def timed(run: Callable[[], Awaitable[object]], times: int) -> str:
    took_ms = []
    for _ in range(times):
        started = time.perf_counter()
        await run()
        took_ms.append((time.perf_counter() - started) * 1000)
    return f"first {took_ms[0]:8.2f} ms   then {statistics.median(took_ms[1:]):8.3f} ms"


async def ask(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    numbers = list(range(79_160_000_000, 79_160_000_000 + QUERIES))
    await connection.fetch(presence.ANSWER.sql, numbers, [1], [QUERIES], [3], bytes(16 * QUERIES), 1)


async def measure(dsn: str, label: str) -> None:
    say(label)
    connection = await asyncpg.connect(dsn, server_settings={"jit": "off", **PROBES})
    say(f"  {'a statement':22} {await timed(partial(ask, connection), 300)}")
    wanted = await connection.fetchval("SELECT query_id FROM registry.presence_query LIMIT 1")
    await connection.close()
    connection = await asyncpg.connect(dsn, server_settings={"jit": "off", **PROBES})
    say(f"  {'a look-up':22} {await timed(partial(connection.fetch, 'SELECT * FROM registry.find_query($1)', wanted), 100)}")
    await connection.close()
    for name in REPORTS:
        connection = await asyncpg.connect(dsn)
        say(f"  {name:22} {await timed(partial(connection.fetch, f'SELECT * FROM report.{name}'), 5)}")
        await connection.close()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main() -> None:
    with embedded.Server(embedded.find_binaries(), durable=False) as server:
        dsn = await prepare_database(server, "days")
        connection = await asyncpg.connect(dsn)
        await connection.execute("INSERT INTO registry.messenger (name) VALUES ('messenger')")
        await measure(dsn, "ten days")
        for first in range(0, DAYS, 50):  # a transaction holds a lock for each
            await connection.execute("SELECT registry.make_partitions(current_date - $1::integer, 50)", DAYS - first)
        count = await connection.fetchval("SELECT count(*) FROM registry.day_partition")
        await measure(dsn, f"{DAYS} days in {count} partitions")
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
