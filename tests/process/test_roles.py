"""One process of a role: its start, its listener, and its end beside others that go on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import urllib.request
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from registryd.store import audit
from tests.conftest import LONG, Site, TestMessenger, daemon, eventually
from tests.delivery.conftest import listening, looking
from tests.served import handed_over
from tests.store.conftest import seal_all

NUMBER = 79_160_000_001
EVENTS = "/operator/v1/contract-events"
QUERY = {"phoneNumber": f"+{NUMBER}"}
POSTS = 20_000 if LONG else 400
"""How many requests are answered while two processes are restarted in turn."""


def test_a_schema_of_another_release_ends_the_start(site: Site) -> None:
    site.database.psql("-c", "DELETE FROM registry.schema_migration")
    for role in ("answer", "deliver", "operate"):
        with pytest.raises(AssertionError, match=r"ended with 76: .*registryd migrate"), daemon(site, role):
            pass


def test_a_listener_that_blocks_hangs_nobody(site: Site) -> None:
    """systemd makes it so in every process that shares it, each time it hands it over to one of them."""
    with socket.create_server(("127.0.0.1", 0)) as listener, handed_over(site, listener) as one, handed_over(site, listener, 2) as other:
        for _ in range(20):
            listener.setblocking(True)
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                client.settimeout(10)
                assert client.recv(100).startswith(b"HTTP/1.1 404 ")
            for process in (one, other):
                with urllib.request.urlopen(f"{process.health()}/healthz", timeout=60) as answer:
                    assert answer.status == 200


def test_two_processes_restarted_in_turn_lose_no_request_and_refuse_no_connection(site: Site) -> None:
    """Keep-alive connections go on, and new ones come all along, also while a process starts."""

    async def run(listener: socket.socket, messenger: TestMessenger, stack: contextlib.ExitStack) -> tuple[int, int, list[str]]:
        kept, fresh, lost, ended = 0, 0, list[str](), asyncio.Event()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/presence"

        async def ask(session: aiohttp.ClientSession) -> bool:
            try:
                async with session.post(url, json=QUERY) as response:
                    body = await response.json()
            except aiohttp.ClientError as error:
                lost.append(repr(error))
                return False
            if response.status != 200 or body["present"] is not True:
                lost.append(str(body))
            return response.status == 200

        async def keep(session: aiohttp.ClientSession) -> None:
            nonlocal kept
            while not ended.is_set():
                kept += await ask(session)

        async def come() -> None:
            nonlocal fresh
            while not ended.is_set():
                async with aiohttp.ClientSession(headers=messenger.headers) as session:
                    fresh += await ask(session)

        async def more(count: int) -> None:
            seen = kept
            await eventually(lambda: kept >= seen + count)

        running = {n: await asyncio.to_thread(stack.enter_context, handed_over(site, listener, n)) for n in (1, 2)}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=messenger.headers) as session:
            tasks = [asyncio.create_task(work) for work in (*(keep(session) for _ in range(16)), *(come() for _ in range(2)))]
            while kept < POSTS:
                for instance in (1, 2):
                    await more(min(500, POSTS // 4))
                    assert await asyncio.to_thread(running[instance].stop) == 0
                    running[instance] = await asyncio.to_thread(stack.enter_context, handed_over(site, listener, instance))
            ended.set()
            await asyncio.gather(*tasks)
        return kept, fresh, lost

    async def prepare() -> TestMessenger:
        await site.add_contracts(NUMBER)
        return await site.add_messenger()

    messenger = asyncio.run(prepare())
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, contextlib.ExitStack() as stack:
        kept, fresh, lost = asyncio.run(run(listener, messenger, stack))
    assert lost == []
    assert kept >= POSTS
    assert fresh > 50
    sys.stdout.write(f"\nrolled: {kept} requests on kept connections and {fresh} on new ones, none failed\n")


@pytest.mark.parametrize("killed", ["answer", "deliver", "operate"])
def test_a_killed_process_loses_nothing_and_the_other_roles_go_on(site: Site, killed: str) -> None:
    contracts = [NUMBER + n for n in range(60)]

    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            await site.add_contracts(*contracts)
            messenger = await site.add_messenger(endpoint=endpoint.url)
            with daemon(site, "answer", "deliver", "operate") as running, contextlib.ExitStack() as again:
                at = {"answer": running, "operate": running}
                ended: list[int] = []

                async def work(session: aiohttp.ClientSession, number: int) -> None:
                    """Binds the number, and then ends its contract; as a client would, again until it was answered."""
                    bound = {"phoneNumber": f"+{number}", "identificationCode": f"code-{number}"}
                    while await post(session, f"{at['answer'].api}/v1/bindings", bound, messenger.headers) not in (200, 201):
                        await asyncio.sleep(0.05)
                    events = {"events": [end_of(number)]}
                    while await post(session, f"{at['operate'].operator}{EVENTS}", events, site.operator_headers) != 200:
                        await asyncio.sleep(0.05)
                    ended.append(number)

                async with aiohttp.ClientSession() as session:
                    tasks = [asyncio.create_task(work(session, number)) for number in contracts]
                    await eventually(lambda: len(ended) > 5)
                    running.processes[killed].kill()
                    running.processes[killed].wait()
                    others = [role for role in running.processes if role != killed]
                    assert all(running.processes[role].poll() is None for role in others)
                    at[killed] = await asyncio.to_thread(again.enter_context, daemon(site, killed))
                    await asyncio.gather(*tasks)
                await eventually(database.none_pending)
                assert sorted(set(endpoint.codes)) == sorted(f"code-{number}" for number in contracts)
                # Every page is in its window's seal, and every answer is counted once.
                await eventually(lambda: sealed_and_counted(site))
                assert (await audit.verify(site.database.dsn(), None, {})).findings == []

    asyncio.run(run())


async def sealed_and_counted(site: Site) -> bool:
    """Seals what is left, where no operate process is at it, and tells whether the figures are those of all answers."""
    async with site.database.connect() as connection:
        await seal_all(connection, datetime.now(UTC) + timedelta(minutes=2))
        counted = await connection.fetchval("SELECT sum(queries) FROM registry.presence_day")
        return bool(counted == await connection.fetchval("SELECT count(*) FROM registry.presence_query"))


def end_of(number: int) -> dict[str, str]:
    return {"eventId": f"e{number}", "type": "terminated", "phoneNumber": f"+{number}", "occurredAt": "2026-01-02T03:04:05Z"}


async def post(session: aiohttp.ClientSession, url: str, content: object, headers: dict[str, str]) -> int:
    """The answer's status; 0 where there was none."""
    try:
        async with session.post(url, json=content, headers=headers) as response:
            await response.read()
            return response.status
    except aiohttp.ClientError:
        return 0
