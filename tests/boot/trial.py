"""What the steps share: the machine, its blocks, the key of the first messenger, and load on it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from registryd.children import die_with
from tests.boot.blocks import Blocks
from tests.boot.machine import Machine, wait_for
from tests.boot.packages import ROOT

INSTANCES = ("answer@1", "answer@2", "deliver@1", "operate@1")
HEALTH = {"answer@1": 8091, "answer@2": 8092, "deliver@1": 8111, "operate@1": 8131}
NUMBERS = 1000
KEPT = 16


@dataclass
class Seen:
    """What a load met."""

    asked: int = 0
    new: int = 0
    lost: list[str] = field(default_factory=list)
    worst_s: float = 0.0

    def told(self) -> str:
        return f"{len(self.lost)} of {self.asked} lost, {self.new} over new connections; the slowest {self.worst_s:g} s"

    def lost_none(self) -> str:
        """Its figures. Raises: AssertionError, where anything was lost."""
        assert not self.lost, f"{self.told()}: {self.lost[:5]}"
        assert self.new > 0
        return self.told()


@dataclass
class Trial:
    machine: Machine
    packages: dict[str, Path]
    """This release's package and the `next` one's."""
    blocks: Blocks = field(default_factory=Blocks)
    key: str = ""
    secrets: list[str] = field(default_factory=list)
    """What no journal may hold."""

    def on(self, machine: Machine) -> Trial:
        """The same trial, of another machine."""
        return replace(self, machine=machine)

    def paste(self, heading: str, number: int, **variables: str) -> str:
        return self.machine.paste(self.blocks.get(heading, number), **variables)

    def is_active(self, instance: str) -> bool:
        return self.show(instance, "ActiveState") == "active"

    def show(self, instance: str, key: str) -> str:
        return self.machine.run(f"systemctl show registryd-{instance} -P {key}").stdout.strip()

    def main_pid(self, instance: str) -> str:
        """The PID of a process that runs, as the machine numbers it."""
        pid = self.show(instance, "MainPID")
        assert pid != "0", f"{instance} does not run"
        return pid

    def readiness(self, instance: str) -> str:
        """/readyz: the status and the body."""
        return self.machine.run(f"curl -s -m 5 -w ' %{{http_code}}' http://127.0.0.1:{HEALTH[instance]}/readyz").stdout

    def is_ready(self, instance: str) -> bool:
        return self.is_active(instance) and self.readiness(instance).endswith(" 200")

    def all_ready(self) -> None:
        wait_for(lambda: all(self.is_ready(instance) for instance in INSTANCES), "every process is ready")

    def query(self) -> str:
        return self.paste("Install", 5, KEY=self.key)

    @contextlib.contextmanager
    def load(self) -> Iterator[Seen]:
        """Queries at the pace of load.py, while the block runs."""
        certificate = self.machine.root / "etc/registryd/credentials/tls-certificate"
        command = [*self.machine.entering("net"), sys.executable, "-m", "tests.boot.load", str(certificate)]
        command += ["--kept", str(KEPT), "--numbers", str(NUMBERS)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        seen = Seen()
        with subprocess.Popen(command, cwd=ROOT, preexec_fn=partial(die_with, os.getpid()), **pipes) as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{self.key}\n")
                process.stdin.flush()
                assert process.stdout.readline() == "runs\n"
                yield seen
                process.send_signal(signal.SIGTERM)
                told, _ = process.communicate(timeout=120)
                vars(seen).update(json.loads(told))
            finally:
                if process.poll() is None:
                    process.kill()
