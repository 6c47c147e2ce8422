"""What no path can break, tried as a DBA would: with psql, one statement at a time, under the superuser's role and the daemon's."""

from __future__ import annotations

import asyncio
import re

import asyncpg
import pytest

from tests.conftest import TestDatabase
from tests.store.conftest import add_messengers, bind, waits
from tests.store.dba import bound, dba, owed, refused

REFUSALS = {
    "reopening": (
        "UPDATE registry.contract SET status = 'active', ended_at = NULL, end_reason = NULL WHERE msisdn = {ended}",
        "ended is final (generation 1)",
        "Insert a contract of the next generation",
    ),
    "reopening by status": ("UPDATE registry.contract SET status = 'active' WHERE msisdn = {ended}", "ended is final", "next generation"),
    "another end": ("UPDATE registry.contract SET ended_at = now() WHERE msisdn = {ended}", "ended is final", "next generation"),
    "another reason": (
        "UPDATE registry.contract SET end_reason = 'ported_out' WHERE msisdn = {ended}",
        "ended is final",
        "next generation",
    ),
    "renumbering": (
        "UPDATE registry.contract SET msisdn = msisdn + 1000000 WHERE msisdn = {live}",
        "keeps its number",
        "End this contract",
    ),
    "another generation": ("UPDATE registry.contract SET generation = 2 WHERE msisdn = {live}", "keeps its number", "End this contract"),
    "deleting a bound contract": ("DELETE FROM registry.contract WHERE msisdn = {live}", "has bindings", "End it instead: UPDATE"),
    "deleting what was bound": ("DELETE FROM registry.contract WHERE msisdn = {ended}", "has bindings", "End it instead: UPDATE"),
    "an end to come": (
        "UPDATE registry.contract SET ended_at = now() + interval '1 hour' WHERE msisdn = {live}",
        "in the future",
        "set ended_at then",
    ),
    "an end before the start": (
        "UPDATE registry.contract SET ended_at = '2019-12-31' WHERE msisdn = {live}",
        "before started_at",
        "to when it ended",
    ),
    "truncating contracts": ("TRUNCATE registry.contract", "registry.contract is not truncated", "Retention is by policy"),
    "truncating bindings": ("TRUNCATE registry.binding", "registry.binding is not truncated", "Retention is by policy"),
    "truncating what is owed": ("TRUNCATE registry.notification", "registry.notification is not truncated", "Retention is by policy"),
    "truncating the proof": (
        "TRUNCATE registry.notification_delivered",
        "registry.notification_delivered is not",
        "Retention is by policy",
    ),
    "truncating the journal": ("TRUNCATE registry.journal_page", "registry.journal_page is not truncated", "Retention is by policy"),
    "another code": (
        "UPDATE registry.binding SET identification_code = 'x' WHERE msisdn = {live}",
        "never changed, only ended",
        "insert a new binding",
    ),
    "another messenger": (
        "UPDATE registry.binding SET messenger_id = 9 WHERE msisdn = {live}",
        "never changed, only ended",
        "insert a new binding",
    ),
    "another time": (
        "UPDATE registry.binding SET bound_at = now() WHERE msisdn = {live}",
        "never changed, only ended",
        "insert a new binding",
    ),
    "reviving a binding": (
        "UPDATE registry.binding SET ended_at = NULL, end_reason = NULL WHERE msisdn = {ended}",
        "never changed, only ended",
        "insert a new binding",
    ),
    "deleting a live binding": ("DELETE FROM registry.binding WHERE msisdn = {live}", "only ended", "Set ended_at and end_reason together"),
    "binding to an ended contract": (
        "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ({ended}, 1, 1, 'late')",
        "needs a live contract",
        "The contract has ended or never was",
    ),
    "binding to nothing": (
        "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ({live} + 1000000, 1, 1, 'early')",
        "needs a live contract",
        "live generation",
    ),
    "binding for nobody": (
        "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ({live}, 1, 4711, 'whose')",
        "a known messenger",
        "messenger_id is unknown",
    ),
    "deleting what is owed": ("DELETE FROM registry.notification", "is owed, and not deleted", "two persons withdraw it"),
    "deleting what is held": ("DELETE FROM registry.notification_held", "is owed, and not deleted", "two persons withdraw it"),
    "deleting what is owed within a query": (
        "WITH gone AS (DELETE FROM registry.notification RETURNING 1) SELECT count(*) FROM gone",
        "is owed, and not deleted",
        "registryd notifications acknowledge",
    ),
    "putting a deadline off": (
        "UPDATE registry.notification SET deadline_at = deadline_at + interval '1 day'",
        "keeps its messenger, deadline",
        "no receipt would find it",
    ),
    "owing it to somebody else": (
        "UPDATE registry.notification SET messenger_id = 2 WHERE messenger_id = 1",
        "keeps its messenger, deadline",
        "no receipt would find it",
    ),
    "deleting a messenger": ("DELETE FROM registry.messenger WHERE messenger_id = 1", "cannot be deleted", "Suspend it"),
    "a stricter isolation": (
        "BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE registry.contract SET ended_at = now() WHERE msisdn = {live}",
        "READ COMMITTED transactions only",
        "would not see a binding",
    ),
    "the strictest isolation": (
        "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE registry.contract SET status = 'ended' WHERE msisdn = {live}",
        "READ COMMITTED transactions only",
        "would not see a binding",
    ),
}


@pytest.fixture(scope="module")
def pair(shared: TestDatabase) -> tuple[int, int]:
    """A live number and an ended one, both bound."""
    live, ended = bound(shared), bound(shared)
    dba(shared, f"UPDATE registry.contract SET ended_at = now() WHERE msisdn = {ended}")
    return live, ended


@pytest.mark.parametrize("wrong", REFUSALS)
def test_what_would_break_the_registry_is_refused_with_what_to_do_and_without_a_number(
    shared: TestDatabase, pair: tuple[int, int], wrong: str
) -> None:
    live, ended = pair
    sql, message, hint = REFUSALS[wrong]
    said = refused(shared, sql.format(live=live, ended=ended))
    assert re.search(rf"^ERROR: .*{re.escape(message)}", said, re.MULTILINE), said
    assert re.search(rf"^HINT: .*{re.escape(hint)}", said, re.MULTILINE), said
    assert not re.search(r"\d{5}", said), "it quotes a number"


@pytest.mark.parametrize(
    "change", ["end_user = 'revoked'", "end_user = 'r'", "end_user = 'Registered'", "holder = 'operator'", "status = 'archived'"]
)
def test_a_word_that_only_begins_like_a_state_is_refused_by_name(shared: TestDatabase, pair: tuple[int, int], change: str) -> None:
    said = refused(shared, f"UPDATE registry.contract SET {change} WHERE msisdn = {pair[0]}")
    assert "invalid input value for enum registry." in said


def test_an_update_may_not_choose_when_the_registry_learned_of_a_contract(shared: TestDatabase, pair: tuple[int, int]) -> None:
    for told in ("'-infinity'", "NULL", "'2020-01-01'"):
        dba(shared, f"UPDATE registry.contract SET status = 'suspended', recorded_at = {told} WHERE msisdn = {pair[0]}")
        assert dba(shared, f"SELECT recorded_at > now() - interval '1 minute' FROM registry.contract WHERE msisdn = {pair[0]}") == [["t"]]


@pytest.mark.parametrize("msisdn", [999_000_000_000_000, 999_999_999_999_999])
def test_a_test_number_never_has_a_contract(shared: TestDatabase, msisdn: int) -> None:
    said = refused(
        shared,
        f"INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
        f"VALUES ({msisdn}, 1, 'active', 'individual', 'not_required', now())",
    )
    assert 'violates check constraint "test_numbers_have_no_contract"' in said


def test_the_index_alone_refuses_a_second_live_contract(shared: TestDatabase, pair: tuple[int, int]) -> None:
    said = refused(
        shared,
        f"INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
        f"VALUES ({pair[0]}, 2, 'active', 'individual', 'not_required', now())",
    )
    assert 'violates unique constraint "contract_live"' in said


def test_what_is_not_an_end_is_free_to_change(shared: TestDatabase) -> None:
    number = bound(shared)
    dba(shared, f"BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE registry.contract SET status = 'suspended' WHERE msisdn = {number}; COMMIT")
    dba(shared, f"UPDATE registry.contract SET holder = 'organisation', end_user = 'registered', status = 'active' WHERE msisdn = {number}")
    unbound = bound(shared, 0)
    dba(shared, f"DELETE FROM registry.contract WHERE msisdn = {unbound}")
    assert owed(shared, number) == []
    assert dba(shared, f"SELECT count(*) FROM registry.contract WHERE msisdn = {unbound}") == [["0"]]


def test_a_contract_that_was_bound_since_a_strict_snapshot_is_not_deleted(database: TestDatabase) -> None:
    """The older snapshot of a stricter isolation does not see the binding, so it would be lost without a notification."""
    number = bound(database, 0)

    async def run() -> None:
        async with database.connect() as strict, database.connect() as messenger, strict.transaction(isolation="repeatable_read"):
            assert await strict.fetchval("SELECT count(*) FROM registry.binding") == 0
            (messenger_id,) = await add_messengers(messenger, 1)
            await bind(messenger, messenger_id, 1, number)
            with pytest.raises(asyncpg.PostgresError, match="READ COMMITTED transactions only"):
                await strict.execute("DELETE FROM registry.contract WHERE msisdn = $1", number)

    asyncio.run(run())
    assert dba(database, f"SELECT count(*) FROM registry.contract WHERE msisdn = {number}") == [["1"]]


def test_a_messenger_owed_something_stays_even_without_bindings(database: TestDatabase) -> None:
    number = bound(database, 1)
    dba(database, f"UPDATE registry.contract SET ended_at = now() WHERE msisdn = {number}")
    dba(database, "DELETE FROM registry.binding; DELETE FROM registry.lane")
    assert "cannot be deleted" in refused(database, "DELETE FROM registry.messenger")
    dba(database, "SELECT registry.settle_delivered(1, ARRAY(SELECT notification_id FROM registry.notification), 'hand')")
    dba(database, "DELETE FROM registry.messenger")


def test_every_messenger_has_a_lane_by_whatever_path_it_came(shared: TestDatabase) -> None:
    dba(shared, "INSERT INTO registry.messenger (name) VALUES ('by-hand-1'), ('by-hand-2')")
    assert shared.psql(stdin="COPY registry.messenger (name) FROM STDIN;\nby-copy\n\\.\n").returncode == 0
    rows = dba(
        shared,
        "SELECT m.name FROM registry.messenger AS m JOIN registry.lane AS l USING (messenger_id) WHERE m.name LIKE 'by-%' ORDER BY 1",
    )
    assert rows == [["by-copy"], ["by-hand-1"], ["by-hand-2"]]


def test_a_messenger_has_two_live_keys_at_most(database: TestDatabase) -> None:
    bound(database, 1)
    make = "INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256) VALUES ('{0}', 1, sha256('{0}'))"
    dba(database, make.format("aaaaaaaa"))
    dba(database, make.format("bbbbbbbb"))
    said = refused(database, make.format("cccccccc"))
    assert "two live keys at most" in said
    assert "Revoke the older one" in said
    dba(database, "UPDATE registry.messenger_key SET last_used_at = now()")
    dba(database, "UPDATE registry.messenger_key SET revoked_at = now() WHERE key_id = 'aaaaaaaa'")
    dba(database, make.format("cccccccc"))
    assert "two live keys at most" in refused(database, "UPDATE registry.messenger_key SET revoked_at = NULL")
    dba(database, "UPDATE registry.messenger_key SET expires_at = now() WHERE key_id = 'bbbbbbbb'")
    dba(database, make.format("dddddddd"))
    assert "two live keys at most" in refused(database, "UPDATE registry.messenger_key SET expires_at = NULL")


@pytest.mark.parametrize(
    ("row", "law"),
    [
        ("'endpoint', NULL, NULL, NULL, NULL, NULL, NULL", "each_kind_has_its_content"),
        ("'endpoint', 'https://example.net/', 'x', NULL, NULL, NULL, NULL", "each_kind_has_its_content"),
        ("'webhook_secret', NULL, NULL, sha256('k'), NULL, NULL, NULL", "each_kind_has_its_content"),
        ("'webhook_secret', NULL, 'x', NULL, NULL, NULL, NULL", "each_kind_has_its_content"),
        ("'webhook_secret', NULL, 'x', sha256('k'), 'confirmed', now(), 'anna'", "each_kind_has_its_content"),
        ("'endpoint', 'https://example.net/', NULL, NULL, 'confirmed', now(), NULL", "decisions_say_when_and_by_whom"),
        ("'endpoint', 'https://example.net/', NULL, NULL, 'refused', now(), 'anna'", "refusals_say_why"),
        ("'endpoint', 'https://example.net/ x', NULL, NULL, NULL, NULL, NULL", "endpoint_url"),
    ],
)
def test_a_change_request_that_is_not_one_is_refused(shared: TestDatabase, row: str, law: str) -> None:
    insert = (
        "WITH asks AS (INSERT INTO registry.messenger (name) VALUES ('asks') RETURNING messenger_id), "
        "shown AS (INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256) "
        "SELECT 'aaaaaaaa', messenger_id, sha256('') FROM asks) "
        "INSERT INTO registry.change_request "
        "(messenger_id, requested_by, kind, endpoint_url, ciphertext, public_key, outcome, decided_at, decided_by) "
    )
    assert law in refused(shared, f"{insert} SELECT messenger_id, 'aaaaaaaa', {row} FROM asks")


def test_two_transactions_cannot_make_a_third_key_between_them(database: TestDatabase) -> None:
    async def run() -> None:
        make = "INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256) VALUES ($1, $2, sha256('x'))"
        async with database.connect() as one, database.connect() as other:
            (messenger_id,) = await add_messengers(one, 1)
            await one.execute(make, "aaaaaaaa", messenger_id)
            transaction = one.transaction()
            await transaction.start()
            await one.execute(make, "bbbbbbbb", messenger_id)
            third = asyncio.create_task(other.execute(make, "cccccccc", messenger_id))
            await waits(one, other.get_server_pid())
            await transaction.commit()
            with pytest.raises(Exception, match="two live keys at most"):
                await third

    asyncio.run(run())


def test_a_live_contract_is_its_numbers_last(database: TestDatabase) -> None:
    live, over = bound(database, 0), bound(database, 0)
    dba(database, f"UPDATE registry.contract SET ended_at = now() WHERE msisdn = {over}")
    insert = "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason) VALUES "
    dba(database, f"{insert} ({over}, 3, 'active', 'individual', 'not_required', now(), NULL, NULL)")
    for row in (
        f"({live}, 2, 'ended', 'individual', 'not_required', '2020-01-01', '2020-01-02', 'terminated')",
        f"({over}, 4, 'ended', 'individual', 'not_required', '2020-01-01', '2020-01-02', 'terminated')",
    ):
        assert "live contract" in refused(database, insert + row)
    dba(database, f"{insert} ({over}, 2, 'ended', 'individual', 'not_required', '2020-01-01', '2020-01-02', 'terminated')")
    dba(database, f"UPDATE registry.contract SET ended_at = now() WHERE msisdn = {over} AND ended_at IS NULL")
    database.psql("-c", f"DELETE FROM registry.contract WHERE msisdn = {over} AND generation = 2")
    assert "Insert it as generation 4" in refused(
        database, f"{insert} ({over}, 2, 'active', 'individual', 'not_required', now(), NULL, NULL)"
    )
