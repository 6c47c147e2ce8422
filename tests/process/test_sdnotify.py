"""systemd's protocol over real datagram sockets, and inherited descriptors in a real child process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from registryd import sdnotify

# What systemd does between fork and exec: the listeners become descriptors 3, 4, …, and $LISTEN_PID names the process itself.
SYSTEMD = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
high = [os.dup2(fd, 100 + index) for index, fd in enumerate(fds)]
for index, fd in enumerate(high):
    os.dup2(fd, 3 + index, inheritable=True)
own = os.getpid() if sys.argv[2] == "own" else os.getppid()
os.environ.update(LISTEN_PID=str(own), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=":".join(f"api{n}" for n in range(len(fds))))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[3]])
"""

DAEMON = '''
import json, os, select, subprocess, sys
from registryd import sdnotify
before = [os.get_inheritable(fd) for fd in (3, 4)]
named = sdnotify.listen_sockets()
sockets = [sock for socks in named.values() for sock in socks]
look = """import json, os
print(json.dumps([[k for k in os.environ if k.startswith('LISTEN_')], [os.path.exists(f'/proc/self/fd/{n}') for n in (3, 4)]]))"""
child = subprocess.run([sys.executable, "-c", look], close_fds=False, capture_output=True, text=True, check=True)
greeted = 0
for sock in sockets:
    select.select([sock], [], [], 10)
    client, _ = sock.accept()
    client.sendall(b"hello")
    client.close()
    greeted += 1
print(json.dumps({
    "fds": [sock.fileno() for sock in sockets], "families": [sock.family.name for sock in sockets],
    "blocking": [sock.getblocking() for sock in sockets], "before": before, "greeted": greeted,
    "inheritable": [sock.get_inheritable() for sock in sockets], "child": json.loads(child.stdout),
    "again": len(sdnotify.listen_sockets()), "names": list(named),
}))
'''


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's notify socket, by path and by abstract name."""
    name = f"registryd-{uuid.uuid4().hex}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name if request.param == "abstract" else name)
        sock.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if request.param == "abstract" else name)
        yield sock


def received(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_the_manager_hears_the_whole_life_of_the_daemon(manager: socket.socket) -> None:
    assert sdnotify.ready("answering, schema 7")
    assert received(manager) == ["READY=1", "STATUS=answering, schema 7"]
    assert sdnotify.notify("WATCHDOG=1")
    assert received(manager) == ["WATCHDOG=1"]
    assert sdnotify.stopping()
    assert received(manager) == ["STOPPING=1"]


def test_a_reload_is_dated_by_the_monotonic_clock(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    assert sdnotify.reloading()
    after = time.monotonic_ns() // 1000
    first, second = received(manager)
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after


def test_a_status_cannot_carry_a_second_assignment(manager: socket.socket) -> None:
    assert sdnotify.ready("answering\nSTOPPING=1\r\n")
    assert received(manager) == ["READY=1", "STATUS=answering STOPPING=1"]


@pytest.mark.parametrize(
    "address", [None, "", "relative", "vsock:2:1", "/nonexistent/notify", "@registryd-nobody-listens", "/" + "a" * 200]
)
def test_without_a_manager_nothing_is_sent_and_nothing_fails(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not sdnotify.ready("answering")


def test_a_manager_that_reads_nothing_does_not_hold_the_daemon_for_ever(manager: socket.socket) -> None:
    assert not all(sdnotify.notify("WATCHDOG=1", timeout_s=0.05) for _ in range(100_000))


def test_the_notify_address_stays_for_the_next_message(manager: socket.socket) -> None:
    before = os.environ["NOTIFY_SOCKET"]
    sdnotify.ready("answering")
    assert os.environ["NOTIFY_SOCKET"] == before


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [
        ("20000000", "own", 10.0),
        ("20000000", None, 10.0),
        ("1", "own", 0.0000005),
        ("20000000", "1", None),
        ("20000000", "", None),
        ("0", "own", None),
        (None, "own", None),
        ("soon", "own", None),
        ("-5", "own", None),
        ("٢٠", "own", None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_the_manager_asks(
    usec: str | None, pid: str | None, interval_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert sdnotify.watchdog_interval_s() == interval_s


def start(listeners: list[socket.socket], owner: str, code: str) -> subprocess.Popen[str]:
    fds = [sock.fileno() for sock in listeners]
    command = [sys.executable, "-c", SYSTEMD, ",".join(map(str, fds)), owner, code]
    return subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE, text=True)


def test_inherited_listeners_accept_and_go_no_further(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "api"))
        unix.listen()
        with start([tcp, unix], "own", DAEMON) as daemon:
            with socket.create_connection(tcp.getsockname(), timeout=60) as client:
                assert client.recv(5) == b"hello"
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(str(tmp_path / "api"))
                assert client.recv(5) == b"hello"
            output, _ = daemon.communicate(timeout=60)
    assert json.loads(output) == {
        "fds": [3, 4],
        "families": ["AF_INET", "AF_UNIX"],
        "blocking": [False, False],
        "before": [True, True],
        "inheritable": [False, False],
        "greeted": 2,
        "child": [[], [False, False]],
        "again": 0,
        "names": ["api0", "api1"],
    }


def test_descriptors_meant_for_another_process_are_left_alone() -> None:
    code = "import os; from registryd import sdnotify; print(sdnotify.listen_sockets(), [k for k in os.environ if k.startswith('LISTEN_')])"
    with socket.create_server(("127.0.0.1", 0)) as tcp, start([tcp], "parent", code) as process:
        output, _ = process.communicate(timeout=60)
    assert output.strip() == "{} []"


def test_started_from_a_shell_there_are_no_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert sdnotify.listen_sockets() == {}
