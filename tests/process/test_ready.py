"""/readyz, `registryd_ready` and `systemctl status` are one truth: each role says why it cannot do its work, and says when it can again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from registryd.cli.running import Exit
from registryd.demo import embedded
from tests.conftest import Daemon, Site, TestDatabase, TestMessenger, daemon, make_site, receiving, wait_for

ROLES = ("answer", "deliver", "operate")
EVENTS = "/operator/v1/contract-events"
NUMBER = 79_160_000_000


def asked(url: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def wait_until(running: Daemon, roles: tuple[str, ...], status: int, reason: str = "") -> None:
    """Waits until each role says so, the metric too."""
    for role in roles:
        wait_for(lambda role=role: is_told(running, role, status, reason))  # type: ignore[misc] # a bool
        wait_for(lambda role=role: f"registryd_ready {float(status == 200)}" in running.metrics(role))  # type: ignore[misc] # a bool


def is_told(running: Daemon, role: str, status: int, reason: str) -> bool:
    told, body = asked(f"{running.health(role)}/readyz")
    return told == status and reason in body.get("reason", "")


@contextlib.contextmanager
def manager(path: Path) -> Iterator[Callable[[str], str]]:
    """A service manager; what it is asked is whether a STATUS= that begins so came, and it gives that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(60)

        def status(beginning: str) -> str:
            while True:
                for line in sock.recv(4096).decode().split("\n"):
                    if line.startswith(f"STATUS={beginning}"):
                        return line.removeprefix("STATUS=")

        yield status


def test_a_database_that_takes_no_writes_makes_each_role_unready_until_it_does(site: Site) -> None:
    with daemon(site, *ROLES) as running:
        wait_until(running, ROLES, 200)
        change(site, f'ALTER DATABASE "{site.database.name}" SET default_transaction_read_only = on')
        wait_until(running, ROLES, 503, "takes no writes")
        change(site, f'ALTER DATABASE "{site.database.name}" RESET default_transaction_read_only')
        wait_until(running, ROLES, 200)
        for role in ROLES:
            told = [json.loads(line)["event"] for line in running.logs[role].read_text().splitlines() if "database_" in line]
            assert told == ["database_away", "database_back"], role


def test_slow_calls_of_messengers_make_nobody_unready(site: Site) -> None:
    """They use up the connections of the routes that no line answers. Queries are answered meanwhile, and a balancer must not turn away."""
    callers = [asyncio.run(site.add_messenger(f"caller{place}")) for place in range(8)]
    site.write_config(database="connect_timeout_s = 1.0")

    with daemon(site, "answer") as running, asyncio.Runner() as runner, ThreadPoolExecutor(2 * len(callers)) as pool:
        dba = runner.run(asyncpg.connect(site.database.dsn()))
        runner.run(dba.execute("BEGIN; LOCK TABLE registry.lane"))
        calls = [pool.submit(asked, f"{running.api}/v1/account", None, caller.headers) for caller in callers * 2]
        assert {call.result()[0] for call in calls} == {503}
        assert asked(f"{running.api}/v1/presence", {"phoneNumber": f"+{NUMBER}"}, callers[0].headers)[0] == 200
        assert [line for line in running.log() if line["event"] == "database_away"] == []
        runner.run(dba.close())


def change(site: Site, statement: str) -> None:
    """A change of the database that holds for new sessions; it ends the others."""
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    done = site.database.psql("-c", "SET default_transaction_read_only = off", "-c", statement, "-c", end)
    assert done.returncode == 0, done.stderr


def test_a_schema_of_another_release_makes_each_role_unready_until_it_is_mended(site: Site) -> None:
    with daemon(site, *ROLES) as running:
        site.database.psql("-c", "UPDATE registry.schema_migration SET version = version + 100, compatible_from = version + 100")
        wait_until(running, ROLES, 503, "newer than this program")
        site.database.psql("-c", "UPDATE registry.schema_migration SET version = version - 100, compatible_from = version - 100")
        wait_until(running, ROLES, 200)


@pytest.mark.parametrize(("role", "table"), [("answer", "messenger_key"), ("operate", "operator_key"), ("deliver", "lane")])
def test_a_role_that_may_not_read_what_it_works_by_is_unready_until_it_may(site: Site, role: str, table: str) -> None:
    """The database is there, but nobody is admitted, or no lane is worked. It is told once, however often it is met."""
    with daemon(site, role) as running:
        wait_until(running, (role,), 200)
        site.database.psql("-c", f"REVOKE SELECT ON registry.{table} FROM registryd_app")
        wait_until(running, (role,), 503, "InsufficientPrivilegeError")
        met = looks(running, role)
        wait_for(lambda: looks(running, role) > met + 8)
        site.database.psql("-c", f"GRANT SELECT ON registry.{table} TO registryd_app")
        wait_until(running, (role,), 200)
        told = [(line["where"], line["kind"]) for line in running.log() if line["event"] == "background_failed"]
        assert len(told) == len(set(told)) > 0


@pytest.mark.parametrize(("role", "table"), [("answer", "messenger_key"), ("operate", "operator_key"), ("deliver", "messenger")])
def test_a_role_that_lacks_a_grant_at_its_start_waits_for_it_and_does_not_spin(site: Site, role: str, table: str) -> None:
    """Restart= would begin it again every two seconds, and nobody would answer meanwhile."""
    site.database.psql("-c", f"REVOKE SELECT ON registry.{table} FROM registryd_app")
    with daemon(site, role, until="database_away") as running:
        assert f"permission denied for table {table}" in running.facts[role]["reason"]
        wait_until(running, (role,), 503, f"permission denied for table {table}")
        site.database.psql("-c", f"GRANT SELECT ON registry.{table} TO registryd_app")
        wait_until(running, (role,), 200)


def looks(running: Daemon, role: str) -> float:
    """How often the loop was looked at, which is four times a second."""
    return float(running.metrics(role).split("registryd_loop_lag_seconds_count ")[1].splitlines()[0])


@pytest.fixture
def small_disk(server: embedded.Server, template: str, tmp_path: Path) -> Iterator[tuple[Site, Path]]:
    """A registry whose database alone lies on a disk of its own, and where that is."""
    disk = server.directory / f"disk-{secrets.token_hex(4)}"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        disk.rmdir()
        pytest.skip(f"a disk that can be filled needs the right to mount one: {mounted.stderr.strip()}")
    name = f"small_{secrets.token_hex(4)}"
    database = TestDatabase(server, name)
    admin = TestDatabase(server, "postgres")
    try:
        (disk / "space").mkdir(mode=0o700)
        owner = (server.directory / "data").stat()
        os.chown(disk / "space", owner.st_uid, owner.st_gid)
        for statement in (
            f"CREATE TABLESPACE {name} LOCATION '{disk / 'space'}'",
            f"CREATE DATABASE {name} TEMPLATE {template} TABLESPACE {name}",
        ):
            done = admin.psql("-c", statement)
            assert done.returncode == 0, done.stderr
        yield make_site(database, tmp_path), disk
    finally:
        (disk / "filler").unlink(missing_ok=True)
        admin.psql("-c", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.psql("-c", f"DROP TABLESPACE IF EXISTS {name}")
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 65_536)


def test_a_full_disk_makes_each_role_unready_and_room_makes_it_ready_by_itself(small_disk: tuple[Site, Path]) -> None:
    """No query is answered meanwhile, no event applied and no receipt recorded; what a role says of itself is the disk."""
    site, disk = small_disk
    live, ended = range(NUMBER, NUMBER + 3_000), range(NUMBER + 3_000, NUMBER + 6_000)

    def story(messenger: TestMessenger, endpoint: str) -> None:
        owe = f"""
            UPDATE registry.messenger SET endpoint_url = '{endpoint}';
            INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)
            SELECT n, 1, {messenger.messenger_id}, 'u' || n FROM generate_series({ended[0]}, {ended[-1]}) AS n;
            UPDATE registry.contract SET ended_at = now() WHERE msisdn >= {ended[0]}"""
        site.database.allow_ends()
        assert site.database.psql("-c", owe).returncode == 0
        with daemon(site, "answer", "operate") as running:
            fill(disk)
            present = {"phoneNumber": f"+{live[-1]}"}
            wait_for(lambda: asked(f"{running.api}/v1/presence", present, messenger.headers)[0] == 503)
            wait_until(running, ("answer",), 503, "disk is full")
            left = iter(live)
            wait_for(lambda: suspend(site, running, next(left)) == 503)
            wait_until(running, ("operate",), 503, "disk is full")
            with daemon(site, "deliver", until="database_away") as delivering:
                wait_until(delivering, ("deliver",), 503, "disk is full")
                (disk / "filler").unlink()
                wait_until(delivering, ("deliver",), 200)
                wait_for(lambda: pending(site) == 0)
            wait_until(running, ("answer", "operate"), 200)
            assert asked(f"{running.api}/v1/presence", present, messenger.headers)[1]["present"] is True
            assert suspend(site, running, next(left)) == 200
            assert not [line for line in running.log() if line["event"] in ("request_failed", "background_failed")]

    async def run() -> None:
        messenger = await site.add_messenger()
        await site.add_contracts(*live, *ended)
        async with receiving(messenger.secret) as (receiver, _):
            await asyncio.to_thread(story, messenger, receiver.url)

    asyncio.run(run())


def suspend(site: Site, running: Daemon, number: int) -> int:
    """Billing tells of a suspension; the status of the answer."""
    event = {"eventId": f"e{number}", "type": "suspended", "phoneNumber": f"+{number}", "occurredAt": "2026-01-01T00:00:00Z"}
    return asked(f"{running.operator}{EVENTS}", {"events": [event]}, site.operator_headers)[0]


def pending(site: Site) -> int:
    return int(site.database.psql("-Atc", "SELECT count(*) FROM registry.notification").stdout)


def test_systemctl_status_shows_an_outage_and_its_end(site: Site) -> None:
    path = site.directory / "notify"
    with manager(path) as status, daemon(site, environment={"NOTIFY_SOCKET": str(path)}):
        status("serving")
        change(site, f'ALTER DATABASE "{site.database.name}" SET default_transaction_read_only = on')
        assert status("refusing") == "refusing: the database takes no writes"
        change(site, f'ALTER DATABASE "{site.database.name}" RESET default_transaction_read_only')
        status("serving")


@pytest.mark.parametrize("role", ROLES)
def test_systemctl_status_shows_why_a_process_ended_that_only_a_person_can_mend(site: Site, role: str) -> None:
    path = site.directory / "notify"

    def start() -> int:
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), role]
        return subprocess.run(command, env={**os.environ, "NOTIFY_SOCKET": str(path)}, capture_output=True, check=False).returncode

    with manager(path) as status:
        site.database.psql("-c", "DELETE FROM registry.schema_migration")
        assert start() == Exit.SCHEMA
        assert "registryd migrate" in status("refusing: the database")
        site.path.write_text("[api]\nlisen = 1\n")
        assert start() == Exit.CONFIG
        assert status("refusing: ").endswith("api.lisen: unknown key; did you mean 'listen'?")
