"""A console in a process that operates, and a person's browser without a screen: forms, cookies and what browsers say of themselves."""

from __future__ import annotations

import asyncio
import html
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from registryd.demo import embedded
from registryd.store import keys, operators
from tests.conftest import Daemon, Site, TestDatabase, cloned, daemon, make_site, wait_for
from tests.console import life


@dataclass
class Shown:
    """A page as it came."""

    status: int
    headers: dict[str, str]
    text: str

    def field(self, name: str) -> str:
        """The value of a field of a form."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.text)
        assert found is not None, f"the page has no field {name}: {self.text}"
        return html.unescape(found[1])


@dataclass
class Browser:
    """Who is logged in by its cookies."""

    http: aiohttp.ClientSession
    base: str

    async def get(self, path: str, **headers: str) -> Shown:
        return await self._ask("GET", path, headers=headers)

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> Shown:
        """A form. Its token is that of the session's pages, unless `fields` say otherwise."""
        return await self._ask("POST", path, data=fields, headers={"Origin": self.base, "Sec-Fetch-Site": "same-origin"} | headers)

    async def log_in(self, key: str, **fields: str) -> Shown:
        return await self.post("/console/login", {"key": key, **fields})

    async def token(self) -> str:
        return (await self.get("/")).field("token")

    async def _ask(self, method: str, path: str, **options: Any) -> Shown:
        async with self.http.request(method, self.base + path, allow_redirects=False, **options) as answer:
            return Shown(answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.text())


@dataclass
class Desk:
    """A site with a process that operates."""

    site: Site
    daemon: Daemon

    @asynccontextmanager
    async def browser(self, address: str = "127.0.0.1") -> AsyncIterator[Browser]:
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), connector=connector) as http:
            yield Browser(http, self.daemon.operator)

    @asynccontextmanager
    async def logged_in(self, *scopes: str) -> AsyncIterator[Browser]:
        """A person with a key of his own."""
        key = await self.key(*scopes)
        async with self.browser() as browser:
            answer = await browser.log_in(key.shown)
            assert answer.status == 303, answer.text
            yield browser

    async def key(self, *scopes: str) -> keys.NewKey:
        """A new person's key that the process knows."""
        key = keys.new_key("ok")
        async with self.site.database.pool(1) as db, db.transaction() as connection:
            await operators.add_key(connection, f"person.{key.key_id}", scopes or ("read", "act"), key)
        self.reload()
        return key

    def reload(self) -> None:
        """SIGHUP, and waits until it is done: the keys are then read anew."""
        done = self.events("reloaded")
        self.daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(self.events("reloaded")) > len(done))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.daemon.log() if line["event"] == name]

    async def sql(self, statement: str, *arguments: Any) -> list[Any]:
        async with self.site.database.connect() as connection:
            return await connection.fetch(statement, *arguments)


@pytest.fixture(scope="module")
def desk(server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with cloned(server, template) as clone:
        yield from at_desk(clone, tmp_path_factory)


def at_desk(database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    site = make_site(database, tmp_path_factory.mktemp("site"))
    with daemon(site, "operate") as running:
        yield Desk(site, running)


@pytest.fixture(scope="session")
def lively(server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A registry full of life, for tests that look at it; those that act undo it."""
    yield from _lively(server, template, tmp_path_factory)


@pytest.fixture(scope="module")
def desk_of_its_own(server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The same for a module's tests whose deeds cannot be undone."""
    yield from _lively(server, template, tmp_path_factory)


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are kept: in $REGISTRYD_SCREENSHOTS, where that names a directory."""
    kept = os.environ.get("REGISTRYD_SCREENSHOTS")
    directory = Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _lively(server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with cloned(server, template) as clone:
        site = make_site(clone, tmp_path_factory.mktemp("lively"))
        asyncio.run(life.fill(site))
        with daemon(site, "operate") as running:
            yield Desk(site, running)
