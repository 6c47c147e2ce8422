"""`serve --workers 2`: one listener, one budget, one set of lanes, and what happens when a worker or the supervisor dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Site, TestMessenger, client, eventually, receiving, wait_for

NUMBER = 79_160_000_001
QUERY = {"phoneNumber": f"+{NUMBER}"}


@dataclass
class Workers:
    """A supervisor and what its workers wrote."""

    process: subprocess.Popen[bytes]
    log_path: Path
    count: int

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

    def metric(self, instance: int, pattern: str) -> float:
        with urllib.request.urlopen(f"{self.operators[instance]}/metrics") as answer:
            return sum(float(value) for value in re.findall(rf"^{pattern} ([0-9.e+]+)$", answer.read().decode(), re.MULTILINE))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@contextlib.contextmanager
def workers(site: Site, count: int = 2) -> Iterator[Workers]:
    log_path = site.directory / f"workers-{secrets.token_hex(3)}.log"
    with log_path.open("wb") as log:
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "serve", "--workers", str(count)]
        running = Workers(subprocess.Popen(command, stderr=log), log_path, count)
    try:
        wait_for(lambda: running.log("workers_ready") or running.process.poll() is not None, 30)
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(10)
