"""The console when something is wrong: a fault of ours, a schema of another release; and over TLS."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from registryd.console.plans import at_most
from registryd.roles.operate import VIEW_CONNECTIONS
from registryd.store.pool import PlainConnection
from tests.certificates import make_pair, put_certificate
from tests.conftest import TestDatabase, daemon, make_site, wait_for
from tests.console.conftest import Desk
from tests.http.conftest import ask


def test_a_fault_of_ours_is_told_with_what_finds_it_in_the_log_and_no_trace(desk: Desk) -> None:
    async def run() -> None:
        async with desk.logged_in() as browser:
            await desk.sql("ALTER TABLE registry.enumeration_alarm RENAME TO mislaid")
            try:
                answer = await browser.get("/console/alarms")
            finally:
                await desk.sql("ALTER TABLE registry.mislaid RENAME TO enumeration_alarm")
            assert answer.status == 500
            assert answer.headers["x-correlator"] in answer.text
            assert not [word for word in ("mislaid", "enumeration_alarm", "Traceback", "asyncpg") if word in answer.text]
            [told] = desk.events("request_failed")
            assert (told["route"], told["correlator"]) == ("alarms", answer.headers["x-correlator"])
            assert (await browser.get("/console/alarms")).status == 200

    asyncio.run(run())


def test_a_look_that_waits_too_long_is_not_told_as_a_database_that_is_away(desk: Desk) -> None:
    """More people look than there are connections for looks, and each look hangs on a lock: the duty itself goes on."""

    async def run() -> None:
        async with desk.logged_in() as browser, desk.site.database.connect() as dba:
            async with dba.transaction():
                await dba.execute("LOCK registry.enumeration_alarm")
                answers = await asyncio.gather(*(browser.get("/console/alarms") for _ in range(2 * VIEW_CONNECTIONS + 2)))
            assert {answer.status for answer in answers} == {503}
            assert [answer.text for answer in answers if "takes longer than a look may take" not in answer.text] == []
            assert (await browser.get("/console/alarms")).status == 200
            assert "database" not in {told["reason"] for told in desk.events("request_refused") if told["route"] == "alarms"}

    asyncio.run(run())


def test_a_schema_of_another_release_is_told_on_a_page_and_the_api_stays_an_api(database: TestDatabase, tmp_path: Path) -> None:
    site = make_site(database, tmp_path)
    with daemon(site, "operate") as running:
        database.psql("-c", "DELETE FROM registry.schema_migration WHERE version = (SELECT max(version) FROM registry.schema_migration)")
        page = wait_for(lambda: answer if (answer := ask(running.operator, "GET", "/console/login")).status == 503 else None)
        assert b"<h1>" in page.raw
        assert (page.headers["refresh"], page.headers["cache-control"]) == ("5", "no-store")
        [style] = re.findall(rb'href="(/console/static/\S+[.]css)"', page.raw)
        assert ask(running.operator, "GET", style.decode()).status == 200, "it looks like a page of ours all the same"
        call = ask(running.operator, "POST", "/operator/v1/contract-events", {"events": []}, headers=site.operator_headers)
        assert (call.status, call.headers["content-type"]) == (503, "application/problem+json")


def test_over_tls_the_cookie_is_for_tls_and_this_host_alone(database: TestDatabase, tmp_path: Path) -> None:
    site = make_site(database, tmp_path)
    put_certificate(site, make_pair("ours"))

    async def run(base: str) -> None:
        form = {"key": site.operator_key.shown}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as http:
            async with http.post(f"{base}/console/login", data=form, headers={"Origin": base}, allow_redirects=False) as answer:
                assert answer.status == 303, await answer.text()
                name, *flags = answer.headers["Set-Cookie"].split("; ")
            assert name.startswith("__Host-registryd-console=")
            assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=Strict", "Secure"]
            token = name.partition("=")[2]
            for cookie, status in (("__Host-registryd-console", 200), ("registryd-console", 303)):
                async with http.get(f"{base}/", headers={"Cookie": f"{cookie}={token}"}, allow_redirects=False) as answer:
                    assert answer.status == status

    with daemon(site, "operate") as running:
        asyncio.run(run(running.operator.replace("http:", "https:")))


def test_what_may_take_long_has_no_more_connections_than_it_may(desk: Desk) -> None:
    async def run() -> None:
        opened: list[int] = []

        @asynccontextmanager
        async def counted() -> AsyncIterator[PlainConnection]:
            opened.append(1)
            async with desk.site.database.connect() as connection:
                yield connection
            opened.pop()

        async def hold(end: asyncio.Event) -> None:
            async with bulk():
                most.append(len(opened))
                await end.wait()

        bulk, most, ends = at_most(2, counted), list[int](), [asyncio.Event() for _ in range(4)]
        async with asyncio.TaskGroup() as tasks:
            for end in ends:
                tasks.create_task(hold(end))
            while len(most) < 2:
                await asyncio.sleep(0)
            for end in ends:
                end.set()
        assert (len(most), max(most), opened) == (4, 2, [])

    asyncio.run(run())
