"""The database goes away, freezes and crashes under load: 503 meanwhile, never a guess, and what was answered is in the journal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from registryd.demo import embedded
from registryd.domain.identifiers import Msisdn, msisdn_digest
from tests.conftest import Daemon, Site, TestDatabase, TestMessenger, client, daemon, eventually, make_site, prepare_database
from tests.servers import private_server

PRESENT = range(79_160_000_000, 79_160_000_050)
ABSENT = range(79_160_000_050, 79_160_000_100)
NAME = "away"


class Away(NamedTuple):
    """A registry on a PostgreSQL of its own, which alone may be stopped."""

    server: embedded.Server
    site: Site
    daemon: Daemon
    messenger: TestMessenger

    async def journal(self, query_ids: list[str]) -> dict[str, tuple[bytes, bool]]:
        async with self.site.database.connect() as connection:
            rows = await connection.fetch("SELECT q.* FROM unnest($1::uuid[]) AS id, registry.find_query(id) AS q", query_ids)
        return {str(row["query_id"]): (row["msisdn_digest"], row["present"]) for row in rows}


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(private_server(durable=True))
        asyncio.run(prepare_database(server, NAME))
        site = make_site(TestDatabase(server, NAME), tmp_path_factory.mktemp("away"))
        site.write_config(database="connect_timeout_s = 1.0\ncommand_timeout_s = 1.0")
        messenger = asyncio.run(site.add_messenger())
        asyncio.run(site.add_contracts(*PRESENT))
        asyncio.run(site.slow_nobody())
        yield Away(server, site, stack.enter_context(daemon(site, "answer", "operate")), messenger)


class Told(NamedTuple):
    number: int
    status: int
    body: Any
    retry_after: str | None
    at: float


@asynccontextmanager
async def load(away: Away, clients: int = 8) -> AsyncIterator[list[Told]]:
    """Asks without a pause, in turn about present and absent numbers, with codes and without, and collects what is told."""
    told: list[Told] = []
    stop = asyncio.Event()

    async def ask(session: aiohttp.ClientSession, place: int) -> None:
        turn = place
        while not stop.is_set():
            number = (PRESENT if turn % 2 else ABSENT)[turn * 7 % 50]
            body = {"phoneNumber": f"+{number}"} | ({"identificationCode": f"u{number}"} if turn % 3 else {})
            async with session.post("/v1/presence", json=body) as response:
                told.append(Told(number, response.status, await response.json(), response.headers.get("Retry-After"), time.monotonic()))
            turn += clients + 1

    async with client(away.daemon.api, away.messenger) as session:
        tasks = [asyncio.create_task(ask(session, place)) for place in range(clients)]
        try:
            yield told
        finally:
            stop.set()
            await asyncio.gather(*tasks)


def assert_never_guessed(told: list[Told]) -> None:
    for answer in told:
        if answer.status == 200:
            assert answer.body["present"] is (answer.number in PRESENT)
        else:
            assert (answer.status, answer.body["code"]) == (503, "UNAVAILABLE")
            assert int(answer.retry_after or 0) >= 1
            assert "present" not in answer.body


async def more(told: list[Told], status: int, count: int = 20) -> None:
    """Waits until `count` more such answers came."""
    seen = len(told)
    await eventually(lambda: sum(answer.status == status for answer in told[seen:]) >= count)


async def assert_journaled(away: Away, told: list[Told]) -> None:
    answered = {answer.body["queryId"]: answer for answer in told if answer.status == 200}
    assert len(answered) == len([answer for answer in told if answer.status == 200]), "no id is told twice"
    key = await away.site.digest_key()
    found = await away.journal(sorted(answered))
    assert found == {query_id: (msisdn_digest(key, Msisdn(answer.number)), answer.body["present"]) for query_id, answer in answered.items()}


def test_an_absent_database_is_never_an_absent_number(away: Away) -> None:
    async def run() -> None:
        async with load(away) as told:
            await more(told, 200)
            await asyncio.to_thread(stop_database, away)
            await more(told, 503, 100)
            await every_route_is_unavailable(away)
            await eventually(lambda: logged(away, "database_away"))
            await asyncio.to_thread(away.server.start)
            await more(told, 200)
            await eventually(lambda: len(logged(away, "database_back")) == len(away.daemon.processes))
        assert_never_guessed(told)
        await assert_journaled(away, told)

    asyncio.run(run())
    assert not logged(away, "request_failed")
    told = Counter(line["event"] for line in away.daemon.log())
    assert (told["database_away"], told["database_back"]) == (2, 2), "each process tells it once, however many met it"
    assert told["request_refused"] <= 6, "one line for each reason and API"


def logged(away: Away, event: str) -> list[dict[str, Any]]:
    return [line for line in away.daemon.log() if line["event"] == event]


def stop_database(away: Away) -> None:
    """Stops it in order; `stop` keeps a directory that was given."""
    away.server.stop()
    assert away.server.pid is None


async def every_route_is_unavailable(away: Away) -> None:
    number = {"phoneNumber": f"+{PRESENT[0]}"}
    code = {"identificationCode": "a"}
    async with client(away.daemon.api, away.messenger) as session:
        for method, path, body in (
            ("POST", "/v1/presence", number | code),
            ("POST", "/v1/presence/batch", {"queries": [number, number]}),
            ("POST", "/v1/bindings", number | code),
            ("POST", "/v1/bindings/retrieve", code),
            ("POST", "/v1/bindings/remove", code),
            ("GET", "/v1/notifications", None),
            ("POST", "/v1/notifications/acknowledge", {"notificationIds": ["00000000-0000-0000-0000-000000000000"]}),
            ("GET", "/v1/account", None),
        ):
            async with session.request(method, path, json=body) as response:
                assert response.status == 503, path
                assert int(response.headers["Retry-After"]) >= 1
                assert response.content_type == "application/problem+json"
                assert (await response.json(content_type=None))["code"] == "UNAVAILABLE"
        async with session.post("/v1/presence", json=number, headers={"Authorization": "Bearer x"}) as response:
            assert response.status == 401
    for role in away.daemon.processes:
        async with client(away.daemon.health(role)) as session:
            for path, status in (("/healthz", 200), ("/metrics", 200), ("/", 200), ("/readyz", 503)):
                await eventually(lambda session=session, path=path, status=status: answers(session, path, status))  # type: ignore[misc]
    async with client(away.daemon.operator) as session:
        event = {"eventId": "e1", "type": "terminated", "phoneNumber": f"+{PRESENT[0]}", "occurredAt": "2026-01-01T00:00:00Z"}
        async with session.post("/operator/v1/contract-events", json={"events": [event]}, headers=away.site.operator_headers) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1


async def answers(session: aiohttp.ClientSession, path: str, status: int) -> bool:
    async with session.get(path) as response:
        return response.status == status


def test_a_process_that_starts_meanwhile_waits_and_answers_503(away: Away) -> None:
    """It neither exits nor lets clients hang; /readyz says why, and SIGTERM ends the wait."""

    async def run() -> None:
        stop_database(away)
        try:
            with (
                daemon(away.site, "answer", "operate", until="database_away") as waiting,
                daemon(away.site, "deliver", until="database_away") as stopped,
            ):
                assert await asyncio.to_thread(stopped.stop) == 0
                async with client(waiting.api, away.messenger) as session:
                    async with session.post("/v1/presence", json={"phoneNumber": f"+{PRESENT[0]}"}) as response:
                        assert (response.status, response.headers["Retry-After"]) == (503, "1")
                        assert (await response.json(content_type=None))["code"] == "UNAVAILABLE"
                    async with client(waiting.operator) as operator:
                        assert await answers(operator, "/anything", 503)
                    said = len(waiting.log())
                    for role in waiting.processes:
                        async with client(waiting.health(role)) as health:
                            for _ in range(20):
                                async with health.get("/readyz") as response:
                                    assert response.status == 503
                                    told = {"ready": False, "reason": "waiting for the database: the database is away"}
                                    assert await response.json() == told
                    assert len(waiting.log()) == said, "a probe is no event"
                    await asyncio.to_thread(away.server.start)
                    await eventually(lambda: asks(session, 200))
                    async with client(waiting.operator) as operator:
                        await eventually(lambda: answers(operator, "/anything", 404))
                assert await asyncio.to_thread(waiting.stop) == 0
        finally:
            if away.server.pid is None:
                away.server.start()

    asyncio.run(run())


async def asks(session: aiohttp.ClientSession, status: int) -> bool:
    async with session.post("/v1/presence", json={"phoneNumber": f"+{PRESENT[0]}"}) as response:
        return response.status == status


def test_every_answer_outlives_a_crash_of_the_database(away: Away) -> None:
    async def run() -> None:
        async with load(away) as told:
            for _ in range(2):
                await more(told, 200, 200)
                await asyncio.to_thread(away.server.kill)
                await more(told, 503)
                await asyncio.to_thread(away.server.start)
                await more(told, 200)
        assert_never_guessed(told)
        await assert_journaled(away, told)

    asyncio.run(run())


def test_a_frozen_database_is_given_up(away: Away) -> None:
    """As a network that has died in silence: nobody says that the database is gone."""

    async def run() -> None:
        async with load(away) as told:
            await more(told, 200)
            with frozen(away.server):
                await more(told, 503)
                async with client(away.daemon.health()) as session:
                    assert await answers(session, "/healthz", 200)
            await more(told, 200)
        assert_never_guessed(told)
        await assert_journaled(away, told)

    asyncio.run(run())


@contextlib.contextmanager
def frozen(server: embedded.Server) -> Iterator[None]:
    """The server's processes stand still."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    pids = [server.pid, *map(int, children)]
    try:
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
