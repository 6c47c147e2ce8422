"""PostgreSQL crashes under the daemon: nothing is lost, receipts wait for it, and delivery resumes."""

from __future__ import annotations

import asyncio
import functools
import itertools
import signal
from collections.abc import Iterator

import pytest
from aiohttp.web import Response

from registryd.delivery.timing import Timing
from registryd.demo import embedded
from tests.conftest import PATIENCE_S, Daemon, Site, TestDatabase, daemon, eventually, prepare_database
from tests.delivery.burst import Inbox, calls, send
from tests.delivery.conftest import Received, answer_after, delivering, listening, looking
from tests.servers import private_server


@pytest.fixture
def own_server() -> Iterator[embedded.Server]:
    """A durable PostgreSQL that may crash."""
    with private_server(durable=True) as running:
        yield running


@pytest.fixture
def database(own_server: embedded.Server) -> TestDatabase:
    """In place of a clone on the shared server: `site` stands on it."""
    asyncio.run(prepare_database(own_server, "crash"))
    return TestDatabase(own_server, "crash")


def test_receipt_waits_for_the_database_also_after_sigterm(site: Site, own_server: embedded.Server) -> None:
    hold, answered = asyncio.Event(), asyncio.Event()

    async def answer(_: Received) -> Response:
        await hold.wait()
        asyncio.get_running_loop().call_soon(answered.set)
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint:
            async with looking(site.database) as database:
                messenger = await site.add_messenger(endpoint=endpoint.url)
                await database.owe(messenger, "a")
            with daemon(site, "deliver") as running:
                await eventually(lambda: endpoint.received)
                own_server.kill()
                running.process.send_signal(signal.SIGTERM)
                await eventually(lambda: any(line["event"] == "stopping" for line in running.log()))
                hold.set()
                await answered.wait()
                await asyncio.to_thread(own_server.start)
                assert await asyncio.to_thread(running.process.wait, 60) == 0
            async with looking(site.database) as database:
                assert await database.delivered() == 1
                assert await database.value("SELECT owner IS NULL FROM registry.lane")
            assert len(endpoint.received) == 1

    asyncio.run(run())


def test_stop_does_not_wait_for_ever_for_a_database_that_stays_away(site: Site, own_server: embedded.Server) -> None:
    hold = asyncio.Event()

    async def run() -> None:
        async with listening(answer_after(hold)) as endpoint:
            async with looking(site.database) as database:
                messenger = await site.add_messenger(endpoint=endpoint.url)
                await database.owe(messenger, *(f"c{n}" for n in range(3)))
            async with delivering(site, timing=Timing(stop_patience_s=1.0)) as dispatcher:
                await eventually(lambda: len(endpoint.received) == 3)
                own_server.kill()
                hold.set()
                await asyncio.wait_for(dispatcher.stop(), PATIENCE_S)
                assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("lane ")]
            await asyncio.to_thread(own_server.start)
            async with looking(site.database) as database:
                assert await database.pending() == 3, "still owed: at least once"
                await database.run("UPDATE registry.lane SET lease_until = now()")
                async with delivering(site, owner="next"):
                    await eventually(database.none_pending)

    asyncio.run(run())


def test_postgresql_crashing_in_a_burst_loses_nothing_and_delivery_resumes(site: Site, own_server: embedded.Server) -> None:
    inbox = Inbox(1)

    async def billing(running: Daemon) -> None:
        for call in calls():
            while await send(site, running.operator, call) is None:
                await asyncio.sleep(0.05)

    def arrived() -> int:
        return sum(len(received.ids) for received in itertools.chain(*inbox.received.values()))

    def at_least(count: int) -> bool:
        return arrived() >= count

    async def run() -> None:
        async with looking(site.database) as database, inbox.open(site, database):
            with daemon(site, "operate", "deliver") as running:
                sending = asyncio.create_task(billing(running))
                for share in (1000, 2500):
                    await eventually(functools.partial(at_least, share))
                    own_server.kill()
                    await asyncio.to_thread(own_server.start)
                    await eventually(functools.partial(at_least, arrived() + 1))
                await sending
                async with looking(site.database) as reopened:
                    await eventually(reopened.none_pending)
                    await inbox.assert_whole(reopened)
                assert running.stop() == 0

    asyncio.run(run())
