"""`registryd serve` as a process with its children, and a process on a listener that others share."""

from __future__ import annotations

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import DIES_WITH_US, Daemon, Site, daemon, wait_for


@dataclass
class Served:
    """A supervisor and what it and its children wrote."""

    process: subprocess.Popen[bytes]
    log_path: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]

    def log(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    @property
    def started(self) -> dict[str, Any]:
        return self.log("all_started")[0]

    def base(self, listener: str) -> str:
        return f"http://{self.started['addresses'][listener]}"

    @property
    def api(self) -> str:
        return self.base("messenger")

    @property
    def pids(self) -> dict[str, int]:
        """Its children's, by name."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            *_, role, _, instance, _ = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            found[f"{role}@{instance}"] = int(pid)
        return found

    def restarted(self, name: str) -> int:
        """How often a child has started."""
        return len([line for line in self.log("started") if f"{line['role']}@{line['instance']}" == name])

    def queries(self, name: str) -> int:
        """How many presence queries a child has answered."""
        text = self.get(self.started["health"][name], "/metrics")
        return int(sum(map(float, re.findall(r"^registryd_queries_total\{.*\} (\S+)$", text, re.MULTILINE))))

    def get(self, base: str, path: str) -> str:
        with urllib.request.urlopen(base + path) as answer:
            return str(answer.read().decode())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(site: Site, *options: str, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """Starts `serve` and waits until all its processes are ready, or its end."""
    log_path = site.directory / f"serve-{secrets.token_hex(3)}.log"
    with log_path.open("wb") as log:
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "serve", *options]
        process = subprocess.Popen(command, stderr=log, env=os.environ | (environment or {}), **DIES_WITH_US)
    running = Served(process, log_path)
    try:
        wait_for(lambda: running.log("all_started") or process.poll() is not None)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)


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
