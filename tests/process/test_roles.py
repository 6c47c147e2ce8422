"""One process of a role: its start, its listener, its log, and its end beside others that go on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from registryd import observe
from registryd.loglines import LogWriter
from registryd.roles import eventloop
from registryd.store import audit
from tests.conftest import LONG, Daemon, Site, TestMessenger, daemon, eventually, wait_for
from tests.delivery.conftest import listening, looking
from tests.store.conftest import seal_all

NUMBER = 79_160_000_001
EVENTS = "/operator/v1/contract-events"
QUERY = {"phoneNumber": f"+{NUMBER}"}
POSTS = 20_000 if LONG else 400
"""How many requests are answered while two processes are restarted in turn."""


@contextlib.contextmanager
def handed_over(site: Site, listener: socket.socket, instance: int = 1, **popen: Any) -> Iterator[Daemon]:
    """A process that answers on a listener that others share, as systemd hands it over."""
    script = site.directory / "activate"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "os.dup2(int(os.environ['LISTENER']), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='messenger')\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    script.chmod(0o700)
    environment = {"LISTENER": str(listener.fileno())}
    popen |= {"executable": str(script), "pass_fds": (listener.fileno(),)}
    with daemon(site, instance=instance, environment=environment, **popen) as started:
        yield started


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


# -- the log


def test_a_task_that_nobody_awaits_is_told_by_its_name_and_kind_alone() -> None:
    async def fail() -> None:
        raise KeyError("+79161234567")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(eventloop.tell_failure)
        task = asyncio.create_task(fail(), name="forgotten")
        await asyncio.sleep(0)
        del task
        gc.collect()

    with capture_logs() as log:
        asyncio.run(run())
    assert log == [{"event": "background_failed", "log_level": "error", "where": "forgotten", "kind": "KeyError"}]


def test_a_log_that_nobody_reads_hangs_no_process(site: Site) -> None:
    """A pipe of 4 kB holds some 25 lines of refusals."""
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "answer"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, pipesize=4096) as process:
        assert process.stderr is not None
        started = json.loads(process.stderr.readline())
        try:
            for _ in range(100):
                assert status(f"http://{started['messenger'][0]}/nowhere") == 404
            assert status(f"http://{started['health'][0]}/healthz") == 200
            process.stderr.close()  # and one that is gone
            assert status(f"http://{started['messenger'][0]}/nowhere") == 404
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_lines_that_nobody_takes_are_dropped_and_counted() -> None:
    def dropped() -> float:
        return observe.METRICS.get_sample_value("registryd_log_lines_dropped_total") or 0.0

    before = dropped()
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        writer = LogWriter(stream, observe.log_lines_dropped.inc, lines_max=10)
        line = "x" * 1_000 + "\n"
        for _ in range(200):  # a pipe holds 64 of them
            writer.write(line)
        wait_for(lambda: dropped() > before)
        written = 0
        while select.select([reading], [], [], 0.5)[0]:
            written += len(os.read(reading, 65_536))
        writer.close()
        assert written + (dropped() - before) * len(line) == 200 * len(line)
        os.close(reading)
    broken = LogWriter(io.StringIO(), observe.log_lines_dropped.inc)
    broken.stream.close()
    broken.write(line)
    wait_for(lambda: dropped() > before + 1)
    broken.close()


def test_lines_for_journald_bear_their_priority(site: Site) -> None:
    with (site.directory / "journal").open("wb") as journal:
        inode = os.fstat(journal.fileno())
        environment = os.environ | {"JOURNAL_STREAM": f"{inode.st_dev}:{inode.st_ino}"}
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "operate"]
        process = subprocess.Popen(command, stderr=journal, env=environment)
    try:
        wait_for(lambda: '"started"' in Path(journal.name).read_text())
        process.send_signal(signal.SIGHUP)
        site.path.write_text("[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: '"reload_failed"' in Path(journal.name).read_text())
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
    for line in Path(journal.name).read_text().splitlines():
        level = json.loads(line[3:])["level"]
        assert line[:3] == {"error": "<3>", "warning": "<4>", "info": "<6>"}[level]


def test_a_reload_says_which_keys_need_a_restart_and_does_the_rest(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)

        def status() -> str:
            while not (said := manager.recv(4096).decode()).startswith("READY=1"):
                pass
            return said.partition("STATUS=")[2]

        with daemon(site, "operate", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as running:
            assert status() == "serving"
            site.write_config(presence="group_max = 7", log='level = "error"', database="pool_size = 5")
            running.process.send_signal(signal.SIGHUP)
            [told] = wait_for(lambda: [line for line in running.log() if line["event"] == "reloaded"])
            assert (told["level"], told["needs_restart"]) == ("warning", ["database.pool_size", "presence.group_max"])
            assert status() == "serving; until a restart the former value holds of database.pool_size, presence.group_max"
            site.path.write_text("[nonsense]\n")
            running.process.send_signal(signal.SIGHUP)
            assert status().startswith("serving; the last reload failed: ")
            site.write_config()
            running.process.send_signal(signal.SIGHUP)
            assert status() == "serving"


def test_a_reload_that_fails_says_that_it_is_over(site: Site, tmp_path: Path) -> None:
    """systemd waits for READY=1 after RELOADING=1, whatever became of the reload: here the role lacks a grant meanwhile."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        with daemon(site, "answer", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as running:
            site.database.psql("-c", "REVOKE SELECT ON registry.messenger FROM registryd_app")
            running.process.send_signal(signal.SIGHUP)
            while not manager.recv(4096).startswith(b"RELOADING=1"):
                pass
            while not manager.recv(4096).startswith(b"READY=1"):
                pass
            wait_for(lambda: [line for line in running.log() if line["event"] == "reload_failed"])
