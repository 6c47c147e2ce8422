"""`serve --workers 2`: one listener, one budget, one set of lanes, and what happens when a worker or the supervisor dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.web import Response
from click.testing import CliRunner

from registryd.cli import main
from registryd.daemon import worker_name
from registryd.demo import embedded
from tests.conftest import Site, TestMessenger, client, cloned, eventually, make_site, wait_for
from tests.delivery.conftest import Received, listening, looking

NUMBER = 79_160_000_001
QUERY = {"phoneNumber": f"+{NUMBER}"}
CONNECTIONS = 16
IN_FORCE_WITHIN_S = 5.0


@dataclass
class Workers:
    """A supervisor and what its workers wrote."""

    process: subprocess.Popen[bytes]
    log_path: Path

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    @property
    def api(self) -> str:
        return f"http://{self.log('started')[0]['api'][0]}"

    @property
    def operators(self) -> dict[int, str]:
        """Each instance's operator API, that of its latest process."""
        return {line["instance"]: f"http://{line['operator']}" for line in self.log("started")}

    @property
    def pids(self) -> list[int]:
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def pid(self, instance: int) -> int:
        end = f"--instance\0{instance}\0"
        return next(pid for pid in self.pids if Path(f"/proc/{pid}/cmdline").read_text().endswith(end))

    def queries(self, instance: int) -> int:
        """How many presence queries a worker has answered."""
        with urllib.request.urlopen(f"{self.operators[instance]}/metrics") as answer:
            found = re.findall(r"^registryd_queries_total\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
        return int(sum(map(float, found)))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def workers(site: Site, environment: dict[str, str] | None = None) -> Iterator[Workers]:
    """Starts `serve --workers 2` and waits until all are ready, or the end."""
    log_path = site.directory / f"workers-{secrets.token_hex(3)}.log"
    with log_path.open("wb") as log:
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "serve", "--workers", "2"]
        process = subprocess.Popen(command, stderr=log, env=os.environ | (environment or {}))
    running = Workers(process, log_path)
    try:
        wait_for(lambda: running.log("workers_ready") or process.poll() is not None, 30)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)


@pytest.fixture(scope="module")
def site(server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with cloned(server, template) as database:
        made = make_site(database, tmp_path_factory.mktemp("workers"))
        asyncio.run(made.add_contracts(NUMBER))
        yield made


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Workers]:
    with workers(site) as started:
        yield started


@asynccontextmanager
async def connected(running: Workers, messenger: TestMessenger) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """Kept connections, some to each worker."""
    async with contextlib.AsyncExitStack() as stack:
        sessions: list[aiohttp.ClientSession] = []

        async def spread() -> bool:
            sessions.extend([await stack.enter_async_context(client(running.api, messenger)) for _ in range(CONNECTIONS)])
            await eventually(lambda: all_tell(sessions, 200))  # a messenger that was just added is known
            before = await answered_by(running)
            await statuses(sessions)
            return all(one < other for one, other in zip(before, await answered_by(running), strict=True))

        await eventually(spread)
        yield sessions


async def all_tell(sessions: list[aiohttp.ClientSession], status: int) -> bool:
    return set(await statuses(sessions)) == {status}


async def statuses(sessions: list[aiohttp.ClientSession]) -> list[int]:
    """Of one query on each connection."""

    async def ask(session: aiohttp.ClientSession) -> int:
        async with session.post("/v1/presence", json=QUERY) as response:
            await response.read()
            return response.status

    return list(await asyncio.gather(*map(ask, sessions)))


async def answered_by(running: Workers) -> list[int]:
    """How many queries each worker has answered."""
    return [await asyncio.to_thread(running.queries, instance) for instance in (1, 2)]


async def accounts(sessions: list[aiohttp.ClientSession]) -> set[tuple[int, int]]:
    """The day's limit and what is used of it, as the workers at the other ends see it."""
    told = set()
    for session in sessions:
        async with session.get("/v1/account") as response:
            quota = (await response.json())["quota"]
            told.add((quota["limit"], quota["used"]))
    return told


def command(site: Site, *words: str) -> None:
    done = CliRunner().invoke(main, ["--config", str(site.path), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_daily_budget_is_one_for_all_workers(site: Site, running: Workers) -> None:
    async def run() -> None:
        messenger = await site.add_messenger("frugal", daily_quota=10_000)
        async with connected(running, messenger) as sessions:
            async with site.database.connect() as connection:
                journaled = "SELECT count(*) FROM registry.presence_query WHERE messenger_id = $1"
                spent = int(await connection.fetchval(journaled, messenger.messenger_id))
            quota = spent + 2 * len(sessions)
            await asyncio.to_thread(command, site, "messenger", "set", "frugal", "--daily-quota", str(quota))
            await eventually(lambda: agreed(sessions, (quota, spent)))
            assert await all_tell(sessions, 200)
            await eventually(lambda: agreed(sessions, (quota, spent + len(sessions))))
            assert await all_tell(sessions, 200)
            await eventually(lambda: agreed(sessions, (quota, quota)))
            # Each worker has answered a part of it, and refuses for what the other one has.
            assert await all_tell(sessions, 429)

    asyncio.run(run())


async def agreed(sessions: list[aiohttp.ClientSession], wanted: tuple[int, int]) -> bool:
    """Whether all workers say this of the budget."""
    return await accounts(sessions) == {wanted}


def test_a_revoked_key_and_a_suspended_messenger_are_refused_by_all_in_time(site: Site, running: Workers) -> None:
    async def run() -> None:
        revoked, suspended = await site.add_messenger("revoked"), await site.add_messenger("suspended")
        async with connected(running, revoked) as first, connected(running, suspended) as second:
            await asyncio.to_thread(command, site, "messenger", "revoke-key", "revoked", revoked.api_key.split("_")[1])
            await asyncio.to_thread(command, site, "messenger", "suspend", "suspended")
            await eventually(lambda: all_tell(first, 401), IN_FORCE_WITHIN_S)
            await eventually(lambda: all_tell(second, 403), IN_FORCE_WITHIN_S)

    asyncio.run(run())


def test_hanging_up_on_the_supervisor_reloads_every_worker(running: Workers) -> None:
    running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(running.log("reloaded")) == 2)


def test_every_notification_is_delivered_once_by_either_worker(site: Site, running: Workers) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            codes = [[f"{lane}-{n}" for n in range(40)] for lane in range(6)]
            for lane, of_lane in enumerate(codes):
                messenger = await site.add_messenger(f"lane-{lane}", endpoint=endpoint.url)
                await database.owe(messenger, *of_lane, first=79_161_000_000 + 100 * lane)
            await eventually(database.none_pending, 20)
            assert sorted(endpoint.codes) == sorted(code for of_lane in codes for code in of_lane)

    asyncio.run(run())


def test_hosts_of_one_hostname_have_workers_of_different_names_and_a_host_keeps_its_own(tmp_path: Path) -> None:
    address = "127.0.0.1:8081"
    for host in ("one", "other"):
        (tmp_path / host).write_text(secrets.token_hex(16) + "\n")
    names = [worker_name(address, tmp_path / host) for host in ("one", "other", "one", "none")]
    assert names[0] == names[2]
    assert len(set(names)) == 3
    assert names[3] == f"{socket.gethostname()} {address}", "a host may have none"
    assert all(name.startswith(f"{socket.gethostname()} ") and name.endswith(f" {address}") for name in names)
    assert (tmp_path / "one").read_text().strip() not in names[0]


def test_leases_are_held_under_the_worker_s_name(site: Site, running: Workers) -> None:
    released = asyncio.Event()

    async def answer(_: Received) -> Response:
        await released.wait()
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a")
            owner = await eventually(lambda: database.value("SELECT max(owner) FROM registry.lane"))
            assert owner in {worker_name(line["operator"]) for line in running.log("started")}
            released.set()

    asyncio.run(run())


def test_a_killed_worker_is_replaced_and_its_lanes_are_taken_over(site: Site, running: Workers) -> None:
    released = asyncio.Event()

    async def answer(_: Received) -> Response:
        await released.wait()
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("slow", endpoint=endpoint.url)
            codes = [f"slow-{n}" for n in range(40)]
            async with connected(running, messenger):
                pass
            await database.owe(messenger, *codes, first=79_162_000_000)
            await eventually(lambda: endpoint.received)
            ((owner,),) = await database.rows("SELECT owner FROM registry.lane WHERE messenger_id = $1", messenger.messenger_id)
            victim = next(line for line in running.log("started") if owner.endswith(line["operator"]))["instance"]
            started = len(running.log("started"))
            os.kill(running.pid(victim), signal.SIGKILL)
            for _ in range(20):
                async with client(running.api, messenger) as session:
                    assert await statuses([session]) == [200], "the other one answers"
            await eventually(lambda: len(running.log("started")) == started + 1)
            assert [(line["instance"], line["code"]) for line in running.log("worker_ended")] == [(victim, -signal.SIGKILL)]
            released.set()
            # The 45 s that a dead worker's lease has to run are over.
            await database.run("UPDATE registry.lane SET lease_until = now() WHERE owner = $1", owner)
            await eventually(database.none_pending)
            assert set(endpoint.codes) == set(codes)

    asyncio.run(run())


def test_workers_restarted_in_turn_lose_no_request(site: Site, running: Workers) -> None:
    async def run() -> None:
        told: list[int] = []
        ended = asyncio.Event()

        async def ask(session: aiohttp.ClientSession) -> None:
            while not ended.is_set():
                told.extend(await statuses([session]))

        messenger = await site.add_messenger("steady")
        async with client(running.api, messenger) as session:

            async def restart(instance: int) -> None:
                started, seen = len(running.log("started")), len(told)
                os.kill(running.pid(instance), signal.SIGTERM)
                await eventually(lambda: len(running.log("started")) > started, 30)
                await eventually(lambda: len(told) > seen + 100)

            await eventually(lambda: all_tell([session] * CONNECTIONS, 200))
            async with asyncio.TaskGroup() as asking:
                for _ in range(CONNECTIONS):
                    asking.create_task(ask(session))
                await restart(1)
                await restart(2)
                ended.set()
        assert set(told) == {200}

    asyncio.run(run())


def test_ready_is_told_once_all_workers_are(site: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(site.directory / "notify"))
        manager.settimeout(60)
        with workers(site, {"NOTIFY_SOCKET": str(site.directory / "notify")}) as started:
            assert manager.recv(4096) == b"READY=1\nSTATUS=serving with 2 workers"
            assert len(started.log("started")) == 2
            assert {line["api"][0] for line in started.log("started")} == {started.api.removeprefix("http://")}
            assert started.stop() == 0
            assert manager.recv(4096) == b"STOPPING=1"
            assert len(started.log("stopped")) == 2
            assert not started.log("worker_ended")


def test_a_killed_supervisor_leaves_no_worker(site: Site) -> None:
    with workers(site) as started:
        pids = started.pids
        assert len(pids) == 2
        started.process.kill()
        wait_for(lambda: len(started.log("stopped")) == 2, 30)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_worker_that_cannot_start_ends_all_with_its_exit_code(site: Site) -> None:
    site.write_config()
    site.path.write_text(site.path.read_text().replace("host=/", "host=/nowhere/"))
    try:
        with workers(site) as failed:
            assert failed.process.wait(60) == 4
            assert not failed.log("workers_ready")
    finally:
        site.write_config()
