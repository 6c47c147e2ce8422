"""A history of sixteen clients over HTTP, checked for every number: 0 anomalies.

    python -m tests.history [--operations N] [--seed N]

`registryd serve` with two processes that answer and two that deliver. Two messengers are pushed to, and their endpoints fail now and then;
a third one pulls. Queries bring fresh codes (60 %) or none (10 %), billing ends contracts (15 %) and begins the next ones (15 %).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from registryd.demo import embedded
from tests.bench.measure import bench_site
from tests.conftest import Inbox, Site, TestDatabase, eventually, receiving, rewrite_policy
from tests.history.audit import Notice, Row, faults
from tests.history.checker import Bound, Operation, State, find_anomaly
from tests.history.load import Addresses, Clients, operator_keys, pushed
from tests.served import serving

NUMBERS = [79_160_000_001 + i for i in range(50)]
ABSENT = State(False, 0, 0.0, frozenset())


async def run(site: Site, count: int, seed: int, *, is_faulty: bool) -> tuple[Clients, list[str]]:
    """Starts the service, runs the clients and judges. `is_faulty`: endpoints fail now and then. Returns the clients and what is wrong."""
    async with site.database.connect() as connection:
        await rewrite_policy(connection, "alarm_queries_per_minute = 2147483647, ends_max = 1000000")
    one, many, pulls = [await site.add_messenger(name) for name in ("one", "many", "pulls")]
    keys = await operator_keys(site)
    async with (
        receiving(one.secret, fail_every=97 if is_faulty else 0) as (at_one, inbox_one),
        receiving(many.secret, drop_every=89 if is_faulty else 0) as (at_many, inbox_many),
        site.database.connect() as connection,
    ):
        for messenger, url, batch_max in ((one, at_one.url, 1), (many, at_many.url, 10)):
            change = "UPDATE registry.messenger SET endpoint_url = $2, batch_max = $3 WHERE messenger_id = $1"
            await connection.execute(change, messenger.messenger_id, url, batch_max)
        with serving(site, "--answer", "2", "--deliver", "2") as served:
            clients = Clients(Addresses(served.api, served.base("operator")), (one, many, pulls), NUMBERS, count, seed)
            over = asyncio.Event()
            pulling = asyncio.create_task(clients.pull(pulls, over))
            await clients.run(keys)
            await eventually(lambda: is_all_delivered(site.database, [one.messenger_id, many.messenger_id]), timeout=600)
            over.set()
            await pulling
            asked = [served.queries(name) for name in ("answer@1", "answer@2")]
            assert all(asked), f"one process answered all: {asked}"
        received = {one.messenger_id: inbox_one, many.messenger_id: inbox_many}
        return clients, await judge(site.database, clients, received)


async def is_all_delivered(database: TestDatabase, messenger_ids: list[int]) -> bool:
    async with database.connect() as connection:
        return not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM registry.notification WHERE messenger_id = ANY ($1))", messenger_ids
        )


async def judge(database: TestDatabase, clients: Clients, inboxes: dict[int, Inbox]) -> list[str]:
    async with database.connect() as connection:
        rows = [
            Row(*record)
            for record in await connection.fetch(
                "SELECT msisdn, generation, messenger_id, identification_code, end_reason::text FROM registry.binding"
            )
        ]
        told = await connection.fetch(
            "SELECT notification_id::text, messenger_id, generation, identification_code, msisdn FROM registry.notification_delivered "
            "UNION ALL SELECT notification_id::text, messenger_id, generation, identification_code, msisdn FROM registry.notification"
        )
        latest = await connection.fetch(
            "SELECT DISTINCT ON (msisdn) msisdn, generation, ended_at IS NULL AS is_live FROM registry.contract "
            "ORDER BY msisdn, generation DESC"
        )
    notices = [Notice(*record[:4]) for record in (tuple(row) for row in told)]
    received = [notice for messenger_id, inbox in inboxes.items() for notice in pushed(messenger_id, inbox.receipts)]
    found = faults(clients.operations, rows, notices, received + clients.pulled)
    found += [f"a push that is not authentic: {r.problem}" for inbox in inboxes.values() for r in inbox.receipts if not r.verified]

    notified: defaultdict[int, dict[int, set[tuple[int, str]]]] = defaultdict(lambda: defaultdict(set))
    for record in told:
        notified[record["msisdn"]][record["generation"]].add((record["messenger_id"], record["identification_code"]))
    live: defaultdict[int, set[tuple[int, str]]] = defaultdict(set)
    for row in rows:
        if row.end_reason is None:
            live[row.number].add((row.messenger, row.code))
    ends = {record["msisdn"]: (record["is_live"], record["generation"]) for record in latest}
    of_number: defaultdict[int, list[Operation]] = defaultdict(list)
    for number, op in clients.operations:
        of_number[number].append(op)
    now = time.monotonic()
    for number, operations in of_number.items():
        seen = (*ends.get(number, (False, 0)), frozenset(live[number]))
        looked = Operation("look", now, now, "", seen=seen)
        frozen: dict[int, Bound] = {generation: frozenset(bound) for generation, bound in notified[number].items()}
        anomaly = find_anomaly([*operations, looked], frozen, ABSENT)
        if anomaly is not None:
            found.append(f"no order explains {number} after {anomaly.explained} of {len(operations)} operations: {anomaly}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.history")
    parser.add_argument("--operations", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as directory,
        embedded.Server(embedded.find_binaries(), durable=False) as server,
        bench_site(server, Path(directory)) as site,
    ):
        clients, found = asyncio.run(run(site, options.operations, options.seed, is_faulty=True))
    for what, count in sorted(clients.told.items()):
        sys.stdout.write(f"{count:>10,} {what}\n")
    sys.stdout.write("".join(f"{fault}\n" for fault in found[:20]))
    say = f"{len(clients.operations):,} operations, seed {options.seed}, {time.monotonic() - began:.0f} s: {len(found)} anomalies\n"
    sys.stdout.write(say)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
