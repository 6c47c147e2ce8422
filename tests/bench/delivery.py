"""Delivery: throughput beside a bare client, a healthy lane among dead ones, a backlog that drains beside queries, and the worst day."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench.bare import run_bare
from tests.bench.receiver import Receiver
from tests.conftest import Site, daemon

Figure = dict[str, Any]

CONCURRENCY = 50
ROUNDS = 3
LANES = 100
FIRST = 79_000_000_000


def deliver(site: Site, concurrency: int = CONCURRENCY) -> None:
    """The configuration that a backlog on loopback wants."""
    site.write_config(log='level = "info"', delivery=f'allow_http = true\nallow_networks = ["127.0.0.0/8"]\nconcurrency = {concurrency}')


def run(site: Site, statement: str, *args: Any) -> Any:
    async def execute() -> Any:
        async with site.database.connect() as connection:
            return await connection.fetchval(statement, *args)

    return asyncio.run(execute())


def echo(site: Site, per_s: int | None) -> None:
    """A policy of its own: what comes back as queries is bounded, or (None) is not."""
    columns = "answer_within, notice_within, organisation_rule, suspended_is_present, journal_kept, notification_kept, note"
    run(
        site,
        f"INSERT INTO registry.policy (effective_from, {columns}, echo_per_s)"
        f" SELECT clock_timestamp(), {columns}, $1 FROM registry.policy_in_force(now())",
        per_s,
    )


def owe(site: Site, messenger_ids: list[int], notifications: int) -> None:
    """So many notifications, spread over messengers, as the fan-out writes them."""
    run(
        site,
        "INSERT INTO registry.notification"
        " (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, identification_code)"
        " SELECT ($1::int[])[1 + n % cardinality($1::int[])], 1, d.at, registry.id_at(d.at), $3::bigint + n, d.at - interval '24 hours',"
        "        'user-' || n"
        "   FROM generate_series(0, $2::int - 1) AS n,"
        "        LATERAL (SELECT date_trunc('milliseconds', now() + interval '24 hours' + n % 1000 * interval '1 ms') AS at) AS d",
        messenger_ids,
        notifications,
        FIRST,
    )
    site.database.psql("-c", "VACUUM ANALYZE registry.notification", "-c", "CHECKPOINT")


def add_lanes(site: Site, count: int, batch_max: int, url: str | None = None, name: str = "lane") -> list[int]:
    """Messengers without an endpoint, or with one."""

    async def add() -> list[int]:
        return [(await site.add_messenger(f"{name}-{batch_max}-{n}", url, batch_max=batch_max)).messenger_id for n in range(count)]

    return asyncio.run(add())


def point(site: Site, messenger_ids: list[int], url: str | None) -> None:
    run(site, "UPDATE registry.messenger SET endpoint_url = $1 WHERE messenger_id = ANY ($2::int[])", url, messenger_ids)


def pending(site: Site, messenger_ids: list[int]) -> int:
    return int(run(site, "SELECT count(*) FROM registry.notification WHERE messenger_id = ANY ($1::int[])", messenger_ids))


def drained(site: Site, messenger_ids: list[int], cpu: Callable[[], float]) -> tuple[float, float]:
    """Waits until nothing is owed; seconds from the first push to the last durable receipt, and the CPU seconds spent."""
    before, since = cpu(), run(site, "SELECT clock_timestamp()")
    while pending(site, messenger_ids):
        time.sleep(0.2)
    spent = cpu() - before
    taken = run(
        site,
        "SELECT extract(epoch FROM max(d.delivered_at) - (SELECT min(a.attempted_at) FROM registry.delivery_attempt AS a"
        " WHERE a.messenger_id = ANY ($1::int[]) AND a.attempted_at >= $2))::float"
        " FROM registry.notification_delivered AS d WHERE d.messenger_id = ANY ($1::int[]) AND d.delivered_at >= $2",
        messenger_ids,
        since,
    )
    return float(taken), spent


def cpu_seconds(*roots: int) -> float:
    from tests.bench import __main__  # it imports this module

    return __main__.cpu_seconds(*roots)


def bench_deliveries(site: Site, notifications: int) -> Iterator[Figure]:
    """One worker, one lane: pushes of one and of 100, at 0 and 20 ms, each recorded, beside a bare client doing the same POSTs."""
    deliver(site)
    echo(site, None)
    postmaster = site.database.server.pid or 0
    with daemon(site) as running:
        for delay_s in (0.0, 0.02):
            with Receiver(delay_s) as receiver:
                for batch_max, count in ((1, notifications if not delay_s else notifications // 5), (100, 8 * notifications)):
                    lane = add_lanes(site, 1, batch_max, name=f"{delay_s}")
                    rates, cpus, bares, bare_cpus = [], [], [], []
                    for _ in range(ROUNDS):
                        owe(site, lane, count)
                        bare = run_bare(receiver.url, count // batch_max, batch_max, CONCURRENCY)
                        point(site, lane, receiver.url)
                        seconds, spent = drained(site, lane, lambda: cpu_seconds(running.process.pid, postmaster))
                        point(site, lane, None)
                        rates.append(count / seconds)
                        cpus.append(spent * 1000 / count)
                        bares.append(bare.rate * batch_max)
                        bare_cpus.append(bare.cpu_s_per_1000 / batch_max)
                    yield {
                        "what": f"deliveries, batch {batch_max}, receiver at {delay_s * 1000:.0f} ms",
                        "rate": statistics.median(rates),
                        "unit": "notifications/s",
                        "baseline": statistics.median(bares),
                        "of": f"bare aiohttp ({statistics.median(bare_cpus):.4f} CPU s)",
                        "cpu_s_per_1000": statistics.median(cpus),
                    }


BENCHES: dict[str, tuple[Callable[[Site, int], Iterator[Figure]], int]] = {
    "deliveries": (bench_deliveries, 50_000),
}
