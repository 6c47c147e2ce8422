"""The plans of the hot statements, pinned: what each reads, by which index, and no more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registryd.store import (
    backlogs,
    bindings,
    contracts,
    digests,
    lanes,
    notifications,
    presence,
    proof,
    ranges,
    replays,
)
from registryd.store.queries import Query
from registryd.store.session import PROBES
from tests.conftest import TestDatabase
from tests.contracts.conftest import BOUND, CONTRACTS, ENDED
from tests.store.conftest import FIRST, Explained, Plan, explaining


def group(size: int, codes: bool = False) -> list[Any]:
    """The arguments of a group of queries of two messengers, half of them on bound numbers."""
    numbers = [FIRST + ENDED + i * (CONTRACTS - ENDED) // size for i in range(size)]
    counts = [size - size // 2, size // 2] if size > 1 else [1]
    owners = [1, 2][: len(counts)]
    journaled = (owners, counts, [3] * len(counts), bytes(16 * size), 1)
    if not codes:
        return [numbers, *journaled]
    return [numbers, list(range(size)), *journaled, [f"new-{i}" for i in range(size)], [1] * counts[0] + [2] * (size - counts[0])]


async def planned(explained: Explained, query: Query[Any], *arguments: Any) -> Plan:
    # Prepared and run twice: the second run has the plan that stays.
    statement = await explained.connection.prepare(query.sql)
    for _ in range(2):
        savepoint = explained.connection.transaction()
        await savepoint.start()
        await statement.fetch(*arguments)
        await savepoint.rollback()
    return (await explained.plans(f"/* {query.name} */"))[-1]


def assert_probes_only(plan: Plan) -> None:
    """No table of the registry is read but by an index."""
    read = [node for node in plan.nodes if "Relation Name" in node and "Scan" in node["Node Type"]]
    assert read
    assert [node for node in read if "Index" not in node["Node Type"]] == []


@pytest.mark.parametrize("size", [1, 256, 5_000], ids=["single", "group", "batch"])
def test_a_query_is_answered_from_the_primary_key_of_contracts_alone(populated: TestDatabase, size: int) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            plan = await planned(explained, presence.ANSWER, *group(size))
            assert_probes_only(plan)
            assert [(node["Node Type"], node["Index Name"]) for node in plan.scans("contract")] == [("Index Only Scan", "contract_pkey")]
            assert not plan.scans("numbering_range"), "the capacity has no part in an answer"
            # A row a query in each of a few nodes: neither the table nor the group's square.
            assert plan.rows_touched() < 20 * size + 50

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 256, 5_000], ids=["single", "group", "batch"])
def test_a_query_with_a_code_is_bound_by_the_indexes_of_live_bindings(populated: TestDatabase, size: int) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            plan = await planned(explained, presence.ANSWER_AND_BIND, *group(size, codes=True))
            assert_probes_only(plan)
            assert plan.indexes("contract") == {"contract_live", "contract_pkey"}
            assert plan.indexes("binding") == {"binding_live_number", "binding_live_code"}
            assert all("messenger_id" in c and "identification_code" in c for c in plan.conditions("binding_live_code"))
            assert all("msisdn" in c and "messenger_id" in c for c in plan.conditions("binding_live_number"))
            assert plan.rows_touched() < 30 * size + 50
            for guard in (await explained.plans("FROM added"))[-2:]:
                assert guard.indexes("contract") <= {"contract_live", "contract_pkey"}
                assert guard.rows_touched() < 12 * size + 50

    asyncio.run(run())


def test_contracts_outside_the_capacity_are_counted_from_the_index_and_between_the_ranges_alone(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated) as explained:
            await explained.connection.execute(
                "DELETE FROM registry.numbering_range; INSERT INTO registry.numbering_range (first_msisdn, last_msisdn) "
                f"VALUES ({FIRST}, {FIRST + 49_999}), ({FIRST + 50_010}, {FIRST + 9_999_999})"
            )
            await planned(explained, ranges.COUNT_OUTSIDE)
            plan = (await explained.plans("AS gap(numbers)"))[-1]
            assert {(node["Node Type"], node["Index Name"]) for node in plan.scans("contract")} == {("Index Only Scan", "contract_live")}
            assert plan.rows_touched() < 60

    asyncio.run(run())


def test_due_and_owed_notifications_are_read_in_the_order_of_their_key(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            for query in (notifications.READ_DUE, notifications.READ_OWED):
                plan = await planned(explained, query, 1, notifications.BEGINNING, 100)
                assert plan.indexes("notification") == {"notification_pkey"}
                assert plan.conditions("notification_pkey") == [
                    "((messenger_id = $1) AND (ROW(deadline_at, notification_id) > ROW(registry.time_of($2), $2)))"
                ]
                assert [node["Node Type"] for node in plan.nodes] == ["Limit", "Index Scan"]
                assert plan.rows_touched() == 200

    asyncio.run(run())


def test_receipts_and_refusals_find_their_notifications_by_the_key(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            ids = [
                row["notification_id"]
                for row in await explained.connection.fetch("SELECT notification_id FROM registry.notification LIMIT 64")
            ]
            await planned(explained, notifications.SETTLE_DELIVERED, 1, ids, "push")
            body = (await explained.plans("WITH gone AS"))[-1]
            refusal = await planned(explained, notifications.DEFER_REFUSED, 1, 0, ids, [timedelta(minutes=1)] * 64, ["status 400"] * 64)
            for plan in (body, refusal):
                assert_probes_only(plan)
                assert plan.indexes("notification") == {"notification_pkey"}
                (condition,) = plan.conditions("notification_pkey")
                assert all(column in condition for column in ("messenger_id", "deadline_at", "notification_id"))
                # In one order everywhere, so that a push and a pull cannot wait for each other in a circle.
                assert any(node["Node Type"] == "Sort" for node in plan.nodes)
                assert plan.rows_touched() < 64 * 12

    asyncio.run(run())


def test_lanes_are_found_once_and_their_work_by_the_key(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            plan = await planned(explained, lanes.LEASE_LANES, "worker", timedelta(seconds=45), 256, [], [], lanes.GATE_MAX)
            assert_probes_only(plan)
            assert plan.indexes("notification") == {"notification_pkey"}
            assert plan.indexes("lane") == {"lane_pkey"}
            (locking,) = [node for node in plan.nodes if node["Node Type"] == "LockRows"]
            assert locking["Actual Loops"] == 1

    asyncio.run(run())


def test_the_watch_reads_by_the_keys_and_no_further_than_its_bound(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            plan = await planned(explained, backlogs.READ_BACKLOGS, 100)
            assert_probes_only(plan)
            assert plan.indexes("notification") == {"notification_pkey", "notification_replayed"}
            assert plan.rows_touched() < 3 * 100 * 12
            for query in (replays.READ_REPLAYS, digests.CLAIM_DIGESTS):
                assert_probes_only(await planned(explained, query))

    asyncio.run(run())


def test_what_a_messenger_refuses_and_what_was_tried_is_passed_up_to_a_bound(populated: TestDatabase) -> None:
    """It may be millions, and nobody would hear of any backlog while the look for them took too long."""

    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            await explained.connection.execute(
                "INSERT INTO registry.notification (messenger_id, generation, attempts, deadline_at, notification_id, msisdn, "
                "terminated_at, identification_code, last_error) "
                "SELECT 1, 1, 9, d.at, registry.id_at(d.at), 1000000 + i, d.at, 'r' || i, 'status 422' "
                "FROM generate_series(1, 30000) AS i, "
                "LATERAL (SELECT date_trunc('milliseconds', now() - interval '1 day' + i * interval '1 millisecond') AS at) AS d"
            )
            await explained.connection.execute("UPDATE registry.notification SET attempts = 1 WHERE messenger_id = 1 AND attempts = 0")

            def passed(plan: Plan) -> float:
                return max(float(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) for node in plan.scans("notification"))

            watch = await planned(explained, backlogs.READ_BACKLOGS, 100)
            canary = await planned(explained, notifications.FIND_CANARY, 1)
            for plan in (watch, canary):
                assert_probes_only(plan)
                assert plan.indexes("notification") <= {"notification_pkey", "notification_replayed"}
            assert passed(watch) <= 100
            assert passed(canary) <= 10_000

    asyncio.run(run())


def test_whether_a_replay_may_go_on_is_seen_at_the_ends_of_what_is_owed(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            ended = "UPDATE registry.contract SET ended_at = now() WHERE msisdn < $1 AND ended_at IS NULL"
            await explained.connection.execute(ended, FIRST + BOUND)
            await explained.connection.execute("UPDATE registry.notification SET not_before = now() + interval '1 hour'")
            await explained.connection.execute("INSERT INTO registry.replay (messenger_id, per_second) VALUES (1, 20)")
            plan = await planned(explained, replays.READ_REPLAYS)
            assert_probes_only(plan)
            assert plan.indexes("notification") == {"notification_pkey", "notification_replayed"}
            assert sorted(node["Actual Rows"] for node in plan.scans("notification")) == [0, 1000, 1000]

    asyncio.run(run())


def test_a_notification_is_found_by_its_id_in_a_probe_for_each_messenger(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            known = await explained.connection.fetchval("SELECT notification_id FROM registry.notification LIMIT 1")
            pending = await planned(explained, proof.FIND_PENDING, known)
            assert pending.indexes("notification") == {"notification_pkey"}
            await explained.connection.execute(
                "SELECT registry.settle_delivered(messenger_id, $1, 'push') FROM registry.messenger", [known]
            )
            assert_probes_only(pending)
            assert pending.rows_touched() < 30
            await planned(explained, proof.FIND_DELIVERED, known)
            for probe in await explained.plans("FROM registry.notification_delivered AS d"):
                # The days from the contract's end on; today's is among them, those to come are empty.
                assert_probes_only(probe)
                assert probe.rows_touched() <= 2

    asyncio.run(run())


def test_a_code_is_found_by_its_two_indexes(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            plan = await planned(explained, bindings.FIND_BINDING, 1, f"u-{FIRST + ENDED}")
            assert plan.indexes("binding") == {"binding_live_code", "binding_ended_code"}
            assert all("identification_code" in c for index in plan.indexes("binding") for c in plan.conditions(index))
            ended = await planned(explained, bindings.REMOVE_BINDING, 1, f"u-{FIRST + ENDED}")
            assert ended.indexes("binding") == {"binding_live_code"}

    asyncio.run(run())


def test_a_messenger_s_last_pushes_are_read_by_the_key_of_their_time(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            await explained.connection.execute(
                "INSERT INTO registry.delivery_attempt (messenger_id, attempted_at, notifications, outcome, latency_ms) "
                "SELECT 1 + i % 3, now() - i * interval '1 second', 1, 'failed', 1 FROM generate_series(1, 30000) AS i"
            )
            plan = await planned(explained, notifications.READ_OWN_ATTEMPTS, 1, datetime(9999, 1, 1, tzinfo=UTC), 100)
            assert_probes_only(plan)
            assert plan.rows_touched() < 1_000
            assert not [node for node in plan.nodes if node["Node Type"] == "Sort"]

    asyncio.run(run())


def test_a_page_of_bindings_and_the_removal_of_many_cost_the_page_alone(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            listed = await planned(explained, bindings.LIST_BINDINGS, 1, f"u-{FIRST + ENDED + 100}", 100)
            assert [node["Node Type"] for node in listed.nodes] == ["Limit", "Index Scan"], "in the index's order: nothing is sorted"
            assert listed.indexes("binding") == {"binding_live_code"}
            (condition,) = listed.conditions("binding_live_code")
            assert "messenger_id" in condition
            assert "identification_code" in condition
            assert listed.rows_touched() == 200
            codes = [f"u-{FIRST + ENDED + place}" for place in range(-500, 500)]
            removed = await planned(explained, bindings.REMOVE_BINDINGS, 1, codes)
            assert_probes_only(removed)
            assert removed.indexes("binding") == {"binding_live_code", "binding_live_number"}
            found = await planned(explained, bindings.FIND_BINDINGS, 1, codes)
            assert_probes_only(found)
            assert found.indexes("binding") == {"binding_live_code", "binding_ended_code"}
            for plan in (removed, found):
                assert plan.rows_touched() < 10 * len(codes)

    asyncio.run(run())


def test_events_find_their_contracts_by_the_key(populated: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(populated, PROBES) as explained:
            numbers = list(range(FIRST + ENDED, FIRST + ENDED + 100))
            found = await planned(explained, contracts.FIND_KNOWN, numbers)
            now = datetime.now(UTC)
            ends = [numbers, *([word] * 100 for word in (1, "ended", "individual", "not_required", now, "terminated"))]
            ended = await planned(explained, contracts.UPDATE_CONTRACTS, *ends)
            for plan in (found, ended):
                assert_probes_only(plan)
                assert plan.indexes("contract") <= {"contract_pkey", "contract_live"}
                assert plan.rows_touched() < 100 * 20
            (fan_out,) = (await explained.plans("WITH ended AS"))[-1:]
            assert fan_out.indexes("binding") <= {"binding_live_number", "binding_pkey"}
            assert fan_out.rows_touched() < 300 * 12

    asyncio.run(run())
