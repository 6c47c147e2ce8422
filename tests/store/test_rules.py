"""The rules that stand in SQL and in Python say the same, ids lead where they say, and nothing is answered without what decides it."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args, get_type_hints
from uuid import UUID

import asyncpg
import pytest

from registryd.domain import binding, contract, identifiers, notification
from registryd.domain.contract import EndReason, EndUser, Holder, Status
from registryd.domain.enumeration import Sign
from registryd.domain.errors import NotComplete, Unavailable
from registryd.domain.identifiers import MessengerId, Msisdn, masked_number, query_id, without_numbers
from registryd.domain.notification import Attempt
from registryd.domain.presence import Policy, is_present
from registryd.store import presence, ranges
from tests.conftest import TestDatabase, rewrite_policy, time_ordered_id
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, ask, bind

ORGANISATION_RULES = ("subscriber", "verified_end_user")
KEY = bytes(range(32))


def test_who_is_present_is_the_same_in_sql_and_python_for_every_combination(shared: TestDatabase) -> None:
    cases = itertools.product(get_args(Status), get_args(EndUser), ORGANISATION_RULES, (False, True))

    async def run() -> None:
        async with shared.connect() as connection:
            call = await connection.prepare(
                "SELECT registry.is_present($1::registry.contract_status, $2::text = 'unregistered', $3::registry.organisation_rule, $4)"
            )
            said = {case: await call.fetchval(*case) for case in cases}
        assert said == {
            (status, end_user, rule, suspended): is_present(status, end_user, Policy(rule, suspended))
            for status, end_user, rule, suspended in said
        }
        assert set(said.values()) == {False, True}

    asyncio.run(run())


def test_a_number_is_masked_alike_in_sql_and_python(shared: TestDatabase) -> None:
    numbers = [number for digits in range(5, 16) for number in (10 ** (digits - 1), 10**digits - 1)]

    async def run() -> None:
        async with shared.connect() as connection:
            rows = await connection.fetch("SELECT registry.masked_number(n) AS masked FROM unnest($1::bigint[]) AS n", numbers)
        assert [row["masked"] for row in rows] == [masked_number(number) for number in numbers]

    asyncio.run(run())


WRITTEN = {
    "call 79161234567 back": "call * back",
    "as +79161234567 says": "as +* says",
    "+7 916 123-45-67 or 8 (916) 123 45 67": "+* or *",
    "of +49 30 901820 1234": "of +*",
    "ended 2026-11-29 10:20, from 2026-11-28 on, by job 77": "ended 2026-11-29 10:20, from 2026-11-28 on, by job 77",
    "wave 8 of 10,234 ends, complaint 17 of 8 persons": "wave 8 of 10,234 ends, complaint 17 of 8 persons",
    "m8 2026-11-29 10:00": "m8 2026-11-29 10:00",
}


def test_what_a_person_wrote_is_told_without_numbers_alike_in_sql_and_python(shared: TestDatabase) -> None:
    assert {text: without_numbers(text) for text in WRITTEN} == WRITTEN
    drawn = random.Random(1801)
    texts = [*WRITTEN, *("".join(drawn.choices("7788+0123 ()--a:", k=drawn.randrange(40))) for _ in range(2_000))]

    async def run() -> None:
        async with shared.connect() as connection:
            rows = await connection.fetch(
                "SELECT registry.without_numbers(t) AS told FROM unnest($1::text[]) WITH ORDINALITY AS u(t, place) ORDER BY place", texts
            )
        told = dict(zip(texts, (row["told"] for row in rows), strict=True))
        assert told == {text: without_numbers(text) for text in texts}

    asyncio.run(run())


def test_the_states_are_the_same_words_in_sql_and_python(shared: TestDatabase) -> None:
    enums = {
        "contract_status": contract.STATUSES,
        "holder": get_args(Holder),
        "end_user": get_args(EndUser),
        "end_reason": get_args(EndReason),
        "organisation_rule": ORGANISATION_RULES,
        "binding_end_reason": binding.END_REASONS,
        "delivery_channel": notification.CHANNELS,
        "delivery_outcome": get_args(get_type_hints(Attempt)["outcome"]),
        "messenger_state": ("active", "suspended"),
        "secret_kind": ("hmac_sha256", "ed25519"),
        "feed_outcome": ("applied", "refused"),
        "alarm_kind": get_args(Sign),
        "seal_kind": ("begin", "window", "retention"),
        "breakglass_kind": ("look", "reinstate", "withdraw"),
        "breakglass_step": ("requested", "prepared", "approved", "looked", "reinstated", "withdrawn"),
        "range_source": get_args(ranges.RangeSource),
        "change_kind": ("endpoint", "webhook_secret"),
        "change_outcome": ("confirmed", "refused", "superseded"),
    }

    async def run() -> None:
        async with shared.connect() as connection:
            rows = await connection.fetch(
                "SELECT t.typname, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS words FROM pg_type AS t "
                "JOIN pg_enum AS e ON e.enumtypid = t.oid WHERE t.typnamespace = 'registry'::regnamespace GROUP BY t.typname"
            )
            assert {row["typname"]: tuple(row["words"]) for row in rows} == enums

    asyncio.run(run())


def test_the_sql_moves_a_contract_and_a_binding_as_their_modules_draw_it(database: TestDatabase) -> None:
    """Every move from every state, tried: what the drawings allow is done, and nothing else."""

    async def run() -> None:
        async with database.connect() as connection:
            (messenger_id,) = await add_messengers(connection, 1)
            moves = set()
            for number, (start, end) in enumerate(itertools.permutations(contract.STATUSES, 2), FIRST):
                await add_contracts(connection, 1, number)
                await connection.execute("UPDATE registry.contract SET status = $2 WHERE msisdn = $1", number, start)
                if await does(connection, "UPDATE registry.contract SET status = $2 WHERE msisdn = $1", number, end):
                    moves.add((start, end))
            assert moves == {("active", "suspended"), ("suspended", "active"), ("active", "ended"), ("suspended", "ended")}

            await add_contracts(connection, 3, FIRST + 100)
            await bind(connection, messenger_id, 3, FIRST + 100)
            end = "UPDATE registry.binding SET ended_at = now(), end_reason = $2 WHERE msisdn = $1"
            for number, reason in enumerate(binding.END_REASONS, FIRST + 100):
                assert await does(connection, end, number, reason)
                assert not await does(connection, end, number, "removed")
                assert not await does(
                    connection, "UPDATE registry.binding SET ended_at = NULL, end_reason = NULL WHERE msisdn = $1", number
                )

    asyncio.run(run())


async def does(connection: Connection, statement: str, *arguments: Any) -> bool:
    try:
        await connection.execute(statement, *arguments)
    except asyncpg.IntegrityConstraintViolationError:
        return False
    return True


def test_an_ids_time_is_the_same_made_and_read_in_sql_and_python(shared: TestDatabase) -> None:
    moments = [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 11, 22, 8, 30, 0, 1_499, tzinfo=UTC),
        datetime(2999, 12, 31, tzinfo=UTC),
    ]

    async def run() -> None:
        async with shared.connect() as connection:
            for moment in moments:
                truncated = moment - timedelta(microseconds=moment.microsecond % 1000)
                made: UUID = await connection.fetchval("SELECT registry.id_at($1)", moment)
                assert (made.version, made.variant) == (7, "specified in RFC 4122")
                milliseconds = (truncated - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
                assert made.int >> 80 == milliseconds
                assert await connection.fetchval("SELECT registry.time_of($1)", made) == truncated
                ours = time_ordered_id(milliseconds, secrets.token_bytes(10))
                assert (ours.version, ours.variant) == (7, "specified in RFC 4122")
                assert await connection.fetchval("SELECT registry.time_of($1)", ours) == truncated
                assert await connection.fetchval("SELECT registry.time_of($1)", query_id(str(ours), 65_535)) == truncated
            first: UUID = await connection.fetchval("SELECT registry.first_id_at('2026-03-01 00:00+00')")
            last = query_id(str(time_ordered_id((first.int >> 80) - 1, b"\xff" * 10)), 65_535)
            assert time_ordered_id(first.int >> 80, bytes(10)) > first > UUID(last)
            made_ids = await connection.fetch("SELECT registry.id_at(now()) AS id FROM generate_series(1, 1000)")
            assert len({row["id"] for row in made_ids}) == 1000

    asyncio.run(run())


async def journaled(database: TestDatabase, messenger_id: int, numbers: Sequence[int], waited_ms: int) -> presence.Answered:
    """A page of real queries under a real key."""
    runs = presence.Runs([MessengerId(messenger_id)], [len(numbers)], [waited_ms])
    msisdns = [Msisdn(number) for number in numbers]
    async with database.pool() as db:
        answered = await presence.answer(db, runs, msisdns, None, identifiers.msisdn_digests(KEY, msisdns), 1)
    assert isinstance(answered, presence.Answered)
    return answered


def test_every_query_is_found_by_its_id_and_says_what_its_page_says(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await add_contracts(connection, 10)
            (messenger_id,) = await add_messengers(connection, 1)
            numbers = [FIRST + i for i in (3, 99, 0, 50, 9)]
            page_id, answered_at, bits = await journaled(database, messenger_id, numbers, 1_500)
            assert bits == "10101"
            listed = await connection.fetch("SELECT * FROM registry.presence_query ORDER BY query_id")
            assert [str(row["query_id"]) for row in listed] == [query_id(str(page_id), i) for i in range(5)]
            for i, number in enumerate(numbers):
                (found,) = await connection.fetch("SELECT * FROM registry.find_query($1)", query_id(str(page_id), i))
                assert found == listed[i]
                assert found["msisdn_digest"] == identifiers.msisdn_digest(KEY, Msisdn(number))
                assert (found["messenger_id"], found["present"], found["answered_at"]) == (messenger_id, bits[i] == "1", answered_at)
                assert found["answered_at"] - found["received_at"] == timedelta(milliseconds=1_500)
            for unknown in (query_id(str(page_id), 5), time_ordered_id(1, bytes(10))):
                assert await connection.fetch("SELECT * FROM registry.find_query($1)", unknown) == []
            page = await connection.fetchrow("SELECT queries, messenger_ids, query_counts, digest_key, told FROM registry.journal_page")
            assert tuple(page or ()) == (5, [messenger_id], [5], 1, None)

    asyncio.run(run())


def test_the_operators_capacity_changes_no_answer(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await add_contracts(connection, 6)
            (messenger_id,) = await add_messengers(connection, 1)
            asked: list[tuple[int, str | None]] = [(FIRST + i, None) for i in range(6)]
            with_codes: list[tuple[int, str | None]] = [(FIRST + i, f"u-{i}") for i in range(6)]
            assert (await ask(db, messenger_id, *asked))[1] == "111111"
            await connection.execute("INSERT INTO registry.numbering_range VALUES ($1::bigint, $1 + 1), ($1 + 3, $1 + 3)", FIRST)
            assert (await ask(db, messenger_id, *asked))[1] == "111111"
            outcomes, bits = await ask(db, messenger_id, *with_codes)
            assert bits == "111111"
            assert outcomes == ["recorded"] * 6

    asyncio.run(run())


INCOMPLETE = {
    "nobody has said so": "DELETE FROM registry.feed_state",
    "a person took it back": "SELECT registry.declare_incomplete('restored to Tuesday')",
    "it was said in another cluster": "UPDATE registry.feed_state SET system_identifier = 1, server_started_at = now() - interval '1 day'",
}


@pytest.mark.parametrize("statement", INCOMPLETE.values(), ids=list(INCOMPLETE))
def test_before_the_registry_is_complete_nothing_is_answered_journaled_or_bound(database: TestDatabase, statement: str) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await add_contracts(connection, 2)
            (messenger_id,) = await add_messengers(connection, 1)
            await connection.execute(statement)
            for queries in ([(FIRST, None), (FIRST + 9, None)], [(FIRST, "u-1"), (FIRST + 9, "u-2")]):
                with pytest.raises(NotComplete):
                    await ask(db, messenger_id, *queries)
            assert not await presence.confirm_complete(db)
            assert await connection.fetchval("SELECT count(*) FROM registry.journal_page") == 0
            assert await connection.fetchval("SELECT count(*) FROM registry.binding") == 0
            await connection.execute("SELECT registry.declare_complete('person', 'all are here')")
            assert (await ask(db, messenger_id, (FIRST, "u-1"), (FIRST + 9, None))) == (["recorded", None], "10")

    asyncio.run(run())


def test_a_server_that_was_started_again_is_known_by_its_clusters_identifier(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await add_contracts(connection, 1)
            (messenger_id,) = await add_messengers(connection, 1)
            await connection.execute("UPDATE registry.feed_state SET server_started_at = now() - interval '1 day'")
            assert (await ask(db, messenger_id, (FIRST, None)))[1] == "1"
            assert await presence.confirm_complete(db)
            assert await connection.fetchval("SELECT server_started_at = pg_postmaster_start_time() FROM registry.feed_state")

    asyncio.run(run())


def test_without_a_policy_in_force_nothing_is_answered_rather_than_absent(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await add_contracts(connection, 1)
            (messenger_id,) = await add_messengers(connection, 1)
            await rewrite_policy(connection, "effective_from = now() + interval '1 day'")
            for code in (None, "u-1"):
                with pytest.raises(Unavailable):
                    await ask(db, messenger_id, (FIRST, code))
            assert await connection.fetchval("SELECT count(*) FROM registry.journal_page") == 0
            assert await connection.fetchval("SELECT count(*) FROM registry.binding") == 0

    asyncio.run(run())


def test_the_latest_policy_that_has_begun_is_in_force(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await connection.execute(
                "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
                "VALUES ($1::bigint, 1, 'active', 'organisation', 'unregistered', now()), "
                "($1 + 1, 1, 'suspended', 'individual', 'not_required', now())",
                FIRST,
            )
            (messenger_id,) = await add_messengers(connection, 1)
            assert (await ask(db, messenger_id, (FIRST, None), (FIRST + 1, None)))[1] == "01"
            changes = '{"organisation_rule": "subscriber", "suspended_is_present": false}'
            add = f"SELECT registry.change_policy('{changes}', now() + $1::interval, 'another law')"
            await connection.execute(add, timedelta(days=1))
            assert (await ask(db, messenger_id, (FIRST, None), (FIRST + 1, None)))[1] == "01"
            await connection.execute(add, timedelta(0))
            assert (await ask(db, messenger_id, (FIRST, None), (FIRST + 1, None)))[1] == "10"

    asyncio.run(run())
