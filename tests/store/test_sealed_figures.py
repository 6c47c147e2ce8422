"""What seals count: every answer, once, by day and messenger, and what the law's rules made of it."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta

from registryd import resources
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.domain.presence import PresenceQuery, by_columns
from registryd.presence.answerer import Answerer
from registryd.store.digest_keys import DigestKey
from tests.conftest import TestDatabase
from tests.store.conftest import (
    FIRST,
    add_contracts,
    add_messengers,
    ask,
    begin_chain,
    change_policy,
    seal_all,
)
from tests.store.test_seals import assert_whole


def test_every_answered_query_is_sealed_and_counted_whoever_asked(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await begin_chain(connection, datetime.now(UTC))
            await add_contracts(connection, 2)
            owners = [MessengerId(messenger_id) for messenger_id in await add_messengers(connection, 3)]
            answerer = Answerer(db, DigestKey(1, bytes(32)), statements_in_flight=2, group_max=4, queue_max=100)
            asked = [PresenceQuery(Msisdn(FIRST + n), IdentificationCode(f"u{n}") if n % 2 else None) for n in range(4)]
            now = time.monotonic()
            await asyncio.gather(
                *(answerer.answer(owner, query, now - 1_300 * (owner == owners[0])) for query in asked for owner in owners[:2]),
                answerer.answer_batch(owners[2], by_columns(asked[::2]), now),
            )
            open_figures = [tuple(row) for row in await connection.fetch("SELECT * FROM report.answer_deadline ORDER BY messenger")]
            assert [row[2:5] for row in open_figures] == [(4, 0, 4), (4, 4, 0), (2, 2, 0)], "in time and late by durations"
            assert await seal_all(connection, datetime.now(UTC) + timedelta(minutes=2)) >= 1
            sealed_figures = [tuple(row) for row in await connection.fetch("SELECT * FROM report.answer_deadline ORDER BY messenger")]
            assert sealed_figures == open_figures
            daily = await connection.fetch("SELECT queries, present, absent FROM report.presence_daily ORDER BY messenger")
            assert [tuple(row) for row in daily] == [(4, 2, 2), (4, 2, 2), (2, 1, 1)]
            pages = await connection.fetchval("SELECT count(*) FROM registry.journal_page")
        await assert_whole(database, pages)

    asyncio.run(run())


def test_whom_the_operator_could_not_bind_is_told_by_day_and_messenger(database: TestDatabase) -> None:
    """Present without a code, present with a code in use elsewhere, absent with a code, and three that left a binding."""

    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await begin_chain(connection, datetime.now(UTC))
            await add_contracts(connection, 4)
            one, two = await add_messengers(connection, 2)
            assert await ask(db, one, (FIRST, "a"), (FIRST + 1, None), (FIRST + 9, "z")) == (["recorded", None, None], "110")
            assert await ask(db, one, (FIRST, "a"), (FIRST + 2, None)) == (["unchanged", None], "11")
            assert await ask(db, one, (FIRST + 3, "a")) == (["code_in_use"], "1")
            assert await ask(db, one, (FIRST, "b")) == (["replaced"], "1")
            assert await ask(db, two, (FIRST, None), (FIRST + 1, None)) == ([None, None], "11")
            bound = await connection.fetch("SELECT bound::text FROM registry.journal_page ORDER BY answered_at")
            assert [row[0] for row in bound] == ["100", "10", None, "1", None]
            [recipe] = [
                block
                for block in re.findall(r"```sql\n(.*?)```", resources.path("sql/README.md").read_text(), re.DOTALL)
                if "AS without_code" in block
            ]
            numbers = await connection.fetch(recipe.replace("now() - interval '2 days'", "now()"))
            assert sorted(tuple(row)[1:] for row in numbers) == [(2, 2), (4, 3)], "numbers, each once"
            for _ in ("open", "sealed"):
                rows = await connection.fetch(
                    "SELECT present, with_code, without_code, is_final FROM report.presence_without_code ORDER BY messenger"
                )
                assert [tuple(row) for row in rows] == [(6, 3, 3, False), (2, 0, 2, False)]
                await seal_all(connection, datetime.now(UTC) + timedelta(minutes=2))
            await connection.execute("UPDATE registry.presence_day SET day = day - 2")
            assert await connection.fetchval("SELECT bool_and(is_final) FROM report.presence_without_code")

    asyncio.run(run())


def test_answers_that_the_organisation_rule_turned_are_counted_by_day(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await begin_chain(connection, datetime.now(UTC))
            await add_contracts(connection, 4)
            (messenger_id,) = await add_messengers(connection, 1)
            unregistered = "UPDATE registry.contract SET holder = 'organisation', end_user = 'unregistered' WHERE msisdn >= $1"
            await connection.execute(unregistered, FIRST + 2)
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST + 3)
            assert (await ask(db, messenger_id, (FIRST, None), (FIRST + 2, None), (FIRST + 3, None), (FIRST + 9, None)))[1] == "1000"
            assert (await ask(db, messenger_id, (FIRST, "a"), (FIRST + 2, "b"), (FIRST + 3, "c")))[1] == "100"
            assert (await ask(db, messenger_id, (FIRST, None)))[1] == "1"
            await change_policy(connection, organisation_rule="subscriber")
            assert (await ask(db, messenger_id, (FIRST + 2, None)))[1] == "1"
            pages = await connection.fetch("SELECT turned_by_rule FROM registry.journal_page ORDER BY answered_at")
            assert [row[0] for row in pages] == [1, 1, None, None]
            await seal_all(connection, datetime.now(UTC) + timedelta(minutes=2))
            assert await connection.fetchval("SELECT sum(turned_by_rule) FROM report.organisation_rule_daily") == 2

    asyncio.run(run())


def test_a_query_that_is_to_be_asked_again_is_no_answer(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as billing, database.pool() as db:
            await begin_chain(connection, datetime.now(UTC))
            await add_contracts(connection, 3)
            (messenger_id,) = await add_messengers(connection, 1)
            async with billing.transaction():
                await billing.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST + 1)
                outcomes, bits = await ask(db, messenger_id, (FIRST, "a"), (FIRST + 1, "b"), (FIRST + 2, None), (FIRST + 3, None))
            assert (outcomes, bits) == (["recorded", "busy", None, None], "1110")
            told = await connection.fetchval("SELECT told::text FROM registry.journal_page")
            assert told == "1011"
            answers = await connection.fetch("SELECT right(query_id::text, 4) AS index, present FROM registry.presence_query")
            assert [tuple(row) for row in answers] == [("0000", True), ("0002", True), ("0003", False)]
            untold = await connection.fetchval("SELECT (left(page_id::text, 32) || '0001')::uuid FROM registry.journal_page")
            assert await connection.fetch("SELECT * FROM registry.find_query($1)", untold) == []
            for _ in ("open", "sealed"):
                figures = await connection.fetch("SELECT queries, present, absent FROM report.presence_daily")
                assert [tuple(row) for row in figures] == [(3, 2, 1)]
                await seal_all(connection, datetime.now(UTC) + timedelta(minutes=2))

    asyncio.run(run())
