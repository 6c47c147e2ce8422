"""What one messenger can do to the others: their p99 while it does its worst, beside idle.

Twenty messengers ask 400 single queries a second with codes of two processes that answer. Beside them one messenger, or somebody without
a key, sends what it likes as fast as it is answered, over connections that end in both processes. The client takes processor time too, so
one that asks for absent numbers is measured as well.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from statistics import median

from tests.bench.load import Load, command, run_load
from tests.bench.measure import Figure
from tests.bench.queries import FIRST, STEP, ask_numbers, load_contracts
from tests.conftest import Site, wait_for
from tests.served import Served, serving

SECONDS = 4.0
ROUNDS = 3
ASKING = 20
RATE = 400.0
CONNECTIONS = 16
CROSSED = 8
"""So many numbers, and twice as many codes, each asked for each number: half of the codes are always free to move."""
OWED = 5_000

Requests = Sequence[tuple[str, str]]


def query(number: int, code: str) -> str:
    return json.dumps({"phoneNumber": f"+{number}", "identificationCode": code})


def hostile() -> dict[str, Requests]:
    """What one messenger sends, by its name."""
    numbers = [FIRST + n * STEP for n in range(1_000)]
    fresh = [f"code-{n}" for n in range(20_000)]
    crossed = list(product(numbers[:CROSSED], [f"crossed-{n}" for n in range(2 * CROSSED)]))
    batch = [{"phoneNumber": f"+{number}", "identificationCode": code} for number, code in crossed]
    return {
        "queries for absent numbers": [("POST /v1/presence", json.dumps({"phoneNumber": f"+{number + 1}"})) for number in numbers],
        "codes crossed over numbers": [("POST /v1/presence", query(number, code)) for number, code in crossed],
        "the same in batches": [("POST /v1/presence/batch", json.dumps({"queries": batch[n:] + batch[:n]})) for n in range(len(batch))],
        "replacements of one number": [("POST /v1/presence", query(numbers[0], code)) for code in fresh],
        "POST /v1/bindings": [("POST /v1/bindings", query(numbers[n % 1_000], code)) for n, code in enumerate(fresh)],
        "POST /v1/bindings/remove": [("POST /v1/bindings/remove", json.dumps({"identificationCode": code})) for code in fresh[:1_000]],
        "GET /v1/account": [("GET /v1/account", "")],
        "GET /v1/notifications": [("GET /v1/notifications?limit=1000", "")],
        "bodies that are no JSON": [("POST /v1/presence", "{" * 10_000)],
    }


@contextmanager
def flooding(served: Served, key: str, requests: Requests) -> Iterator[None]:
    """Sends requests for as long as one measurement takes."""
    words, given = command(served.api, key, [FIRST], connections=CONNECTIONS, seconds=SECONDS + 1.5, requests=requests)
    flood = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert flood.stdin is not None
    before = counted(served)
    flood.stdin.write(given)
    flood.stdin.close()
    wait_for(lambda: counted(served) > before)
    try:
        yield
    finally:
        flood.kill()
        flood.wait()


def counted(served: Served) -> int:
    """How many requests both processes have answered."""
    text = "".join(served.get(served.started["health"][name], "/metrics") for name in ("answer@1", "answer@2"))
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in text.splitlines() if line.startswith("registryd_requests_total{"))


async def owe(site: Site, messenger_id: int) -> None:
    """A messenger that pulls is owed something."""
    async with site.database.connect() as connection:
        await connection.execute(
            "INSERT INTO registry.notification "
            "(messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, identification_code) "
            "SELECT $1, 1, d.at, registry.id_at(d.at), $2::bigint + n, now(), 'owed-' || n "
            "FROM generate_series(1, $3::int) AS n, LATERAL (SELECT date_trunc('milliseconds', now() + interval '1 day') AS at) AS d",
            messenger_id,
            FIRST,
            OWED,
        )


def bench_neighbours(site: Site, contracts: int) -> Iterator[Figure]:
    """p99 of the others' queries while one messenger does its worst."""
    load_contracts(site, contracts)
    site.database.allow_ends()
    keys = [asyncio.run(site.add_messenger(f"asking-{n}")).api_key for n in range(ASKING)]
    flooder = asyncio.run(site.add_messenger("flooding"))
    asyncio.run(owe(site, flooder.messenger_id))
    asyncio.run(site.slow_nobody())
    numbers = [number for number in ask_numbers(contracts) if (number - FIRST) % STEP == 0][:50]
    waits: dict[str, list[float]] = {}
    with serving(site, "--answer", "2") as served:
        ask = partial(run_load, served.api, keys, numbers, connections=32, seconds=SECONDS, rate=RATE, with_codes=True)

        def note(name: str, load: Callable[[], Load]) -> None:
            waits.setdefault(name, []).append(load().p99_ms)

        for _ in range(2):  # the first queries bind, the later ones find their codes bound
            ask()
        contenders = {name: (flooder.api_key, requests) for name, requests in hostile().items()}
        contenders["keys that nobody has"] = ("rk_abcdefgh_" + "x" * 40, [("GET /v1/account", "")])
        for _ in range(ROUNDS):
            note("idle", ask)
            for name, (key, requests) in contenders.items():
                with flooding(served, key, requests):
                    note(name, ask)
    idle = median(waits.pop("idle"))
    for name, taken in waits.items():
        yield Figure(
            what=f"p99 of the others' queries beside {name}",
            value=median(taken),
            unit="ms",
            baseline=idle,
            of="ms idle",
            target="ratio ≤ 3",
        )
