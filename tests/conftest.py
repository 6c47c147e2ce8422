"""The fixtures: one private PostgreSQL a session, a migrated template, a clone of it for each test that asks; the real daemon as a process.

Under pytest-xdist every worker is a session: it has a PostgreSQL of its own, and nothing is shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
import asyncpg
import pytest
import structlog

from registryd import config, resources
from registryd.children import die_with
from registryd.client.receiver import Receipt, Receiver
from registryd.delivery import signing
from registryd.demo import embedded
from registryd.domain.secret import SigningSecret
from registryd.store import digest_keys, keys, messengers, migrations
from registryd.store.messengers import Messenger
from registryd.store.pool import Database
from registryd.store.secretbox import SecretBox
from tests.servers import private_server, remove_leftovers

# pytest-xdist tells its workers a width of 80; a command's console would take it over for good when it is imported.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
# A shell makes what it starts in the background ignore SIGINT, and programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T")
TEMPLATE = "registryd_template"
DIES_WITH_US: dict[str, Any] = {"preexec_fn": partial(die_with, os.getpid())}
"""For Popen: a program under test ends when the tests are killed."""
LONG = "REGISTRYD_LONG" in os.environ
"""`make check-all` sets it: what draws at random draws more, and what kills kills more often."""
PATIENCE_S = 60.0
"""How long a test waits for what must come. Only a test that fails waits so long, so this holds on a machine that is busy, too."""


@pytest.fixture(autouse=True)
def fresh_log() -> Iterator[None]:
    """Events of this process go to stderr: a command that runs in it has stdout to itself. It leaves its log on a stream that is closed."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def server() -> Iterator[embedded.Server]:
    """PostgreSQL, without durability: tests that need it start their own."""
    remove_leftovers()
    with private_server(options={"max_connections": "200", "max_wal_size": "256MB"}) as running:
        yield running


def psql(server: embedded.Server, dsn: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """psql as a DBA runs it; does not raise."""
    return subprocess.run(
        [str(server.psql), "-qX", "-v", "ON_ERROR_STOP=1", dsn, *arguments],
        input=stdin,
        env=server.binaries.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


async def prepare_database(server: embedded.Server, name: str) -> str:
    """A new database with roles and schema, declared complete; returns the superuser's DSN."""
    admin = await asyncpg.connect(server.dsn())
    await admin.execute(f'CREATE DATABASE "{name}"')
    await admin.close()
    done = psql(server, server.dsn(name), "-f", str(resources.path("sql/roles.sql")))
    assert done.returncode == 0, done.stderr
    connection = await asyncpg.connect(server.dsn(name))
    try:
        await migrations.migrate(connection)
        await connection.execute("SELECT registry.declare_complete('person', 'tests say themselves whom the registry holds')")
    finally:
        await connection.close()
    return server.dsn(name)


@pytest.fixture(scope="session")
def template(server: embedded.Server) -> str:
    asyncio.run(prepare_database(server, TEMPLATE))
    return TEMPLATE


def time_ordered_id(milliseconds: int, random: bytes) -> UUID:
    """A page's id: a UUID that begins with a time (RFC 9562 version 7) and ends in four zero hexadecimal digits. `random`: 10 bytes."""
    value = (milliseconds << 80) | (int.from_bytes(random[:10], "big") & ~0xFFFF)
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)


@dataclass
class TestDatabase:
    """A clone of the template, dropped after its test."""

    __test__ = False
    server: embedded.Server
    name: str

    def dsn(self, user: str = "postgres") -> str:
        return self.server.dsn(self.name, user)

    def psql(self, *arguments: str, stdin: str | None = None, user: str = "postgres") -> subprocess.CompletedProcess[str]:
        return psql(self.server, self.dsn(user), *arguments, stdin=stdin)

    def allow_ends(self) -> None:
        """Lets any number of contracts end today: nothing is held."""
        allowance = (
            "INSERT INTO registry.wave_allowance (ends, until_at, reason) VALUES (1000000000, now() + interval '1 day', 'a test ends many')"
        )
        done = self.psql("-c", allowance)
        assert done.returncode == 0, done.stderr

    @asynccontextmanager
    async def connect(self, user: str = "postgres") -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.dsn(user))
        try:
            yield connection
        finally:
            await connection.close()

    def pool(self, size: int = 4) -> Database:
        """The daemon's pool, under the daemon's role."""
        return Database(self.dsn("registryd_app"), size=size, connect_timeout_s=3, command_timeout_s=30)


@contextlib.contextmanager
def cloned(server: embedded.Server, template: str | None) -> Iterator[TestDatabase]:
    """A database of its own, for a test or a module; without a template an empty one."""
    name = f"t_{secrets.token_hex(6)}"

    async def admin(statement: str) -> None:
        connection = await asyncpg.connect(server.dsn())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(admin(f'CREATE DATABASE "{name}" TEMPLATE "{template or "template1"}"'))
    try:
        yield TestDatabase(server, name)
    finally:
        asyncio.run(admin(f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
def database(server: embedded.Server, template: str) -> Iterator[TestDatabase]:
    with cloned(server, template) as clone:
        yield clone


async def rewrite_policy(connection: asyncpg.Connection[asyncpg.Record], assignments: str) -> None:
    """As if the law had always been so: the database itself refuses to change a policy that has begun."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL session_replication_role = 'replica'; UPDATE registry.policy SET {assignments}")


@dataclass
class TestMessenger:
    """A messenger with its key and secret, as its own engineers hold them."""

    __test__ = False
    messenger_id: int
    name: str
    api_key: str
    secret: SigningSecret

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


@dataclass
class Site:
    """A configured registry: database, credentials and registryd.toml, as `serve` takes it."""

    database: TestDatabase
    directory: Path
    operator_key: keys.NewKey
    secrets_key: bytes
    journal_key: bytes
    path: Path

    def admit_operator(self) -> None:
        """Makes the operator's key known to the database, where that is there."""
        key = self.operator_key
        values = f"'{key.key_id}', 'site.{key.key_id}', '{{feed,read,act}}', '\\x{key.secret_sha256.hex()}'"
        columns = "key_id, name, scopes, secret_sha256"
        self.database.psql("-c", f"INSERT INTO registry.operator_key ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING")

    @property
    def settings(self) -> config.Settings:
        return config.load(self.path)

    @property
    def operator_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.operator_key.shown}"}

    def write_config(self, **sections: str) -> None:
        """Writes registryd.toml: each keyword is a section's text; database and credentials are given."""
        sections = {
            "api": 'listen = "127.0.0.1:0"',
            "operator": 'listen = "127.0.0.1:0"',
            "observe": 'listen = "127.0.0.1:0"',
            "delivery": 'allow_http = true\nallow_networks = ["127.0.0.0/8"]',
            "log": 'level = "debug"',
            **sections,
        }
        dsn, owner_dsn = self.database.dsn("registryd_app"), self.database.dsn()
        texts = [f'[database]\ndsn = "{dsn}"\nowner_dsn = "{owner_dsn}"\n{sections.pop("database", "")}']
        texts += [f"[{name}]\n{text}" for name, text in sections.items()]
        texts.append(f'[credentials]\ndirectory = "{self.directory / "credentials"}"')
        self.path.write_text("\n\n".join(texts) + "\n")

    async def add_messenger(self, name: str = "messenger", endpoint: str | None = None, **facts: Any) -> TestMessenger:
        key, secret = keys.new_key(), signing.new_secret()
        box = SecretBox(self.secrets_key)
        async with self.database.pool() as pool, pool.transaction() as connection:
            wanted = Messenger(0, name, "active", endpoint, 1, False, None, [])._replace(**facts)  # type: ignore[arg-type]
            messenger_id = await messengers.add(connection, wanted, None, None)
            await messengers.add_key(connection, messenger_id, key.key_id, key.secret_sha256)
            await messengers.add_secret(connection, box, messenger_id, secret)
        return TestMessenger(messenger_id, name, key.shown, secret)

    async def digest_key(self) -> bytes:
        """This month's key of the journal's digests."""
        return await digest_key(self.database, self.journal_key)

    async def slow_nobody(self) -> None:
        """Enumeration alarms are told and slow nobody down: for what asks for many numbers that are not there."""
        async with self.database.connect() as connection:
            await rewrite_policy(connection, "alarm_queries_per_minute = 2147483647")

    async def add_contracts(self, *msisdns: int, **facts: str) -> None:
        """Live contracts, individuals' unless `facts` say otherwise."""
        usual = {"generation": "1", "status": "active", "holder": "individual", "end_user": "not_required", "started_at": "2020-01-01"}
        columns = usual | facts
        names, values = ", ".join(columns), ", ".join(f"'{value}'" for value in columns.values())
        async with self.database.connect() as connection:
            await connection.executemany(
                f"INSERT INTO registry.contract (msisdn, {names}) VALUES ($1, {values})", [(msisdn,) for msisdn in msisdns]
            )


async def digest_key(database: TestDatabase, journal_key: bytes) -> bytes:
    async with database.pool(1) as db:
        return (await digest_keys.read_current(db, SecretBox(journal_key))).key


def make_site(database: TestDatabase, directory: Path) -> Site:
    """Credentials and registryd.toml beside a database."""
    credentials = directory / "credentials"
    credentials.mkdir(mode=0o700, parents=True)
    made_keys = {name: secrets.token_hex(32) for name in ("journal-key", "secrets-key", "feed-key", "head-key")}
    for name, text in made_keys.items():
        (credentials / name).write_text(text + "\n")
        (credentials / name).chmod(0o600)
    secrets_key, journal_key = bytes.fromhex(made_keys["secrets-key"]), bytes.fromhex(made_keys["journal-key"])
    made = Site(database, directory, keys.new_key("ok"), secrets_key, journal_key, directory / "registryd.toml")
    made.write_config()
    return made


@pytest.fixture
def site(database: TestDatabase, tmp_path: Path) -> Site:
    return make_site(database, tmp_path)


@dataclass
class Daemon:
    """Processes of the registry, one of each role that a test asked for, the first one foremost. `facts`: their `started` events."""

    processes: dict[str, subprocess.Popen[bytes]]
    logs: dict[str, Path]
    facts: dict[str, dict[str, Any]]
    scheme: str = "http"
    """The messenger API's."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return next(iter(self.processes.values()))

    @property
    def api(self) -> str:
        return self._listener("answer", "messenger").replace("http:", f"{self.scheme}:")

    @property
    def operator(self) -> str:
        return self._listener("operate", "operator")

    def health(self, role: str | None = None) -> str:
        return self._listener(role or next(iter(self.processes)), "health")

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written().splitlines() if line.startswith("{")]

    def written(self) -> str:
        """What they wrote to stderr."""
        return "".join(path.read_text() for path in self.logs.values())

    def stop(self, timeout: float = 40) -> int:
        """SIGTERM to all; returns the first exit code that is not 0, or 0."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return next((code for process in self.processes.values() if (code := process.wait(timeout))), 0)

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(60)

    def metrics(self, role: str | None = None) -> str:
        with urllib.request.urlopen(f"{self.health(role)}/metrics") as answer:
            return str(answer.read().decode())

    def _listener(self, role: str, name: str) -> str:
        address = str(self.facts[role][name][0])
        return address if address.startswith("unix:") else f"http://{address}"


@contextlib.contextmanager
def daemon(
    site: Site, *roles: str, instance: int = 1, until: str = "started", environment: dict[str, str] | None = None, **popen: Any
) -> Iterator[Daemon]:
    """Starts a process of each role, `answer` unless others are named, and waits until each logs the event `until`."""
    site.admit_operator()
    started = Daemon({}, {}, {})
    try:
        for role in roles or ("answer",):
            log_path = site.directory / f"{role}-{secrets.token_hex(3)}.log"
            with log_path.open("wb") as log:
                command = [sys.executable, "-m", "registryd", "--config", str(site.path), role, "--instance", str(instance)]
                process = subprocess.Popen(command, stderr=log, env={**os.environ, **(environment or {})}, **DIES_WITH_US, **popen)
            started.processes[role], started.logs[role] = process, log_path
        for role, process in started.processes.items():
            started.facts[role] = wait_for(lambda process=process, role=role: said(process, started.logs[role], until))  # type: ignore[misc] # their types are the dicts'
        yield started
    finally:
        for process in started.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(60)


def said(process: subprocess.Popen[bytes], log_path: Path, event: str) -> dict[str, Any] | None:
    """The first event of that name in a process's log, once it is there. Fails where the process has ended."""
    text = log_path.read_text()
    for line in text.splitlines():
        if line.startswith("{") and json.loads(line)["event"] == event:
            return dict(json.loads(line))
    assert process.poll() is None, f"the process ended with {process.returncode}: {text}"
    return None


def runs(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that nobody has waited for is none."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(look: Callable[[], T | None], timeout: float = PATIENCE_S) -> T:
    """Looks until there is something to see. For what another process does; in this one, await it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        seen = look()
        if seen:
            return seen
        time.sleep(0.02)
    raise AssertionError(f"nothing came within {timeout} s")


async def eventually(look: Callable[[], Any], timeout: float = PATIENCE_S) -> Any:
    """The same for a coroutine function or a plain one, on the loop."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        seen = look()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen:
            return seen
        await asyncio.sleep(0.02)
    raise AssertionError(f"nothing came within {timeout} s")


@dataclass
class Inbox:
    """What a messenger received."""

    receipts: list[Receipt] = field(default_factory=list)

    @property
    def notifications(self) -> list[dict[str, Any]]:
        return [notification for receipt in self.receipts for notification in receipt.notifications]


@asynccontextmanager
async def receiving(secret: SigningSecret, port: int = 0, status: int = 204, **faults: Any) -> AsyncIterator[tuple[Receiver, Inbox]]:
    inbox = Inbox()
    async with Receiver(secret, port=port, status=status, on_receipt=inbox.receipts.append, **faults) as receiver:
        yield receiver, inbox


@asynccontextmanager
async def client(base: str, messenger: TestMessenger | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """A messenger's HTTP client."""
    async with aiohttp.ClientSession(base, headers=messenger.headers if messenger else {}) as session:
        yield session
