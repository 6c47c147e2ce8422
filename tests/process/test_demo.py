"""`registryd demo`, as its users run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import runs, wait_for
from tests.servers import workplace

FREE_PORTS = ("--api-port", "0", "--operator-port", "0", "--receiver-port", "0", "--contracts", "1000")
NOBODY = 65534
ROOT = Path(__file__).resolve().parents[2]


def registryd(*words: str, **popen: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "registryd", *words], capture_output=True, text=True, check=False, timeout=120, **popen)


@contextmanager
def demo(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "registryd", "demo", *FREE_PORTS, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def descendants(pid: int) -> set[int]:
    """The processes below `pid`, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def post(url: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))


def test_the_story_is_told_to_its_end() -> None:
    with workplace() as directory:
        for _ in range(2):  # and again, on the directory that the first one left
            done = registryd("demo", "--once", *FREE_PORTS, "--data", f"{directory}/demo")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "signature verified" in done.stdout
            assert done.stdout.count("✓") == 11
            assert "✗" not in done.stdout


def test_an_ordinary_user_can_run_it() -> None:
    if os.getuid() != 0:
        pytest.skip("the suite runs as an ordinary user, so the test above shows it")
    python = next((p for p in (sys.executable, "/usr/bin/python3") if can_run(p)), None)
    if python is None:
        pytest.skip(f"user {NOBODY} can run no Python that fits the venv's packages")
    done = as_nobody(python, "-m", "registryd", "demo", "--once", *FREE_PORTS)
    assert done.returncode == 0, done.stdout + done.stderr


def as_nobody(python: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python as an ordinary user, on this checkout and the venv's packages."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    return subprocess.run(
        [python, *words],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.defpath, "PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def can_run(python: str) -> bool:
    """Whether an ordinary user can: the way to it may be closed, or the compiled packages made for another version."""
    try:
        return as_nobody(python, "-c", "import asyncpg, orjson, uvloop, registryd.roles.answer").returncode == 0
    except (FileNotFoundError, PermissionError):
        return False


def test_json_gives_what_a_script_needs_and_sigterm_leaves_nothing() -> None:
    with demo("--json") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        facts = json.loads(line)
        secrets = {"operatorToken", "messengerId", "apiKey", "webhookSecret"}
        assert set(facts) == secrets | {"api", "operator", "dsn", "config", "health", "numbers"}
        assert set(facts["numbers"]) == {"present", "absent", "endsSoon", "codeInUse", "slow", "unavailable"}
        for kind in ("present", "absent", "endsSoon", "codeInUse"):
            answer = post(facts["api"] + "/v1/presence", facts["apiKey"], {"phoneNumber": facts["numbers"][kind]})
            assert answer["present"] is (kind != "absent")
        added = registryd("--config", facts["config"], "messenger", "add", "second", "--endpoint", "http://127.0.0.1:9", "--json")
        assert added.returncode == 0, added.stderr
        assert json.loads(added.stdout)["apiKey"].startswith("rk_")
        checked = registryd("--config", facts["config"], "check")
        assert checked.returncode == 0, checked.stdout
        running = descendants(process.pid)
        assert len(running) > 3  # the daemon, PostgreSQL and its own
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, rest) == (0, ""), errors
        wait_for(lambda: not any(map(runs, running)))
        assert not Path(facts["config"]).exists()


def test_trying_things_out_raises_no_alarm_and_shows_a_whole_life() -> None:
    with demo("--json") as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())

        def ask(path: str, **body: Any) -> dict[str, Any]:
            return post(facts["api"] + path, facts["apiKey"], body)

        bound = ask("/v1/presence", phoneNumber=facts["numbers"]["endsSoon"], identificationCode="mine")
        assert (bound["present"], bound["binding"], bound["generation"]) == (True, "recorded", 1)
        made_up = [[f"+{79_160_000_000 + step}" for step in range(1_000)], [f"+{79_160_000_000 + 7_919 * step}" for step in range(2_000)]]
        for numbers in made_up:
            assert len(ask("/v1/presence/batch", queries=[{"phoneNumber": number} for number in numbers])["results"]) == len(numbers)

        def told() -> list[str]:
            return psql(facts["dsn"], "SELECT generation FROM registry.notification_delivered WHERE identification_code = 'mine'").split()

        assert ask("/v1/bindings/retrieve", identificationCode="mine")["state"] == "active"
        earlier = "UPDATE registry.binding SET bound_at = bound_at - interval '10 s' WHERE identification_code = 'mine'"
        psql(facts["dsn"], f"SET session_replication_role = replica; {earlier}")  # past the trigger that keeps bindings as they are
        assert wait_for(told) == ["1"]
        assert ask("/v1/bindings/retrieve", identificationCode="mine")["endReason"] == "terminated"
        assert ask("/v1/presence", phoneNumber=facts["numbers"]["endsSoon"])["present"] is False
        assert psql(facts["dsn"], "SELECT count(*) FROM registry.enumeration_alarm") == "0"


def test_a_port_that_is_taken_is_told_before_anything_is_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = registryd("demo", "--once", *FREE_PORTS, "--receiver-port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} is taken: name another with --receiver-port" in done.stderr


def test_ctrl_c_ends_it_and_leaves_nothing() -> None:
    with demo() as process:
        assert process.stdout is not None
        shown = ""
        while "report answer_deadline" not in shown:
            line = process.stdout.readline()
            assert line, shown + (process.stderr.read() if process.stderr else "")
            shown += line
        running = descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Ctrl-C" in shown
        assert "curl -s" in shown
        wait_for(lambda: not any(map(runs, running)))


def test_killed_outright_it_leaves_no_process() -> None:
    with demo("--json") as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        running = descendants(process.pid)
        process.kill()
        wait_for(lambda: not any(map(runs, running)))
    sockets = Path(facts["dsn"].partition("host=")[2].partition("&")[0])
    for left in (sockets.parent, Path(facts["config"]).parents[1]):
        shutil.rmtree(left)


def psql(dsn: str, statement: str) -> str:
    from registryd.demo import embedded

    binaries = embedded.find_binaries()
    done = subprocess.run(
        [str(binaries.directory / "psql"), "-qXAt", dsn, "-c", statement],
        env=binaries.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
