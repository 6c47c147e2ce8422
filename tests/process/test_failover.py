"""The primary is lost and its standby promoted: answers within seconds, 503 meanwhile, and nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from registryd.cli import main
from registryd.demo import embedded
from registryd.domain.heads import Link
from registryd.store import audit, bulk
from tests.conftest import TestDatabase, client, eventually
from tests.failover.pair import NAME, Outcome, Pair, copy_cold, count_lost, fail_over, is_right, pair
from tests.http.test_database_away import frozen, load, more
from tests.store.conftest import seal_all

AWAY = "the database takes no writes"
COMMAND_TIMEOUT_S = 10.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as made:
        yield made


async def says(running: Pair, status: int, reason: str | None) -> bool:
    """Whether /readyz says so."""
    async with client(running.daemon.health()) as session, session.get("/readyz") as response:
        return (response.status, (await response.json()).get("reason")) == (status, reason)


def assert_survived(outcome: Outcome) -> None:
    """It answers again; `make failover` tells how soon."""
    assert (outcome.wrong, outcome.lost) == (0, 0)


def test_a_killed_primary_is_followed_by_its_standby(running: Pair) -> None:
    assert_survived(asyncio.run(fail_over(running, "killed")))
    for words in (["check"], ["migrate"]):
        done = CliRunner().invoke(main, ["--config", str(running.site.path), *words])
        assert done.exit_code == 0, done.output


def test_check_says_whether_a_promotion_may_lose_what_was_answered(running: Pair) -> None:
    assert durability(running) == ("ok", "synchronous")
    running.sql(running.first, "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
    asyncio.run(eventually(lambda: is_durable(running, "warning", "asynchronous")))
    running.second.stop()
    asyncio.run(eventually(lambda: is_durable(running, "ok", "one server")))


async def is_durable(running: Pair, *told: str) -> bool:
    return await asyncio.to_thread(durability, running) == told


def durability(running: Pair) -> tuple[str, str]:
    done = CliRunner().invoke(main, ["--config", str(running.site.path), "check", "--json"])
    [found] = [finding for finding in json.loads(done.stdout) if finding["check"] == "durability"]
    return found["state"], re.split("[:,]", found["detail"])[0]


def test_a_hung_primary_is_left_and_never_returned_to(running: Pair) -> None:
    """Once it goes on, it takes writes again, as one that nobody could stop: what is answered then is journaled at the new one alone."""

    async def run() -> None:
        with frozen(running.first):
            await eventually(lambda: says(running, 503, "the database does not answer"))
        assert_survived(await fail_over(running, "hung"))
        await eventually(lambda: says(running, 200, None))
        async with load(running.as_away) as told:
            await more(told, 200, 100)
        answers = [answer for answer in told if answer.status == 200]
        assert await count_lost(running, answers) == 0
        assert await count_lost(running, answers, running.first) == len(answers)
        # What the former primary sealed alone is told as that, and not as tampering; what it had sealed before is still there.
        head = await seal(running.first)
        await seal(running.second)
        second = TestDatabase(running.second, NAME).dsn()
        assert [finding.fault for finding in (await audit.verify(second, None, head)).findings] == ["head_of_lost_timeline"]
        assert (await audit.verify(second, None, {})).findings == []

    asyncio.run(run())


def test_what_waits_for_a_primary_that_hangs_is_refused_long_before_its_statement_s_deadline(running: Pair) -> None:
    """`make failover` and `make patroni` tell how soon. Once it goes on it is asked again."""

    async def run() -> None:
        async with load(running.as_away) as told:
            await more(told, 200)
            with frozen(running.first):
                began = time.monotonic()
                await more(told, 503)
                await eventually(lambda: says(running, 503, "the database does not answer"))
                assert time.monotonic() - began < COMMAND_TIMEOUT_S
            await more(told, 200)
        assert all(map(is_right, told))

    asyncio.run(run())


def test_a_commit_that_no_standby_confirms_is_refused_soon_and_shown_to_nobody(running: Pair) -> None:
    """It is not cancelled, because PostgreSQL then shows it to everybody, and the next primary does not have it."""

    async def count_pages() -> int:
        async with TestDatabase(running.first, NAME).connect() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM registry.journal_page"))

    async def run() -> None:
        async with load(running.as_away) as told:
            await more(told, 200)
            with frozen(running.second):
                began = time.monotonic()
                await more(told, 503)
                await eventually(lambda: says(running, 503, "commits wait for a standby that does not confirm them"))
                assert time.monotonic() - began < COMMAND_TIMEOUT_S
                pages = await count_pages()
                await more(told, 503)
                assert await count_pages() == pages
            await more(told, 200)
            await eventually(lambda: says(running, 200, None))
        assert all(map(is_right, told))

    asyncio.run(run())


def test_a_cluster_that_goes_back_to_a_lower_timeline_is_followed(running: Pair) -> None:
    """As when a promoted standby is abandoned and made a standby of the former primary. Until then it is said who was left behind."""

    async def run() -> None:
        async with load(running.as_away) as told:
            await more(told, 200)
            with frozen(running.first):
                await asyncio.to_thread(running.promote)
                await more(told, 200)
            await asyncio.to_thread(running.second.stop)
            await eventually(lambda: said(running, "primary_left_behind"))
            await more(told, 503)
            running.sql(running.first, "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
            await asyncio.to_thread(running.first.stop)
            shutil.rmtree(running.second.directory)
            copy_cold(running.first, running.second)
            await asyncio.to_thread(running.first.start)
            await asyncio.to_thread(running.second.start)
            await more(told, 200)
            await eventually(lambda: says(running, 200, None))
        assert all(map(is_right, told))

    asyncio.run(run())


def test_a_command_works_on_the_primary_though_a_former_one_takes_writes(running: Pair) -> None:
    """The former one stands first in the DSN. What an import wrote there would be lost."""

    async def port() -> int:
        connection = await bulk.connect(running.site.settings.file.database.dsn)
        try:
            return int(await connection.fetchval("SELECT current_setting('port')"))
        finally:
            await connection.close()

    async def run() -> None:
        assert await port() == running.first.port
        await asyncio.to_thread(running.promote)
        assert running.sql(running.first, "SELECT NOT pg_is_in_recovery()") == "t"
        assert await port() == running.second.port

    asyncio.run(run())


def said(running: Pair, event: str) -> bool:
    return any(line["event"] == event for line in running.daemon.log())


async def seal(server: embedded.Server) -> dict[str, Link]:
    """Seals all that a server holds, though no standby hears of it; the journal's head then."""
    database = TestDatabase(server, NAME)
    async with database.connect() as connection:
        await connection.execute("SET synchronous_commit = local")
        # Whoever waits there for a standby to hear of his seal holds up the next one.
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'"
        )
        until = datetime.now(UTC) + timedelta(minutes=2)
        await eventually(lambda: seal_all(connection, until))
    async with audit.reading(database.dsn(), None) as connection:
        return {"journal": (await audit.read_heads(connection))["journal"]}


def test_a_primary_demoted_under_its_connections_is_never_asked(running: Pair) -> None:
    async def run() -> None:
        async with load(running.as_away) as told:
            await more(told, 200)
            demoted = len(told)
            running.sql(running.first, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            await more(told, 503, 50)
            await eventually(lambda: says(running, 503, AWAY))
            running.sql(running.first, "SET default_transaction_read_only = off", "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
            await more(told, 200)
            await eventually(lambda: says(running, 200, None))
        assert all(map(is_right, told))
        assert any(answer.status == 503 for answer in told[demoted:])

    asyncio.run(run())
