"""The log goes to stderr, and whatever becomes of stderr, the processes go on: only lines are lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest

from registryd.loglines import for_journal
from tests.conftest import Site, wait_for


@contextlib.contextmanager
def process(site: Site, role: str, kind: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A process whose stderr is well until it has started, and then as `kind` says; and where it listens."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), role]
    made = subprocess.Popen(command, stderr=writing)
    try:
        with os.fdopen(reading, "rb") as lines:
            facts = first(lines, "started" if role != "serve" else "all_started")
            if kind == "gone":
                lines.close()
            if kind.startswith("stalled"):
                fill(writing)
            os.set_blocking(writing, kind != "stalled and non-blocking")
            os.close(writing)
            yield made, facts
    finally:
        made.kill()
        made.wait(60)


def fill(pipe: int) -> None:
    """Writes until the pipe takes no more."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 512)


def first(lines: IO[bytes], event: str) -> dict[str, Any]:
    for line in lines:
        if json.loads(line)["event"] == event:
            return dict(json.loads(line))
    raise AssertionError("it ended")


def status(url: str, key: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("kind", ["gone", "stalled", "stalled and non-blocking"])
def test_a_role_goes_on_and_ends_well_whatever_became_of_stderr(site: Site, kind: str) -> None:
    """Refusals are told, the database comes and goes, a key is revoked, and SIGTERM drains."""
    messenger = asyncio.run(site.add_messenger())
    with process(site, "answer", kind) as (made, facts):
        api = f"http://{facts['messenger'][0]}"
        for _ in range(10):
            assert status(f"{api}/nowhere") == 404
        assert status(f"{api}/v1/account", messenger.api_key) == 200
        with contextlib.suppress(Exception):
            site.database.psql("-c", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'registryd_app'")
        wait_for(lambda: status(f"{api}/v1/account", messenger.api_key) == 200)
        site.database.psql("-c", "UPDATE registry.messenger_key SET revoked_at = now()")
        wait_for(lambda: status(f"{api}/v1/account", messenger.api_key) == 401)
        assert status(f"http://{facts['health'][0]}/healthz") == 200
        made.send_signal(signal.SIGTERM)
        assert made.wait(30) == 0


@pytest.mark.parametrize("kind", ["gone", "stalled"])
def test_every_role_of_serve_goes_on_and_ends_well_whatever_became_of_stderr(site: Site, kind: str) -> None:
    with process(site, "serve", kind) as (made, facts):
        addresses = facts["addresses"]
        for _ in range(10):
            assert status(f"http://{addresses['messenger']}/nowhere") == 404
        assert status(f"http://{addresses['health']}/readyz") == 200
        made.send_signal(signal.SIGTERM)
        assert made.wait(45) == 0


@contextlib.contextmanager
def answering(site: Site, **popen: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that answers, once it is ready, and the port of its health. SIGTERM must end it with 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site.write_config(observe=f'listen = "127.0.0.1:{port - 1}"')
    made = subprocess.Popen([sys.executable, "-m", "registryd", "--config", str(site.path), "answer"], **popen)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        yield made, port
        made.send_signal(signal.SIGTERM)
        assert made.wait(30) == 0
    finally:
        made.kill()
        made.wait(60)


def test_a_full_disk_under_stderr_costs_lines_alone(site: Site) -> None:
    with Path("/dev/full").open("wb") as full, answering(site, stderr=full) as (_, port):
        assert "registryd_log_lines_dropped_total 0" not in metrics(port)


def test_a_process_without_any_stream_serves_and_ends_well(site: Site) -> None:
    """Whoever started it has closed stdin, stdout and stderr: no socket takes their place."""
    with answering(site, preexec_fn=lambda: os.closerange(0, 3)) as (made, _):
        assert {str(Path(f"/proc/{made.pid}/fd/{number}").readlink()) for number in range(3)} == {"/dev/null"}


def test_a_key_that_nobody_is_shown_is_not_made(site: Site) -> None:
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "operator", "add", "billing", "--scope", "feed"]
    done = subprocess.run(command, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1), text=True, check=False)
    assert (done.returncode, "stdout is closed" in done.stderr) == (1, True)
    assert site.database.psql("-Atc", "SELECT count(*) FROM registry.operator_key WHERE name = 'billing'").stdout.strip() == "0"


def test_a_fact_that_is_no_json_is_told_all_the_same() -> None:
    """A line must not fail under journald alone, where no test runs."""
    assert json.loads(for_journal(None, "warning", {"at": datetime(2026, 1, 1, tzinfo=UTC)})[3:])["at"].startswith("datetime.datetime(2026")


def answers(url: str) -> bool:
    try:
        return status(url) == 200
    except urllib.error.URLError:
        return False


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return str(answer.read().decode())
