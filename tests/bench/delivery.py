"""Delivery: throughput beside a bare client, a healthy lane among dead ones, and the worst day."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.bench.bare import run_bare
from tests.bench.measure import Figure, Sample, alternate, cpu_seconds
from tests.bench.receiver import Receiver
from tests.certificates import make_pair
from tests.conftest import Site, daemon

CONCURRENCY = 50
CONCURRENCY_OF_MANY = 16
LANES = 100
ECHO_KNOWN_S = 5.5
"""The daemon has read a new policy by then."""
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
    run(site, "SELECT registry.change_policy(jsonb_build_object('echo_per_s', $1::integer), clock_timestamp(), 'a bench')", per_s)


def owe(site: Site, messenger_ids: list[int], notifications: int, *, due_in_h: int = 24) -> None:
    """So many notifications, spread over messengers, as the fan-out writes them. Deadlines press once less than 12 hours are left."""
    run(
        site,
        "INSERT INTO registry.notification"
        " (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, identification_code)"
        " SELECT ($1::int[])[1 + n % cardinality($1::int[])], 1, d.at, registry.id_at(d.at), $3::bigint + n, d.at - interval '24 hours',"
        "        'user-' || n"
        "   FROM generate_series(0, $2::int - 1) AS n,"
        "        LATERAL (SELECT date_trunc('milliseconds', now() + make_interval(hours => $4) + n % 1000 * interval '1 ms') AS at) AS d",
        messenger_ids,
        notifications,
        FIRST,
        due_in_h,
    )
    site.database.psql("-c", "VACUUM ANALYZE registry.notification", "-c", "CHECKPOINT")


def add_lanes(site: Site, count: int, batch_max: int, url: str | None = None, name: str = "lane") -> list[int]:
    """Messengers without an endpoint, or with one."""

    async def add() -> list[int]:
        return [(await site.add_messenger(f"{name}-{batch_max}-{n}", url, batch_max=batch_max)).messenger_id for n in range(count)]

    return asyncio.run(add())


def point(site: Site, messenger_ids: list[int], url: str | None) -> None:
    run(site, "UPDATE registry.messenger SET endpoint_url = $1 WHERE messenger_id = ANY ($2::int[])", url, messenger_ids)


def is_owed(site: Site, messenger_ids: list[int]) -> bool:
    return bool(run(site, "SELECT EXISTS (SELECT FROM registry.notification WHERE messenger_id = ANY ($1::int[]))", messenger_ids))


def leased(site: Site, messenger_ids: list[int]) -> bool:
    """Whether a lane is still at work: it would push what is owed next, too."""
    return bool(
        run(site, "SELECT EXISTS (SELECT FROM registry.lane WHERE messenger_id = ANY ($1::int[]) AND owner IS NOT NULL)", messenger_ids)
    )


def drained(site: Site, messenger_ids: list[int], worker: int) -> tuple[float, float, float]:
    """Waits until nothing is owed; seconds from the first push to the last durable receipt; CPU seconds of the worker and of PostgreSQL."""
    postmaster = site.database.server.pid or 0
    before, since = (cpu_seconds(worker), cpu_seconds(postmaster)), run(site, "SELECT clock_timestamp()")
    while is_owed(site, messenger_ids) or leased(site, messenger_ids):
        time.sleep(0.2)
    spent, database_spent = cpu_seconds(worker) - before[0], cpu_seconds(postmaster) - before[1]
    taken = run(
        site,
        "SELECT extract(epoch FROM max(d.delivered_at) - (SELECT min(a.attempted_at) FROM registry.delivery_attempt AS a"
        " WHERE a.messenger_id = ANY ($1::int[]) AND a.attempted_at >= $2))::float"
        " FROM registry.notification_delivered AS d WHERE d.messenger_id = ANY ($1::int[]) AND d.delivered_at >= $2",
        messenger_ids,
        since,
    )
    return float(taken), spent, database_spent


class Form(NamedTuple):
    """One row of `deliveries`."""

    lanes: int
    batch_max: int
    notifications: float
    """Times those of the bench."""
    delay_s: float = 0.0
    tls: bool = False

    def __str__(self) -> str:
        to = "one endpoint" if self.lanes == 1 else f"{self.lanes} endpoints{' with TLS' if self.tls else ''}"
        return f"deliveries, batch {self.batch_max}, to {to} at {self.delay_s * 1000:.0f} ms"


FORMS = (
    *(Form(1, batch_max, times, delay_s) for delay_s in (0.0, 0.02) for batch_max, times in ((1, 0.2 if delay_s else 1), (100, 8))),
    *(Form(LANES, 1, 1, tls=tls) for tls in (False, True)),
)


def bench_deliveries(site: Site, notifications: int) -> Iterator[Figure]:
    """One worker, beside a bare client doing the same POSTs: one lane with pushes of one and of 100, at 0 and 20 ms, and 100 lanes with
    pushes of one, without and with TLS; each receipt recorded."""
    ca = make_pair("bench CA")
    ca_file, _ = ca.write(site.directory, "endpoint-ca")
    pair = make_pair("endpoint", ca).write(site.directory, "endpoint")
    for number, form in enumerate(FORMS):
        count, concurrency = int(notifications * form.notifications), CONCURRENCY if form.lanes == 1 else CONCURRENCY_OF_MANY
        deliver(site, concurrency)
        echo(site, None)
        lanes = add_lanes(site, form.lanes, form.batch_max, name=f"form-{number}")
        if form.tls:
            for name in run(site, "SELECT array_agg(name) FROM registry.messenger WHERE messenger_id = ANY ($1::int[])", lanes):
                (site.directory / "credentials" / f"endpoint-ca-{name}").write_bytes(ca.certificate)
        with daemon(site, "deliver") as running, Receiver(form.delay_s, pair if form.tls else None) as receiver:

            def bare(form: Form = form, url: str = receiver.url, count: int = count, concurrency: int = concurrency) -> Sample:
                posts = count // form.batch_max
                done = run_bare(url, posts, form.batch_max, concurrency, form.lanes, ca_file if form.tls else None)
                return Sample(done.rate * form.batch_max, done.cpu_s_per_1000 / form.batch_max)

            def ours(lanes: list[int] = lanes, url: str = receiver.url, count: int = count, worker: int = running.process.pid) -> Sample:
                owe(site, lanes, count)
                point(site, lanes, url)
                seconds, spent, database_spent = drained(site, lanes, worker)
                point(site, lanes, None)
                return Sample(count / seconds, (spent + database_spent) * 1000 / count, database_spent * 1000 / count)

            taken = alternate({"bare": bare, "ours": ours})
        yield Figure(
            what=str(form),
            value=taken["ours"].rate,
            unit="notifications/s",
            baseline=taken["bare"].rate,
            of=f"bare aiohttp ({taken['bare'].cpu_s_per_1000:.4f} CPU s)",
            cpu_s_per_1000=taken["ours"].cpu_s_per_1000,
            database_cpu_s_per_1000=taken["ours"].database_cpu_s_per_1000,
            target="ratio ≥ 0.6" if form.batch_max == 1 and not form.delay_s else None,
        )


def bench_fairness(site: Site, dead: int) -> Iterator[Figure]:
    """A healthy lane beside 99 whose endpoints accept connections and never answer, and beside 99 that drain as the policy paces: from a
    contract's end to its notification's receipt."""
    deliver(site, 16)
    with Receiver() as receiver, Receiver(3600.0) as silent, daemon(site, "deliver"):
        healthy = add_lanes(site, 1, 1, receiver.url, "healthy")[0]
        hanging, draining = add_lanes(site, LANES - 1, 100, name="dead"), add_lanes(site, LANES - 1, 100, name="draining")
        baseline = asyncio.run(_ends(site, receiver, healthy, 0))
        owe(site, hanging, dead)
        point(site, hanging, silent.url)
        gated = "SELECT count(*) FROM registry.lane WHERE failures > 0"
        while run(site, gated) < len(hanging):  # each has met its first timeout
            time.sleep(0.5)
        beside_dead = asyncio.run(_ends(site, receiver, healthy, 1))
        point(site, hanging, None)
        owe(site, draining, dead)
        point(site, draining, receiver.url)
        time.sleep(ECHO_KNOWN_S)
        beside_draining = asyncio.run(_ends(site, receiver, healthy, 2))
        for what, found in ((f"{len(hanging)} dead ones", beside_dead), (f"{len(draining)} that drain", beside_draining)):
            for quantile, name in ((0.5, "median"), (0.99, "p99")):
                yield Figure(
                    what=f"a healthy lane beside {what}, owed {dead:,}, {name}",
                    value=found[int(len(found) * quantile)] * 1000,
                    unit="ms",
                    baseline=baseline[int(len(baseline) * quantile)] * 1000,
                    of="ms alone",
                )


async def _ends(site: Site, receiver: Receiver, messenger_id: int, turn: int) -> list[float]:
    """Ends 300 contracts one by one; sorted, how long each took from its commit to its receipt."""
    ends = 300
    committed: dict[str, float] = {}
    first = FIRST + 900_000_000 + turn * ends
    async with site.database.connect() as connection:
        await connection.execute(
            "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)"
            " SELECT n, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series($1::bigint, $2::bigint) AS n",
            first,
            first + ends - 1,
        )
        await connection.execute(
            "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)"
            " SELECT n, 1, $3, 'probe-' || n FROM generate_series($1::bigint, $2::bigint) AS n",
            first,
            first + ends - 1,
            messenger_id,
        )
        for msisdn in range(first, first + ends):
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", msisdn)
            committed[f"probe-{msisdn}"] = time.time()
            await asyncio.sleep(random.uniform(0.02, 0.1))
    arrivals: dict[str, float] = {}
    while len(arrivals.keys() & committed.keys()) < ends:
        await asyncio.sleep(0.2)
        arrivals = receiver.seen()["arrivals"]
    return sorted(arrivals[code] - at for code, at in committed.items())


def bench_worst_day(site: Site, contracts: int) -> Iterator[Figure]:
    """Every contract ends in one statement, each with three bindings, while queries are asked: memory, and the worst query's wait."""
    site.database.allow_ends()
    messenger = asyncio.run(site.add_messenger("asks"))
    bound = add_lanes(site, 3, 1)

    async def end() -> tuple[float, int, float, list[float]]:
        async with site.database.connect() as connection, site.database.connect() as other:
            await connection.execute(
                "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)"
                " SELECT $1::bigint + n, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series(0, $2::int - 1) AS n",
                FIRST,
                contracts,
            )
            for messenger_id in bound:
                await connection.execute(
                    "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)"
                    " SELECT $1::bigint + n, 1, $3, 'u' || n FROM generate_series(0, $2::int - 1) AS n",
                    FIRST,
                    contracts,
                    messenger_id,
                )
            await other.execute("VACUUM ANALYZE registry.contract, registry.binding")
            await other.execute("CREATE TABLE plain (a bigint, b bigint, c timestamptz, d uuid PRIMARY KEY, e text)")
            started = time.perf_counter()
            await other.execute(
                "INSERT INTO plain SELECT n, n, now(), gen_random_uuid(), 'u' || n FROM generate_series(1, $1::int) AS n", contracts
            )
            baseline = contracts / (time.perf_counter() - started)
            ending = asyncio.create_task(connection.execute("UPDATE registry.contract SET ended_at = now() WHERE ended_at IS NULL"))
            started, peak, waits = time.perf_counter(), 0, []
            pid = connection.get_server_pid()
            with daemon(site) as running:
                async with aiohttp.ClientSession(running.api, headers=messenger.headers) as http:
                    while not ending.done():
                        status = Path(f"/proc/{pid}/status").read_text()
                        peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) // 1024)
                        asked = time.perf_counter()
                        body = {"phoneNumber": f"+{FIRST + random.randrange(contracts)}"}
                        async with http.post("/v1/presence", json=body) as answer:
                            assert answer.status == 200, await answer.text()
                        waits.append(time.perf_counter() - asked)
                        await asyncio.sleep(0.02)
                await ending
            return 3 * contracts / (time.perf_counter() - started), peak, 3 * baseline, sorted(waits)

    rate, peak_mib, baseline, waits = asyncio.run(end())
    what = f"{contracts:,} ends in one statement ({peak_mib} MiB at most; queries meanwhile: p99, worst {waits[-1] * 1000:,.0f} ms)"
    p99_ms = waits[int(len(waits) * 0.99)] * 1000
    yield Figure(what=what, value=rate, unit="notifications/s", baseline=baseline, of="plain INSERT", p99_ms=p99_ms)
