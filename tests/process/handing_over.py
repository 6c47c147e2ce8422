"""The commands of both sides of a hand-over: the operator's, and the messenger's receiver."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from click.testing import CliRunner, Result

from registryd.cli import main
from registryd.delivery import signing
from tests.conftest import Site, TestMessenger

HOUR = timedelta(hours=1)
NOBODY_S = "01a20259-70ff-7558-b883-9a09fbfb0000"
REPORT = "SELECT owed, in_time, late, overdue, pending FROM report.notification_deadline"


def registryd(site: Site, *words: str, code: int = 0, secret: str = "") -> Result:
    """One command, in this process."""
    done = CliRunner().invoke(
        main,
        ["--config", str(site.path), *words],
        catch_exceptions=False,
        env={"COLUMNS": "250", "REGISTRYD_WEBHOOK_SECRET": secret},
    )
    assert done.exit_code == code, done.output
    return done


def process(site: Site, *words: str, secret: str = "") -> subprocess.CompletedProcess[str]:
    """One command, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "registryd", *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "REGISTRYD_CONFIG": str(site.path), "REGISTRYD_WEBHOOK_SECRET": secret},
    )


async def told(site: Site, *words: str) -> Any:
    return json.loads((await asyncio.to_thread(registryd, site, "notifications", *words, "--json")).stdout)


async def refused(site: Site, *words: str, code: int = 1) -> str:
    return (await asyncio.to_thread(registryd, site, "notifications", *words, code=code)).stderr


@contextmanager
def listener(messenger: TestMessenger, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`listen --json` and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "registryd", "listen", "--port", "0", "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "REGISTRYD_WEBHOOK_SECRET": signing.shown(messenger.secret)},
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline().split()[2].rstrip(";")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


async def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return dict(json.loads(await asyncio.to_thread(process.stdout.readline)))
