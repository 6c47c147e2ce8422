"""Every report over years of rows: journal, bindings, events, what is owed; with what triggers appended still unfolded, and folded."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import asyncpg
from rich.progress import track

from tests.bench.measure import Figure
from tests.bench.queries import FIRST, STEP, load_contracts
from tests.conftest import Site

RUNS = 5
DAYS = 30
UNFOLDED = {
    "binding_movement": (1_000_000, "1 + n % 3, 0, 0, 0, 0"),
    "notification_movement": (1_000_000, "1 + n % 3, current_date, date_trunc('minute', now()) + n % 1440 * interval '1 minute', 0"),
    "contract_movement": (60_000, "current_date, 0, 0, 0, 0"),
    "feed_movement": (60_000, "current_date, 'activated', 'applied', 1, 1, '1 second'"),
}
"""Rows that triggers append in ten minutes, at 1,700 statements a second and 100 of billing's calls, each with nothing in it."""
TARGET = "1,000 ms"
COUNTS = {
    "binding_by_messenger": "SELECT messenger_id, count(*) FILTER (WHERE ended_at IS NULL), "
    "count(*) FILTER (WHERE end_reason = 'terminated') FROM registry.binding GROUP BY 1",
    "notification_backlog": "SELECT messenger_id, count(*), count(*) FILTER (WHERE deadline_at < now()), min(deadline_at) "
    "FROM registry.notification GROUP BY 1",
    "feed_lag": "SELECT (recorded_at AT TIME ZONE 'UTC')::date, type, outcome, count(*), avg(recorded_at - occurred_at) "
    "FROM registry.feed_event GROUP BY 1, 2, 3",
}
"""What these reports were, and now spare themselves."""


def bench_reports(site: Site, contracts: int) -> Iterator[Figure]:
    """`contracts` with three bindings each, all owed; ten times as many queries; three times as many events."""
    asyncio.run(_populate_messengers(site))
    load_contracts(site, contracts)
    asyncio.run(_populate(site, contracts))
    counted = asyncio.run(_measure(site, COUNTS, "postgres"))
    views = asyncio.run(_views(site))
    yield from _figures("unfolded", asyncio.run(_measure(site, views, "registryd_report")), counted)
    started = time.perf_counter()
    asyncio.run(_execute(site, "SELECT registry.fold_movements()"))
    yield Figure(what="folding them", value=(time.perf_counter() - started) * 1000, unit="ms")
    site.database.psql("-c", "VACUUM ANALYZE")
    yield from _figures("folded", asyncio.run(_measure(site, views, "registryd_report")), counted)


def _figures(when: str, told: dict[str, tuple[float, str]], counted: dict[str, tuple[float, str]]) -> Iterator[Figure]:
    for name, (took_ms, plan) in told.items():
        baseline = counted[name][0] if name in counted else None
        of = "ms to count" if baseline is not None else None
        yield Figure(what=f"report.{name}, {when}", value=took_ms, unit="ms", baseline=baseline, of=of, target=TARGET, plan=plan)


async def _execute(site: Site, *statements: str) -> None:
    async with site.database.connect() as connection:
        for statement in statements:
            await connection.execute(statement)


async def _views(site: Site) -> dict[str, str]:
    async with site.database.connect("registryd_report") as connection:
        names = await connection.fetch("SELECT viewname::text AS name FROM pg_views WHERE schemaname = 'report' ORDER BY 1")
        return {row["name"]: f"SELECT * FROM report.{row['name']} ORDER BY 1, 2" for row in names}


async def _measure(site: Site, statements: dict[str, str], user: str) -> dict[str, tuple[float, str]]:
    """Median milliseconds, each run on a connection of its own as psql's is, and the plan."""
    found = {}
    for name, statement in statements.items():
        took_ms = []
        for _ in range(RUNS):
            connection = await asyncpg.connect(site.database.dsn(user), server_settings={"statement_timeout": "0"})
            started = time.perf_counter()
            await connection.fetch(statement)
            took_ms.append((time.perf_counter() - started) * 1000)
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, SUMMARY OFF) {statement}"))
            await connection.close()
        found[name] = (statistics.median(took_ms), plan)
    return found


async def _populate_messengers(site: Site) -> None:
    await _execute(
        site,
        "INSERT INTO registry.messenger (name) SELECT 'messenger-' || n FROM generate_series(1, 3) AS n",
        "DELETE FROM registry.seal",
        f"SELECT registry.append_seal('begin', current_date - {DAYS}, 0, 0, sha256(''), 'the bench')",
        f"SELECT registry.make_partitions(current_date - {DAYS}, {DAYS + 2})",
    )


async def _populate(site: Site, contracts: int) -> None:
    site.database.allow_ends()
    async with site.database.connect() as connection:
        await _keep_evidence(connection, queries=10 * contracts, attempts=contracts)
        for first in track(range(0, contracts, 100_000), "bindings and ends", transient=True):
            between = (FIRST + first * STEP, FIRST + min(contracts, first + 100_000) * STEP)
            await connection.execute(
                "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) SELECT c.msisdn, 1, m.messenger_id, "
                "'u' || c.msisdn FROM registry.contract AS c CROSS JOIN registry.messenger AS m WHERE c.msisdn >= $1 AND c.msisdn < $2",
                *between,
            )
            ended_at = await connection.fetchval("SELECT now()") - timedelta(hours=(first // 100_000) % 30)
            await connection.execute("UPDATE registry.contract SET ended_at = $3 WHERE msisdn >= $1 AND msisdn < $2", *between, ended_at)
        # One messenger has received what it was owed: an open day of deliveries.
        while await connection.fetchval(
            "SELECT registry.settle_delivered(1, (SELECT array_agg(n.notification_id) FROM (SELECT notification_id FROM "
            "registry.notification WHERE messenger_id = 1 LIMIT 20000) AS n), 'push')"
        ):
            pass
        await connection.execute(
            "INSERT INTO registry.feed_event (event_id, type, content, outcome, occurred_at, recorded_at) "
            "SELECT 'event-' || n, (ARRAY['activated', 'terminated', 'ported_out', 'suspended'])[1 + n % 4], "
            "decode(repeat('00', 16), 'hex'), 'applied', now() - n * interval '30 seconds' - interval '5 seconds', "
            "now() - n * interval '30 seconds' FROM generate_series(1, 3 * $1::int) AS n",
            contracts,
        )
        await connection.execute("VACUUM ANALYZE")
        for table, (rows, columns) in UNFOLDED.items():
            await connection.execute(f"INSERT INTO registry.{table} SELECT {columns} FROM generate_series(1, {rows}) AS n")


async def _keep_evidence(connection: asyncpg.Connection[asyncpg.Record], queries: int, attempts: int) -> None:
    """Half of the queries today, half on the days before; pages of 40 queries of three messengers, sealed. Attempts today."""
    now: datetime = await connection.fetchval("SELECT now()")
    for days in track(range(DAYS, -1, -1), f"{queries:,} queries", transient=True):
        pages = queries // 80 if days == 0 else queries // 80 // DAYS
        await connection.execute(
            "INSERT INTO registry.journal_page "
            "(page_id, answered_at, queries, digest_key, messenger_ids, query_counts, waited_ms, digests, present) "
            "SELECT overlay(registry.id_at(p.at)::text PLACING '0000' FROM 33)::uuid, p.at, 40, 1, '{1,2,3}', '{20,10,10}', '{5,4,3}', "
            "decode(repeat('5a', 640), 'hex'), repeat('1', 39)::varbit || B'0' "
            "FROM (SELECT n, $1::timestamptz - (n % 3600) * interval '1 second' AS at FROM generate_series(1, $2::int) AS n) AS p",
            now - timedelta(days=days),
            pages,
        )
    await connection.execute(
        "INSERT INTO registry.delivery_attempt "
        "SELECT 1 + n % 3, $1::timestamptz - (n % 3600) * interval '1 second', 1, 'acknowledged', 204, 12, NULL "
        "FROM generate_series(1, $2::int) AS n",
        now,
        attempts,
    )
    while await connection.fetchrow("SELECT * FROM registry.seal_window()"):
        pass
