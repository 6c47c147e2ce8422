"""What no path can break, tried as a DBA would: with psql, one statement at a time, under the superuser's role and the daemon's."""

from __future__ import annotations

import asyncio
import itertools
import re

import asyncpg
import pytest

from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, add_contracts, add_messengers, bind, explaining, waits

_numbers = itertools.count(79_170_000_001)


def dba(database: TestDatabase, sql: str, user: str = "postgres") -> list[list[str]]:
    """What psql shows: rows of texts."""
    done = database.psql("-At", "-F", "|", "-c", sql, user=user)
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


def refused(database: TestDatabase, sql: str, user: str = "postgres") -> str:
    """What psql says of a statement that must fail."""
    done = database.psql("-c", sql, user=user)
    assert done.returncode != 0, "it was not refused"
    return done.stderr


def bound(database: TestDatabase, messengers: int = 2, started_at: str = "2020-01-01") -> int:
    """A new number with a live contract, bound to the first messengers of the database; its code is `u-<number>`."""
    number = next(_numbers)
    dba(
        database,
        f"""
        INSERT INTO registry.messenger (name) SELECT 'messenger-' || i FROM generate_series(1, {messengers}) AS i ON CONFLICT DO NOTHING;
        INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)
        VALUES ({number}, 1, 'active', 'individual', 'not_required', '{started_at}');
        INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)
        SELECT {number}, 1, m.messenger_id, 'u-{number}' FROM registry.messenger AS m
         WHERE m.name IN (SELECT 'messenger-' || i FROM generate_series(1, {messengers}) AS i);
        """,
    )
    return number


def owed(database: TestDatabase, number: int) -> list[list[str]]:
    return dba(
        database,
        f"""
        SELECT n.identification_code, n.generation, n.terminated_at = c.ended_at, n.attempts,
               n.deadline_at = date_trunc('milliseconds', c.ended_at + interval '24 hours'),
               registry.time_of(n.notification_id) = n.deadline_at
          FROM registry.notification AS n JOIN registry.contract AS c ON c.msisdn = n.msisdn AND c.generation = n.generation
         WHERE n.msisdn = {number} ORDER BY n.messenger_id
        """,
    )


WAYS_TO_END = {
    "ended_at alone": "UPDATE registry.contract SET ended_at = now() WHERE msisdn = {n}",
    "status alone": "UPDATE registry.contract SET status = 'ended' WHERE msisdn = {n}",
    "with its reason": "UPDATE registry.contract SET ended_at = now(), end_reason = 'ported_out' WHERE msisdn = {n}",
    "in the past": "UPDATE registry.contract SET ended_at = '2025-12-31 21:00:00.123456+00' WHERE msisdn = {n}",
    "an upsert": "INSERT INTO registry.contract VALUES ({n}, '2020-01-01', now(), 'active', 'individual', 'not_required', 1) "
    "ON CONFLICT (msisdn, generation) DO UPDATE SET ended_at = now()",
    "a merge": "MERGE INTO registry.contract AS c USING (SELECT {n} AS msisdn) AS w ON c.msisdn = w.msisdn "
    "WHEN MATCHED THEN UPDATE SET ended_at = now()",
    "within a query": "WITH e AS (UPDATE registry.contract SET ended_at = now() WHERE msisdn = {n} RETURNING 1) SELECT count(*) FROM e",
    "a loop": "DO $$ DECLARE c record; BEGIN FOR c IN SELECT * FROM registry.contract WHERE msisdn = {n} FOR UPDATE LOOP "
    "UPDATE registry.contract SET ended_at = now() WHERE msisdn = c.msisdn AND generation = c.generation; END LOOP; END $$",
    "a join": "UPDATE registry.contract AS c SET ended_at = now() FROM generate_series({n}, {n}) AS g(msisdn) WHERE c.msisdn = g.msisdn",
}


@pytest.mark.parametrize("way", WAYS_TO_END)
def test_whatever_ends_a_contract_ends_its_bindings_and_owes_one_notification_each(shared: TestDatabase, way: str) -> None:
    number = bound(shared)
    dba(shared, WAYS_TO_END[way].format(n=number))
    contract = dba(shared, f"SELECT status, ended_at IS NOT NULL, end_reason FROM registry.contract WHERE msisdn = {number}")
    assert contract == [["ended", "t", "ported_out" if way == "with its reason" else "terminated"]]
    bindings = dba(
        shared,
        "SELECT b.end_reason, b.ended_at = greatest(c.ended_at, b.bound_at) FROM registry.binding AS b "
        f"JOIN registry.contract AS c USING (msisdn, generation) WHERE b.msisdn = {number}",
    )
    assert bindings == [["terminated", "t"]] * 2
    assert owed(shared, number) == [[f"u-{number}", "1", "t", "0", "t", "t"]] * 2


@pytest.mark.parametrize("assignment", ["ended_at = now()", "status = 'ended'"])
def test_the_daemons_role_ends_contracts_with_the_same_effect(shared: TestDatabase, assignment: str) -> None:
    number = bound(shared)
    dba(shared, f"UPDATE registry.contract SET {assignment} WHERE msisdn = {number}", user="registryd_app")
    assert owed(shared, number) == [[f"u-{number}", "1", "t", "0", "t", "t"]] * 2
    assert dba(shared, f"SELECT status, end_reason FROM registry.contract WHERE msisdn = {number}") == [["ended", "terminated"]]


def test_one_statement_ends_many_contracts_and_owes_for_the_bound_ones_alone(shared: TestDatabase) -> None:
    two, one, none = bound(shared, 2), bound(shared, 1), bound(shared, 0)
    untouched = bound(shared, 2)
    dba(shared, f"UPDATE registry.contract SET status = 'suspended' WHERE msisdn = {one}")
    dba(shared, f"UPDATE registry.contract SET ended_at = now() WHERE msisdn IN ({two}, {one}, {none})")
    rows = dba(
        shared, f"SELECT msisdn, count(*) FROM registry.notification WHERE msisdn BETWEEN {two} AND {untouched} GROUP BY 1 ORDER BY 1"
    )
    assert rows == [[str(two), "2"], [str(one), "1"]]
    live = dba(shared, f"SELECT msisdn, count(*) FROM registry.binding WHERE ended_at IS NULL AND msisdn >= {two} GROUP BY 1")
    assert live == [[str(untouched), "2"]]


@pytest.mark.parametrize("reason", ["removed", "replaced"])
def test_bindings_that_ended_before_owe_nothing(shared: TestDatabase, reason: str) -> None:
    number = bound(shared)
    dba(shared, f"UPDATE registry.binding SET ended_at = now(), end_reason = '{reason}' WHERE msisdn = {number} AND messenger_id = 1")
    dba(shared, f"UPDATE registry.contract SET ended_at = now() WHERE msisdn = {number}")
    assert len(owed(shared, number)) == 1
    assert dba(shared, f"SELECT end_reason FROM registry.binding WHERE msisdn = {number} AND messenger_id = 1") == [[reason]]


def test_the_deadline_follows_the_policy_in_force_at_the_end_to_the_millisecond(database: TestDatabase) -> None:
    before_all, before, after = bound(database, 1), bound(database, 1), bound(database, 1)
    dba(
        database,
        "SET session_replication_role = 'replica'; "
        "SELECT registry.change_policy('{\"notice_within\": \"90 minutes\"}', '2026-02-01 00:00:00+00', 'a stricter law')",
    )
    ends = {
        before_all: ("2021-06-01 10:00:00.5+00", "2021-06-02 10:00:00.5+00"),  # older than the first policy: a day all the same
        before: ("2026-01-31 23:59:59.999999+00", "2026-02-01 23:59:59.999+00"),
        after: ("2026-02-01 00:00:00+00", "2026-02-01 01:30:00+00"),
    }
    for number, (ended_at, deadline_at) in ends.items():
        dba(database, f"UPDATE registry.contract SET ended_at = '{ended_at}' WHERE msisdn = {number}")
        row = dba(
            database,
            f"SELECT deadline_at = '{deadline_at}', terminated_at = '{ended_at}', registry.time_of(notification_id) = deadline_at, "
            f"deadline_at = date_trunc('milliseconds', deadline_at) FROM registry.notification WHERE msisdn = {number}",
        )
        assert row == [["t"] * 4]


def test_a_rolled_back_end_leaves_nothing(shared: TestDatabase) -> None:
    number = bound(shared)
    moved = dba(shared, "SELECT count(*) FROM registry.contract_movement")
    script = f"BEGIN;\nUPDATE registry.contract SET ended_at = now() WHERE msisdn = {number};\n"
    done = shared.psql("-At", stdin=script + f"SELECT count(*) FROM registry.notification WHERE msisdn = {number};\nROLLBACK;\n")
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert owed(shared, number) == []
    assert dba(shared, f"SELECT status FROM registry.contract WHERE msisdn = {number}") == [["active"]]
    assert dba(shared, f"SELECT count(*) FROM registry.binding WHERE msisdn = {number} AND ended_at IS NULL") == [["2"]]
    assert dba(shared, "SELECT count(*) FROM registry.contract_movement") == moved


def test_an_end_that_fails_for_one_contract_ends_none(shared: TestDatabase) -> None:
    good, bad = bound(shared), bound(shared)
    refused(
        shared, f"UPDATE registry.contract SET ended_at = now() + (msisdn - {good}) * interval '1 hour' WHERE msisdn IN ({good}, {bad})"
    )
    assert owed(shared, good) == owed(shared, bad) == []
    assert dba(shared, f"SELECT DISTINCT status FROM registry.contract WHERE msisdn IN ({good}, {bad})") == [["active"]]


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


def test_an_ended_number_gets_its_next_holder_who_is_not_bound(shared: TestDatabase) -> None:
    number = bound(shared)
    dba(
        shared,
        f"""
        BEGIN;
        UPDATE registry.contract SET ended_at = now(), end_reason = 'holder_changed' WHERE msisdn = {number};
        INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)
        VALUES ({number}, 2, 'active', 'individual', 'not_required', now());
        COMMIT;
        """,
    )
    assert [row[1] for row in owed(shared, number)] == ["1", "1"]
    assert dba(shared, f"SELECT count(*) FROM registry.binding WHERE msisdn = {number} AND ended_at IS NULL") == [["0"]]


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


def test_movements_count_starts_and_ends_by_day_and_reason(database: TestDatabase) -> None:
    first, second, third = bound(database), bound(database, 0), bound(database, 0)
    dba(database, f"UPDATE registry.contract SET ended_at = '2026-01-01 23:30:00+00' WHERE msisdn = {first}")
    dba(database, f"UPDATE registry.contract SET ended_at = '2026-01-02 01:30:00+03', end_reason = 'ported_out' WHERE msisdn = {second}")
    dba(
        database,
        "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason) VALUES "
        f"({third + 1_000_000}, 1, 'ended', 'individual', 'not_required', '2026-01-01', '2026-01-02', 'holder_changed')",
    )
    rows = dba(database, "SELECT * FROM report.contract_daily ORDER BY day")
    assert rows == [["2020-01-01", "3", "0", "0", "0"], ["2026-01-01", "1", "1", "1", "0"], ["2026-01-02", "0", "0", "0", "1"]]


def test_a_mass_termination_after_a_small_one_stays_linear(database: TestDatabase) -> None:
    """A plan remembered from one row would compare every end with every other: 20,000 of them, 400 million times."""
    ended = 20_000

    async def run() -> None:
        async with database.connect() as connection:
            await add_contracts(connection, ended + 1)
            (messenger_id,) = await add_messengers(connection, 1)
            await bind(connection, messenger_id, ended + 1)
        async with explaining(database) as explained:
            await explained.connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST)
            await explained.connection.execute("UPDATE registry.contract SET ended_at = now() WHERE ended_at IS NULL")
            small, large = await explained.plans("WITH ended AS")
            assert small.rows_touched() < 100
            assert ended < large.rows_touched() < 30 * ended
            assert await explained.connection.fetchval("SELECT sum(pending) FROM report.notification_backlog") == ended + 1

    asyncio.run(run())


def test_a_contract_whose_start_lies_within_the_clocks_skew_can_be_ended(shared: TestDatabase) -> None:
    number = bound(shared, started_at="2099-01-01")
    dba(shared, f"UPDATE registry.contract SET started_at = now() + interval '2 minutes' WHERE msisdn = {number}")
    dba(shared, f"UPDATE registry.contract SET status = 'ended' WHERE msisdn = {number}")
    assert dba(shared, f"SELECT ended_at = started_at FROM registry.contract WHERE msisdn = {number}") == [["t"]]
    assert len(owed(shared, number)) == 2
