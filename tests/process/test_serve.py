"""`serve`: every role under one supervisor, what its processes share, and what happens when one of them or the supervisor dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp.web import Response
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from registryd.cli import main
from registryd.cli.running import Exit
from registryd.demo import embedded
from registryd.roles.heartbeat import host_name
from registryd.roles.supervisor import MENDED_BY_PERSONS, MENDED_PAUSE_S, RESTART_PAUSE_S
from tests.conftest import Site, TestMessenger, client, cloned, eventually, make_site, runs, wait_for
from tests.delivery.conftest import Lookup, Received, listening, looking
from tests.served import Served, serving

NUMBER = 79_160_000_001
QUERY = {"phoneNumber": f"+{NUMBER}"}
CONNECTIONS = 16


@pytest.fixture(scope="module")
def site(server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with cloned(server, template) as database:
        made = make_site(database, tmp_path_factory.mktemp("serve"))
        asyncio.run(made.add_contracts(NUMBER))
        yield made


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Served]:
    with serving(site, "--answer", "2", "--deliver", "2") as started:
        yield started


@asynccontextmanager
async def connected(running: Served, messenger: TestMessenger) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """Kept connections, some to each process that answers."""
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


async def answered_by(running: Served) -> list[int]:
    """How many queries each process has answered."""
    return [await asyncio.to_thread(running.queries, name) for name in ("answer@1", "answer@2")]


def command(site: Site, *words: str) -> None:
    done = CliRunner().invoke(main, ["--config", str(site.path), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_daily_budget_is_one_for_all_processes(site: Site, running: Served) -> None:
    """Each process answers a part of it, and refuses for what the other one has answered."""

    async def run() -> None:
        messenger = await site.add_messenger("frugal", daily_quota=10_000)
        async with connected(running, messenger) as sessions, looking(site.database) as database:
            spent = await database.value("SELECT count(*) FROM registry.presence_query WHERE messenger_id = $1", messenger.messenger_id)
            await eventually(lambda: used(database, messenger, spent))
            quota = spent + 2 * len(sessions)
            await asyncio.to_thread(command, site, "messenger", "set", "frugal", "--daily-quota", str(quota))
            assert await all_tell(sessions, 200)
            await eventually(lambda: used(database, messenger, quota - len(sessions)))
            assert await all_tell(sessions, 200)
            await eventually(lambda: all_tell(sessions, 429))
            assert (
                await database.value("SELECT used FROM registry.quota_usage WHERE messenger_id = $1", messenger.messenger_id) < quota + 100
            )

    asyncio.run(run())


async def used(database: Lookup, messenger: TestMessenger, queries: int) -> bool:
    """Whether the processes have told the database of so many queries."""
    return bool(await database.value("SELECT used = $2 FROM registry.quota_usage WHERE messenger_id = $1", messenger.messenger_id, queries))


def test_a_revoked_key_and_a_suspended_messenger_are_refused_by_all(site: Site, running: Served) -> None:
    async def run() -> None:
        revoked, suspended = await site.add_messenger("revoked"), await site.add_messenger("suspended")
        async with connected(running, revoked) as first, connected(running, suspended) as second:
            await asyncio.to_thread(command, site, "messenger", "revoke-key", "revoked", revoked.api_key.split("_")[1])
            await asyncio.to_thread(command, site, "messenger", "suspend", "suspended")
            await eventually(lambda: all_tell(first, 401))
            await eventually(lambda: all_tell(second, 403))

    asyncio.run(run())


def test_hanging_up_on_the_supervisor_reloads_every_process(running: Served) -> None:
    running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(running.log("reloaded")) == 5)


def test_the_supervisor_answers_for_all(running: Served) -> None:
    names = {"answer@1", "answer@2", "deliver@1", "deliver@2", "operate@1"}
    base = running.base("health")
    assert running.get(base, "/healthz") == "ok\n"
    assert json.loads(running.get(base, "/readyz")) == {"ready": True, "processes": dict.fromkeys(sorted(names), "")}
    families = {family.name: family for family in text_string_to_metric_families(running.get(base, "/metrics"))}
    assert {sample.labels["process"]: sample.value for sample in families["registryd_ready"].samples} == dict.fromkeys(names, 1.0)
    line = 'registryd_connections{process="answer@1",api="messenger"} '
    wait_for(lambda: line in running.get(base, "/metrics"))


def test_every_notification_is_delivered_once_by_either_worker(site: Site, running: Served) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            codes = [[f"{lane}-{n}" for n in range(40)] for lane in range(6)]
            for lane, of_lane in enumerate(codes):
                messenger = await site.add_messenger(f"lane-{lane}", endpoint=endpoint.url)
                await database.owe(messenger, *of_lane, first=79_161_000_000 + 100 * lane)
            await eventually(database.none_pending)
            assert sorted(endpoint.codes) == sorted(code for of_lane in codes for code in of_lane)

    asyncio.run(run())


def test_hosts_of_one_hostname_have_different_names_and_a_host_keeps_its_own(tmp_path: Path) -> None:
    for host in ("one", "other"):
        (tmp_path / host).write_text(secrets.token_hex(16) + "\n")
    names = [host_name(tmp_path / host) for host in ("one", "other", "one", "none")]
    assert names[0] == names[2]
    assert len(set(names)) == 3
    assert names[3] == socket.gethostname(), "a host may have none"
    assert all(name.startswith(f"{socket.gethostname()} ") for name in names[:3])
    assert (tmp_path / "one").read_text().strip() not in names[0]


def test_a_killed_process_is_replaced_and_goes_on_with_its_own_lanes(site: Site, running: Served) -> None:
    released = asyncio.Event()

    async def answer(_: Received) -> Response:
        await released.wait()
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("slow", endpoint=endpoint.url)
            codes = [f"slow-{n}" for n in range(40)]
            await database.owe(messenger, *codes, first=79_162_000_000)
            await eventually(lambda: endpoint.received)
            ((owner,),) = await database.rows("SELECT owner FROM registry.lane WHERE messenger_id = $1", messenger.messenger_id)
            host, _, victim = owner.rpartition(" ")
            assert (host, victim) in ((host_name(), "deliver@1"), (host_name(), "deliver@2"))
            started = running.restarted(victim)
            os.kill(running.pids[victim], signal.SIGKILL)
            await eventually(lambda: running.restarted(victim) == started + 1)
            assert [(line["process"], line["code"]) for line in running.log("process_ended")] == [(victim, -signal.SIGKILL)]
            released.set()
            await eventually(database.none_pending)  # long before the lease of 45 s has lapsed: the name is the same
            assert set(endpoint.codes) == set(codes)

    asyncio.run(run())


def test_ready_is_told_once_all_processes_are(site: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(site.directory / "notify"))
        manager.settimeout(30)
        with serving(site, environment={"NOTIFY_SOCKET": str(site.directory / "notify")}) as started:
            assert manager.recv(4096) == b"READY=1\nSTATUS=serving with 3 processes"
            assert started.stop() == 0
            assert manager.recv(4096) == b"STOPPING=1"
            assert len(started.log("stopped")) == 3
            assert not started.log("process_ended")


def test_systemctl_status_of_the_supervisor_tells_of_each_child_that_cannot_work(site: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(site.directory / "notify-status"))
        manager.settimeout(60)

        def until(words: str) -> None:
            while f"STATUS={words}" not in manager.recv(4096).decode():
                pass

        with serving(site, environment={"NOTIFY_SOCKET": str(site.directory / "notify-status")}) as started:
            until("serving with 3 processes")
            site.database.psql("-c", "SELECT registry.declare_incomplete('restored to Tuesday')")
            until("answer@1 refusing: the registry is not complete")
            site.database.psql("-c", "SELECT registry.declare_complete('person', 'all are here')")
            until("serving with 3 processes")
            os.kill(started.pids["deliver@1"], signal.SIGKILL)
            until(f"deliver@1 ended with {-signal.SIGKILL}")
            until("serving with 3 processes")
            assert started.stop() == 0


def test_a_killed_supervisor_leaves_no_process(site: Site) -> None:
    with serving(site) as started:
        pids = started.pids.values()
        assert len(pids) == 3
        started.process.kill()
        wait_for(lambda: len(started.log("stopped")) == 3)
        wait_for(lambda: not any(map(runs, pids)))


@pytest.mark.campaign
def test_a_process_that_hangs_is_killed_in_the_end(site: Site) -> None:
    with serving(site) as started:
        hanging = started.pids["deliver@1"]
        os.kill(hanging, signal.SIGSTOP)
        assert started.stop() == 1
        assert not runs(hanging)


def test_a_child_that_only_a_person_can_mend_is_not_tried_again_and_again(site: Site) -> None:
    """It was killed, and meets a mistake in the file when it starts again; the others serve on."""
    text = site.path.read_text()
    try:
        with serving(site) as started:
            site.path.write_text("[nonsense]\n" + text)
            os.kill(started.pids["deliver@1"], signal.SIGKILL)
            wait_for(lambda: len(started.log("process_ended")) == 2)
            told = [(line["process"], line["code"], line["again_in_s"]) for line in started.log("process_ended")]
            assert told == [("deliver@1", -signal.SIGKILL, RESTART_PAUSE_S), ("deliver@1", Exit.CONFIG, MENDED_PAUSE_S)]
            assert "ok" in started.get(started.base("health"), "/healthz")
            assert started.stop() == 0
    finally:
        site.path.write_text(text)
    assert {Exit.USAGE, Exit.SCHEMA, Exit.CONFIG} == MENDED_BY_PERSONS


def test_a_process_that_cannot_start_ends_all_with_its_exit_code(site: Site) -> None:
    key = site.directory / "credentials" / "feed-key"
    text = key.read_text()
    key.unlink()
    try:
        with serving(site) as failed:
            assert failed.process.wait(60) == Exit.CONFIG
            assert not failed.log("all_started")
    finally:
        key.write_text(text)
