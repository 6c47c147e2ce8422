"""A healthy messenger's notices and queries beside a hundred bad endpoints at once, and beside a transaction that is never closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp

from registryd.demo import embedded
from tests.conftest import Site, TestDatabase, TestMessenger, eventually, make_site, prepare_database
from tests.delivery.conftest import Endpoint, Lookup, free_port, listening, looking
from tests.faults.database import NAME
from tests.faults.figures import Figure
from tests.served import Served, serving

SECONDS = 10.0
PER_S = 10
FIRST = 79_160_000_000
SETTLED = 200_000
OWED_EACH = 50
OWE = (
    "INSERT INTO registry.notification (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, identification_code)"
    " SELECT ($1::int[])[1 + n % cardinality($1::int[])], 1, d.at, registry.id_at(d.at), 79260000000 + n, d.at - interval '1 day', 'o' || n"
    "   FROM generate_series(0, $2::int - 1) AS n,"
    "        LATERAL (SELECT date_trunc('milliseconds', now()) + interval '24 hours' + n % 1000 * interval '1 ms' AS at) AS d"
)
SETTLE = (
    "SELECT registry.settle_delivered($1, (SELECT array_agg(notification_id) FROM registry.notification WHERE messenger_id = $1), 'push')"
)


class Healthy(NamedTuple):
    """A messenger whose endpoint works, in a registry of its own."""

    site: Site
    database: Lookup
    messenger: TestMessenger
    endpoint: Endpoint
    served: Served


@asynccontextmanager
async def healthy(place: Path) -> AsyncIterator[Healthy]:
    with embedded.Server(embedded.find_binaries(), place / "server", options={"shared_buffers": "512MB"}) as server:
        await prepare_database(server, NAME)
        site = make_site(TestDatabase(server, NAME), place / "site")
        site.write_config(log='level = "info"')
        await site.slow_nobody()
        site.database.allow_ends()
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("healthy", endpoint=endpoint.url)
            with serving(site, "--answer", "1", "--deliver", "2") as served:
                yield Healthy(site, database, messenger, endpoint, served)


async def p99_s(at: Healthy, turn: int) -> tuple[float, float]:
    """Of ends until their receipt, and of queries, over ten seconds."""
    ended: dict[str, float] = {}
    asked: list[float] = []
    async with aiohttp.ClientSession(at.served.api, headers=at.messenger.headers) as session:
        for number in range(int(SECONDS * PER_S)):
            began = time.time()
            code = f"t{turn}n{number}"
            await at.database.owe(at.messenger, code, first=FIRST + turn * 10_000 + number)
            ended[code] = time.time()
            for _ in range(5):
                before = time.monotonic()
                async with session.post("/v1/presence", json={"phoneNumber": f"+{FIRST + number}"}) as response:
                    assert response.status == 200, response.status
                asked.append(time.monotonic() - before)
            await asyncio.sleep(max(0.0, began + 1 / PER_S - time.time()))
    await eventually(lambda: set(ended) <= set(at.endpoint.codes))
    received = {code: push.at for push in at.endpoint.received for code in push.codes}
    return _p99([received[code] - ended[code] for code in ended]), _p99(asked)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def compared(alone: tuple[float, float], beside: tuple[float, float]) -> list[Figure]:
    return [
        Figure("p99 from an end to its receipt, s", beside[0], 1.0),
        Figure("the same without, s", alone[0]),
        Figure("p99 of a query, ms", beside[1] * 1000),
        Figure("the same without, ms", alone[1] * 1000),
    ]


async def open_snapshot(place: Path) -> list[Figure]:
    """A transaction stays open while 200,000 notices are settled: as many as in an hour, in a minute."""
    async with healthy(place) as at, looking(at.site.database) as reader:
        alone = await p99_s(at, 1)
        async with reader.connection.transaction(isolation="repeatable_read"):
            await reader.value("SELECT count(*) FROM registry.notification")
            other = await at.site.add_messenger("other")  # without an endpoint it is pushed nothing
            await at.database.run(OWE, [other.messenger_id], SETTLED)
            await at.database.run(SETTLE, other.messenger_id)
            return compared(alone, await p99_s(at, 2))


async def bad_endpoints(place: Path) -> list[Figure]:
    """A hundred endpoints fail at once: they refuse, hang, answer 500, garbage, or a header without an end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            kind = (await reader.readuntil(b"\r\n")).split(b" ")[1]
            if kind == b"/hang":
                await asyncio.sleep(3600)
            if kind == b"/drip":
                writer.write(b"HTTP/1.1 204 No Content\r\nX-Slow: ")
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.5)
            writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n" if kind == b"/500" else b"\0\1\2 neither\r\n\r\n")
        writer.close()

    async with healthy(place) as at:
        alone = await p99_s(at, 1)
        bad = await asyncio.start_server(answer, "127.0.0.1", 0)
        port, closed = bad.sockets[0].getsockname()[1], free_port()
        urls = [f"http://127.0.0.1:{port}/{kind}" for kind in ("hang", "drip", "500", "garbage")] + [f"http://127.0.0.1:{closed}/"]
        ids = [(await at.site.add_messenger(f"bad{n}", endpoint=urls[n % len(urls)])).messenger_id for n in range(100)]
        await at.database.run(OWE, ids, OWED_EACH * len(ids))
        beside = await p99_s(at, 2)
        left = await at.database.value("SELECT count(*) FROM registry.notification WHERE messenger_id = ANY ($1)", ids)
        bad.close()
        return [*compared(alone, beside), Figure("notices lost", OWED_EACH * len(ids) - left, 0)]
