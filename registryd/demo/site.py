"""The demo's registry: a private PostgreSQL, credentials, a registryd.toml, made-up contracts and `registryd serve`, all in one directory.

Everything is done by the commands an operator would use, as subprocesses, so that the demo shows what they do.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registryd import resources
from registryd.demo import embedded, population

DATABASE = "registryd"
OBSERVE_PORT = 8090
"""Health and metrics; free ports where a free one was asked for elsewhere."""
DAEMON_START_TIMEOUT_S = 30.0
DAEMON_STOP_TIMEOUT_S = 45.0
CONFIG = """\
# Made by `registryd demo`; every key is explained in systemd/registryd.toml.
[database]
dsn = "{app_dsn}"
owner_dsn = "{owner_dsn}"

[api]
listen = "127.0.0.1:{api_port}"
# So that you can try things out. "demo" adds what production never has: a number that is slow, and one that is answered 503.
test_numbers = "demo"

[operator]
listen = "127.0.0.1:{operator_port}"

[observe]
listen = "127.0.0.1:{observe_port}"

[delivery]
# So that you can try a receiver of your own on this machine. Never in production.
allow_http = true
allow_networks = ["127.0.0.0/8", "::1/128"]

[credentials]
directory = "{credentials}"
"""


GUARD = """\
SELECT FROM registry.change_policy(
    '{"honest_absent_ratio": 0.999998, "scan_absent_ratio": 0.999999, "honest_density": 0.95,
      "honest_queries_per_alarm": 9000000000000000000, "alarm_queries_per_minute": 2147483647}',
    now(), 'The demo: made-up numbers are absent, and often in a row, so neither is taken for a search, and no alarm slows anybody down.')
 WHERE NOT EXISTS (SELECT FROM registry.policy AS p WHERE p.note LIKE 'The demo: %')
"""
"""The guard against enumeration as it fits who tries things out. What it does in production: registryd/http/README.md."""


class DemoError(Exception):
    """A step of the demo failed; the message is the failed command's own."""


@dataclass(frozen=True)
class Site:
    directory: Path
    config: Path
    server: embedded.Server

    @property
    def operator_key(self) -> str:
        """Of the operator API, for everything; made when it is first asked for, and kept for the next demo in this directory."""
        path = self.directory / "operator-key"
        if not path.exists():
            made = self.run("operator", "add", "demo", "--scope", "feed,read,act", as_json=True)
            path.touch(mode=0o600)
            path.write_text(made["apiKey"])
        return path.read_text()

    @property
    def dsn(self) -> str:
        """The superuser's, for looking around with psql."""
        return self.server.dsn(DATABASE)

    def run(self, *words: str, as_json: bool = False) -> Any:
        """One of registryd's commands; returns its output. Raises: DemoError."""
        command = [sys.executable, "-m", "registryd", "--config", str(self.config), *words, *(["--json"] if as_json else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})
        if done.returncode != 0:
            raise DemoError(f"registryd {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return json.loads(done.stdout) if as_json else done.stdout

    def psql(self, *words: str, dsn: str | None = None) -> str:
        """psql; returns what it printed. Raises: DemoError."""
        command = [str(self.server.psql), "-qX", "-v", "ON_ERROR_STOP=1", dsn or self.dsn, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.server.binaries.environment())
        if done.returncode != 0:
            raise DemoError(f"psql {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout


def prepare(server: embedded.Server, api_port: int, operator_port: int) -> Site:
    """Database, roles, schema, credentials and configuration; a directory that was used before keeps what it has. Raises: DemoError."""
    directory = server.directory / "registryd"
    credentials = directory / "credentials"
    credentials.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("journal-key", "secrets-key", "feed-key", "head-key"):
        path = credentials / name
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32) + "\n")
    config = directory / "registryd.toml"
    config.write_text(
        CONFIG.format(
            app_dsn=server.dsn(DATABASE, "registryd_app"),
            owner_dsn=server.dsn(DATABASE),
            api_port=api_port,
            operator_port=operator_port,
            observe_port=OBSERVE_PORT if api_port and operator_port else 0,
            credentials=credentials,
        )
    )
    site = Site(directory, config, server)
    exists = site.psql("-Atc", "SELECT 1 FROM pg_database WHERE datname = 'registryd'", dsn=server.dsn())
    if not exists.strip():
        site.psql("-c", f"CREATE DATABASE {DATABASE}", dsn=server.dsn())
    site.psql("-f", str(resources.path("sql/roles.sql")))
    site.run("migrate")
    site.psql("-c", "SELECT registry.declare_complete('person', 'the demo brings the whole of its population')", "-c", GUARD)
    assert site.operator_key, "made before the daemon starts, which then knows it at once"
    return site


@dataclass
class Examples:
    """One number of each kind, as the population's facts have it: what the story asks for."""

    ranges: list[tuple[int, int]]
    individuals: list[int]
    unregistered: int = 0
    suspended: int = 0
    recycled: int = 0
    ended: int = 0
    never_issued: int = 0
    previous: int = 0

    @property
    def ends_soon(self) -> int:
        """The number whose contract ends soon after it was bound; the story does not use it."""
        return self.individuals[-1]

    @property
    def of_the_story(self) -> list[int]:
        return self.individuals[:-1]

    def note(self, row: population.Row) -> None:
        msisdn, generation, status, holder, end_user, *_ = row
        if self.previous and msisdn == self.previous + 2 and not self.never_issued:
            self.never_issued = msisdn - 1
        self.previous = msisdn
        if status == "active" and holder == "individual" and generation == 1 and len(self.individuals) < INDIVIDUALS_MAX:
            self.individuals.append(msisdn)
        elif status == "active" and generation > 1 and end_user != "unregistered":
            self.recycled = self.recycled or msisdn
        elif status == "active" and end_user == "unregistered":
            self.unregistered = self.unregistered or msisdn
        elif status == "suspended" and end_user != "unregistered":
            self.suspended = self.suspended or msisdn
        elif status == "ended" and generation == 1:
            # Its next generation, if it has one, follows at once and takes this back.
            self.ended = self.ended or msisdn
        if status != "ended" and msisdn == self.ended:
            self.ended = 0


INDIVIDUALS_MAX = 50


def fill(site: Site, contracts: int) -> tuple[Examples, dict[str, Any]]:
    """Loads the numbering ranges and as many made-up contracts; returns examples of each kind and what the import said."""
    ranges_path = resources.path("tests/data/numbering_ranges.csv")
    ranges = population.read_ranges(ranges_path)
    examples = Examples(ranges, [])
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

    def rows() -> Iterator[population.Row]:
        for row in population.generate(ranges, contracts, now=now):
            examples.note(row)
            yield row

    file = site.directory / "contracts.csv"
    population.write_csv(file, rows())
    site.run("ranges", "import", str(ranges_path))
    imported = site.run("contracts", "import", str(file), as_json=True)
    return examples, imported


@contextmanager
def daemon(site: Site) -> Iterator[dict[str, Any]]:
    """`registryd serve`; gives what it said of its listeners once all its processes had started. Stops it by SIGTERM. Raises: DemoError."""
    log_path = site.directory / "serve.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "registryd", "--config", str(site.config), "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # deaf to the terminal's Ctrl-C, which is for us
            preexec_fn=functools.partial(embedded.die_with, os.getpid()),
        )
    try:
        yield _wait_started(process, log_path)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(DAEMON_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_started(process: subprocess.Popen[bytes], log_path: Path) -> dict[str, Any]:
    end = time.monotonic() + DAEMON_START_TIMEOUT_S
    while time.monotonic() < end:
        lines = log_path.read_text().splitlines()
        for line in lines:
            if line.startswith("{") and json.loads(line)["event"] == "all_started":
                return dict(json.loads(line))
        if process.poll() is not None:
            raise DemoError(lines[-1] if lines else f"`registryd serve` ended with {process.returncode}")
        time.sleep(0.05)
    raise DemoError(f"`registryd serve` did not start within {DAEMON_START_TIMEOUT_S:g} s: {log_path}")
