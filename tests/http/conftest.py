"""One site and one daemon a module: tests keep apart by messengers and numbers of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.error import HTTPError

import asyncpg
import pytest

from registryd.demo import embedded
from tests.conftest import Daemon, Site, TestDatabase, TestMessenger, cloned, daemon, make_site, wait_for

RANGE = (79_160_000_000, 79_169_999_999)
"""The operator's capacity here; NUMBERS are taken from it, and OUTSIDE is not in it."""
OUTSIDE = 79_990_000_001

_names = itertools.count(1)
_numbers = itertools.count(RANGE[0])


def new_number() -> int:
    """An MSISDN that no other test has."""
    return next(_numbers)


@dataclass
class Service:
    """A site with a process that answers, and one that operates for those who ask for it."""

    site: Site
    daemon: Daemon
    runner: asyncio.Runner
    dba: asyncpg.Connection[asyncpg.Record]
    stack: contextlib.ExitStack

    @property
    def api(self) -> str:
        return self.daemon.api

    @cached_property
    def operating(self) -> Daemon:
        """Started where it is first asked for."""
        assert threading.current_thread() is threading.main_thread(), "a process ends with the thread that started it"
        return self.stack.enter_context(daemon(self.site, "operate"))

    @property
    def operator(self) -> str:
        return self.operating.operator

    def messenger(self, **facts: Any) -> TestMessenger:
        """A new messenger whose key the daemon knows."""
        made = asyncio.run(self.site.add_messenger(f"m{next(_names)}", **facts))
        self.reload()
        return made

    def contracts(self, count: int = 1, **facts: str) -> list[int]:
        """New numbers with live contracts."""
        numbers = [new_number() for _ in range(count)]
        asyncio.run(self.site.add_contracts(*numbers, **facts))
        return numbers

    def reload(self) -> None:
        """SIGHUP, and waits until it is done: the directory is then read anew."""
        done = self._reloads()
        self.daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self._reloads() > done)

    def _reloads(self) -> int:
        return sum(line["event"] == "reloaded" for line in self.daemon.log())

    def sql(self, statement: str, *arguments: Any) -> list[Any]:
        """Runs a statement as the DBA."""

        return self.runner.run(self.dba.fetch(statement, *arguments))

    def metric(self, name: str) -> float:
        """The sum of a metric's series, 0 where there is none yet."""
        lines = [line.rpartition(" ") for line in self.daemon.metrics().splitlines() if not line.startswith("#")]
        return sum(float(value) for series, _, value in lines if series == name or series.startswith(name + "{"))


@pytest.fixture(scope="module")
def module_database(server: embedded.Server, template: str) -> Iterator[TestDatabase]:
    with cloned(server, template) as clone:
        yield clone


@pytest.fixture(scope="module")
def service(module_database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    site = make_site(module_database, tmp_path_factory.mktemp("site"))
    with daemon(site) as started, serving(site, started) as service:
        yield service


@contextlib.contextmanager
def serving(site: Site, started: Daemon) -> Iterator[Service]:
    """The site's capacity is RANGE."""
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        dba = runner.run(asyncpg.connect(site.database.dsn()))
        service = Service(site, started, runner, dba, stack)
        service.sql("INSERT INTO registry.numbering_range (first_msisdn, last_msisdn) VALUES ($1, $2)", *RANGE)
        yield service
        runner.run(dba.close())


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any
    raw: bytes


def ask(
    base: str, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None, raw: bytes | None = None
) -> Answer:
    """One plain request: `body` as JSON, or `raw` as it is. Headers' names come back in lower case."""
    data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(base + path, data=data, method=method, headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, given, content = response.status, response.headers, response.read()
    except HTTPError as error:
        with error:
            status, given, content = error.code, error.headers, error.read()
    is_json = given.get_content_type() in ("application/json", "application/problem+json")
    return Answer(status, {name.lower(): value for name, value in given.items()}, json.loads(content) if is_json else None, content)


def exchange(base: str, request: bytes, timeout: float = 20) -> bytes:
    """Sends bytes as they are and returns all that comes back until the daemon closes the connection."""
    host, _, port = base.removeprefix("http://").rpartition(":")
    received = []
    with socket.create_connection((host, int(port)), timeout=timeout) as sock:
        with contextlib.suppress(ConnectionError):  # it may have answered and closed before the last byte was sent
            sock.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            while part := sock.recv(65536):
                received.append(part)
    return b"".join(received)


def parse_answer(raw: bytes) -> Answer:
    """The one answer in what `exchange` returned; `raw` is all of it."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(body) == int(headers["content-length"]), "exactly one answer came back"
    return Answer(int(first.split(" ")[1]), headers, json.loads(body) if "json" in headers["content-type"] else None, raw)
