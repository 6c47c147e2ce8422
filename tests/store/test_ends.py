"""Whatever ends a contract ends its bindings and owes its notifications, all or none, and is counted."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, add_contracts, add_messengers, bind, explaining
from tests.store.dba import bound, dba, owed, refused

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
