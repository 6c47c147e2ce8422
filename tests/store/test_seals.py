"""Every answer is sealed once, in the window of its page's id, whoever writes late, dies or has a wrong clock, and is counted once."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from registryd.domain.identifiers import MessengerId, Msisdn
from registryd.domain.presence import PresenceQuery
from registryd.keep.seals import seal_windows
from registryd.presence.answerer import Answerer
from registryd.store import audit
from registryd.store.digest_keys import DigestKey
from tests.conftest import TestDatabase
from tests.store.conftest import (
    FIRST,
    Connection,
    add_messengers,
    begin_chain,
    seal_all,
    waits,
    write_page,
)

INSERT = (
    "INSERT INTO registry.journal_page (queries, digest_key, messenger_ids, query_counts, waited_ms, digests, present) "
    "VALUES (1, 1, '{1}', '{1}', '{0}', decode(repeat('ab', 16), 'hex'), B'1') RETURNING page_id"
)
"""A page as the daemon writes one: the database makes its id."""


def minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


async def time_of(connection: Connection, page_id: UUID) -> datetime:
    at: datetime = await connection.fetchval("SELECT registry.time_of($1)", page_id)
    return at


async def sealed_until(connection: Connection) -> datetime:
    at: datetime = await connection.fetchval("SELECT max(until_at) FROM registry.seal")
    return at


async def seals(connection: Connection) -> list[int]:
    """How many pages each seal of a window covers."""
    return [row["pages"] for row in await connection.fetch("SELECT pages FROM registry.seal WHERE kind = 'window' ORDER BY sequence")]


async def assert_whole(database: TestDatabase, pages: int) -> None:
    """All pages are sealed, the chain fits, and figures count each query once."""
    verdict = await audit.verify(database.dsn(), None, {})
    assert (verdict.pages, verdict.findings) == (pages, [])
    async with database.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM registry.journal_page") == pages
        counted = await connection.fetchval("SELECT coalesce(sum(queries), 0) FROM registry.presence_day")
        assert counted == await connection.fetchval("SELECT coalesce(sum(queries), 0) FROM registry.journal_page")


def test_a_page_that_is_held_open_over_minutes_holds_up_its_seal_and_no_page(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as slow, database.connect("registryd_app") as app:
            now = minute(datetime.now(UTC))
            await begin_chain(connection, now - timedelta(minutes=3))
            before = await write_page(connection, now - timedelta(minutes=3))
            async with slow.transaction():
                held = await slow.fetchval(INSERT)
                window = minute(await time_of(slow, held))
                later = window + timedelta(minutes=5)
                # Five minutes go by, and pages come: what was over before the window is sealed, the window is not.
                await write_page(connection, later - timedelta(minutes=1))
                assert await app.fetchval(INSERT) != before
                await seal_all(connection, later)
                assert (await sealed_until(connection), sum(await seals(connection))) == (window, 1)
                assert await seal_all(connection, later) == 0
            await seal_all(connection, later)
            assert (await sealed_until(connection), sum(await seals(connection))) == (later, 4)
        await assert_whole(database, 4)

    asyncio.run(run())


def test_a_copy_without_what_sequences_held_answers_and_seals(database: TestDatabase) -> None:
    """Logical replication makes one."""

    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            await begin_chain(connection, datetime.now(UTC) - timedelta(minutes=2))
            await connection.execute("SELECT setval('registry.sealed_until_ms', 0, false)")
            await app.execute("SET statement_timeout = '5s'")
            page_id = await app.fetchval(INSERT)
            assert await time_of(connection, page_id) >= await sealed_until(connection)
            await seal_all(connection, datetime.now(UTC) + timedelta(minutes=2))
        await assert_whole(database, 1)

    asyncio.run(run())


def test_a_page_that_comes_while_its_window_is_sealed_goes_into_a_later_one(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as sealer, database.connect("registryd_app") as app:
            now = datetime.now(UTC)
            await begin_chain(connection, now - timedelta(minutes=1))
            await write_page(connection, now)
            transaction = sealer.transaction()
            await transaction.start()
            ahead = minute(now) + timedelta(minutes=2)  # the sealer's clock is ahead: it seals the very window that pages go to
            while await sealer.fetchrow("SELECT * FROM registry.seal_windows_before($1)", ahead):
                pass
            coming = asyncio.create_task(app.fetchval(INSERT))
            await waits(connection, app.get_server_pid())
            await transaction.commit()
            assert await time_of(connection, await coming) >= await sealed_until(connection)
            assert await seal_all(connection, ahead + timedelta(minutes=3)) == 1
        await assert_whole(database, 2)

    asyncio.run(run())


def test_a_seal_that_fails_loses_no_page_and_lets_none_come_late(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            now = datetime.now(UTC)
            await begin_chain(connection, now - timedelta(minutes=1))
            await write_page(connection, now)
            ahead = minute(now) + timedelta(minutes=2)
            transaction = connection.transaction()
            await transaction.start()
            while await connection.fetchrow("SELECT * FROM registry.seal_windows_before($1)", ahead):
                pass
            await transaction.rollback()
            assert await seals(connection) == []
            assert await time_of(connection, await app.fetchval(INSERT)) >= minute(now) + timedelta(minutes=1)
            await seal_all(connection, ahead + timedelta(minutes=1))
        await assert_whole(database, 2)

    asyncio.run(run())


@pytest.mark.parametrize("minutes", [10, -10], ids=["ahead", "behind"])
def test_a_server_clock_that_is_ten_minutes_wrong_and_is_put_right_leaves_the_chain_whole(database: TestDatabase, minutes: int) -> None:
    """The wrong clock wrote pages and sealed by it; then pages come by the right one."""

    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            now = minute(datetime.now(UTC))
            wrong = now + timedelta(minutes=minutes)
            await begin_chain(connection, now - timedelta(minutes=20))
            await write_page(connection, wrong - timedelta(minutes=1))
            await write_page(connection, wrong)
            await seal_all(connection, wrong + timedelta(minutes=1))
            ids = [await app.fetchval(INSERT) for _ in range(3)]
            times = [await time_of(connection, page_id) for page_id in ids]
            assert min(times) >= max(now, wrong + timedelta(minutes=1))
            assert max(times) <= max(datetime.now(UTC), wrong + timedelta(minutes=1)), "no later than need be"
            answered = await connection.fetchval("SELECT min(answered_at) FROM registry.journal_page WHERE page_id = ANY ($1)", ids)
            assert now <= answered <= datetime.now(UTC), "the answer's time is the clock's, not the id's"
            await seal_all(connection, max(times) + timedelta(minutes=2))
        await assert_whole(database, 5)

    asyncio.run(run())


def test_no_clock_of_a_process_is_in_an_answer(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            before = await connection.fetchval("SELECT clock_timestamp()")
            for wrong in (600.0, -600.0):
                now = time.time()
                monkeypatch.setattr(time, "time", lambda now=now, wrong=wrong: now + wrong)
                answerer = Answerer(db, DigestKey(1, bytes(32)), statements_in_flight=1, group_max=4, queue_max=100)
                answer = await answerer.answer(MessengerId(messenger_id), PresenceQuery(Msisdn(FIRST)), time.monotonic() - 30)
                monkeypatch.undo()
                after = await connection.fetchval("SELECT clock_timestamp()")
                assert before <= answer.answered_at <= after
                assert timedelta(seconds=30) <= answer.answered_at - answer.received_at < timedelta(seconds=60)
                assert before - timedelta(milliseconds=1) <= await time_of(connection, UUID(answer.query_id)) <= after
            assert await connection.fetchval("SELECT sum(late) FROM report.answer_deadline") == 0

    asyncio.run(run())


def test_processes_that_seal_at_once_make_one_chain(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(4) as db, database.pool(4) as other:
            start = minute(datetime.now(UTC)) - timedelta(minutes=12)
            await begin_chain(connection, start)
            for number in range(10):
                await write_page(connection, start + timedelta(minutes=number, seconds=7))
            await asyncio.gather(*(seal_windows(pool) for pool in (db, other) for _ in range(3)))
            await seal_windows(db)
            assert await seals(connection) == [1] * 10
        await assert_whole(database, 10)

    asyncio.run(run())


def test_an_hour_without_answers_is_one_seal(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            start = datetime.now(UTC).replace(hour=1, minute=30, second=0, microsecond=0) - timedelta(days=1)
            await begin_chain(connection, start)
            await write_page(connection, start + timedelta(minutes=100, seconds=59))
            assert await seal_all(connection, start + timedelta(minutes=59)) == 0
            assert await seal_all(connection, start + timedelta(minutes=60)) == 1
            assert await seal_all(connection, start + timedelta(minutes=101)) == 1
            assert await seals(connection) == [0, 1]
            # A window never lies in two days, so that a partition that goes takes whole windows.
            await seal_all(connection, start + timedelta(hours=40))
            over = await connection.fetchval(
                "SELECT count(*) FROM registry.seal WHERE from_at < until_at "
                "AND (from_at AT TIME ZONE 'UTC')::date <> ((until_at - interval '1 ms') AT TIME ZONE 'UTC')::date"
            )
            assert over == 0

    asyncio.run(run())


def test_the_daemon_says_neither_what_a_pages_id_is_nor_when_a_window_is_over(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect("registryd_app") as app:
            for attempt in (
                INSERT.replace("(queries,", "(page_id, queries,").replace("VALUES (1,", "VALUES (gen_random_uuid(), 1,"),
                INSERT.replace("(queries,", "(answered_at, queries,").replace("VALUES (1,", "VALUES (now(), 1,"),
                "SELECT setval('registry.sealed_until_ms', 0)",
                "SELECT registry.seal_windows_before(now() + interval '1 day')",
                "SELECT registry.append_seal('window', now(), 0, 0, sha256(''), '')",
                "UPDATE registry.seal SET pages = 0",
                "DELETE FROM registry.seal",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await app.execute(attempt)
            for isolation in ("repeatable_read", "serializable"):
                with pytest.raises(asyncpg.PostgresError, match="READ COMMITTED"):
                    async with app.transaction(isolation=isolation):
                        await app.fetch("SELECT * FROM registry.seal_window()")

    asyncio.run(run())
