"""sql/queries/ against the migrated schema: every statement declared once, typed as its row class says; the hot ones' plans pinned."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
import types
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import asyncpg
import pytest

from registryd import resources, store
from registryd.demo import embedded
from registryd.store import (
    backlogs,
    bindings,
    contracts,
    digests,
    lanes,
    notifications,
    presence,
    proof,
    queries,
    ranges,
    replays,
    staging,
)
from registryd.store.permissions import BY_OTHER_ROLES
from registryd.store.queries import DECLARED, Query
from registryd.store.session import PROBES
from tests.conftest import TestDatabase, cloned
from tests.store.conftest import FIRST, Connection, Explained, Plan, add_contracts, add_messengers, bind, explaining

for module in pkgutil.iter_modules(store.__path__, "registryd.store."):
    importlib.import_module(module.name)

FILES = sorted(resources.path("sql/queries").glob("*.sql"))

PYTHON_TYPES = {
    **dict.fromkeys(("int2", "int4", "int8"), int),
    **dict.fromkeys(("text", "varchar"), str),
    "float8": float,
    "bool": bool,
    "bytea": bytes,
    "uuid": UUID,
    "date": date,
    "timestamptz": datetime,
    "interval": timedelta,
    "numeric": Decimal,
}
"""What asyncpg makes of PostgreSQL's types, as far as a statement may use them."""


def written() -> dict[str, str]:
    """The statements of sql/queries by name, each with its comments."""
    found: dict[str, str] = {}
    for path in FILES:
        parts = re.split(r"^-- name: (.*)\n", path.read_text("utf-8"), flags=re.MULTILINE)[1:]
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            assert f"{path.stem}.{name}" not in found, f"{path.name} has two statements {name}"
            found[f"{path.stem}.{name}"] = text
    return found


def test_every_statement_is_declared_by_exactly_one_query() -> None:
    assert Counter(query.name for query in DECLARED) == Counter(list(written()))


def test_no_statement_selects_columns_it_does_not_name() -> None:
    bodies = {query.name: query.sql for query in DECLARED}
    # A table expression inside find_binding is narrowed by the statement around it.
    assert [name for name, sql in bodies.items() if re.search(r"SELECT\s+\*|RETURNING\s+\*", sql)] == ["bindings.find_binding"]


def test_parameters_and_columns_are_of_the_declared_types(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, connection.transaction():
            # What an import's statements speak of is there once its first ones have run.
            await connection.execute(staging.CREATE_STAGING.sql)
            kinds = await types_by_oid(connection)
            wrong = {}
            for query in DECLARED:
                statement = await connection.prepare(query.sql)
                taken = [python_type(kinds, parameter.oid) for parameter in statement.get_parameters()]
                given = [(column.name, python_type(kinds, column.type.oid)) for column in statement.get_attributes()]
                hints = get_type_hints(query.row)
                declared = [(name, plain(hints[name])) for name in query.row._fields]
                if (taken, given) != ([plain(parameter) for parameter in query.params], declared):
                    wrong[query.name] = {"parameters": taken, "declared": query.params, "columns": given, "row class": declared}
            assert wrong == {}

    asyncio.run(run())


def test_a_type_that_differs_would_be_noticed(database: TestDatabase) -> None:
    """The comparison itself: what it must tell apart, and what it must not."""

    async def run() -> None:
        async with database.connect() as connection:
            kinds = await types_by_oid(connection)
            statement = await connection.prepare(
                "SELECT 1::smallint, 'active'::registry.contract_status, ARRAY[gen_random_uuid()], now(), "
                "ARRAY['pull'::registry.delivery_channel]"
            )
            found = [python_type(kinds, column.type.oid) for column in statement.get_attributes()]
            assert found == [int, str, list[UUID], datetime, list[str]]
            assert plain(MessengerHint) is int
            assert plain(str | None) is str
            assert plain(list[str | None]) == list[str]

    asyncio.run(run())


MessengerHint = typing.NewType("MessengerHint", int)


def plain(annotation: Any) -> Any:
    """An annotation without what SQL's types do not know: NULL and NewType."""
    if hasattr(annotation, "__supertype__"):
        return plain(annotation.__supertype__)
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (argument for argument in get_args(annotation) if argument is not type(None))
        return plain(inner)
    if get_origin(annotation) is list:
        return list[plain(get_args(annotation)[0])]  # type: ignore[misc]
    return annotation


Kinds = Mapping[int, tuple[str, str, int]]


async def types_by_oid(connection: Connection) -> Kinds:
    """PostgreSQL's types: name, kind, and element where the type is an array."""
    rows = await connection.fetch("SELECT oid, typname, typtype, CASE typcategory WHEN 'A' THEN typelem ELSE 0 END AS element FROM pg_type")
    return {row["oid"]: (row["typname"], row["typtype"].decode(), row["element"]) for row in rows}


def python_type(kinds: Kinds, oid: int) -> Any:
    name, kind, element = kinds[oid]
    if element:
        return list[python_type(kinds, element)]  # type: ignore[misc]
    return str if kind == "e" else PYTHON_TYPES[name]


# The hot statements' plans, on a registry large enough that a wrong one would be chosen if it could be.

CONTRACTS = 100_000
BOUND = 4_000
ENDED = 1_500


@pytest.fixture(scope="module")
def populated(server: embedded.Server, template: str) -> Iterator[TestDatabase]:
    async def populate(database: TestDatabase) -> None:
        async with database.connect() as connection:
            await add_contracts(connection, CONTRACTS)
            await connection.execute("INSERT INTO registry.numbering_range (first_msisdn, last_msisdn) VALUES (79160000000, 79169999999)")
            for messenger_id in await add_messengers(connection, 3, "http://127.0.0.1:1/"):
                await bind(connection, messenger_id, BOUND)
            await connection.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn < $1", FIRST + ENDED)
            await connection.execute("VACUUM ANALYZE")

    with cloned(server, template) as database:
        asyncio.run(populate(database))
        yield database


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


def test_statements_are_loaded_without_comments_and_under_their_name() -> None:
    for name, sql in ((f"{path.stem}.{name}", sql) for path in FILES for name, sql in queries.statements(path.stem).items()):
        assert sql.startswith(f"/* {name} */ ")
        assert not re.search(r"^\s*--", sql, re.MULTILINE)
        assert not sql.endswith(";")


def test_a_statement_that_is_not_there_cannot_be_declared() -> None:
    with pytest.raises(KeyError):
        Query("presence", "no_such_statement", queries.Nothing)


def test_the_daemons_role_may_run_every_statement(populated: TestDatabase) -> None:
    """Preparing checks no privilege, so each is run, on arguments that mean nothing."""
    samples: dict[Any, Any] = {
        int: 1,
        str: "active",
        bool: True,
        float: 1.0,
        bytes: b"",
        UUID: UUID(int=0),
        date: date(2026, 1, 1),
        datetime: datetime(2026, 1, 1, tzinfo=UTC),
        timedelta: timedelta(seconds=1),
    }

    async def run() -> None:
        async with populated.connect("registryd_app") as connection, connection.transaction():
            await connection.execute(staging.CREATE_STAGING.sql)
            for query in DECLARED:
                if query.name.startswith(BY_OTHER_ROLES):
                    continue
                arguments = [[] if get_origin(parameter) is list else samples[parameter] for parameter in query.params]
                savepoint = connection.transaction()
                await savepoint.start()
                try:
                    await connection.fetch(query.sql, *arguments)
                except asyncpg.InsufficientPrivilegeError as error:
                    raise AssertionError(f"{query.name}: {error}") from None
                except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.DuplicateTableError):
                    pass  # the sample's fault
                finally:
                    await savepoint.rollback()

    asyncio.run(run())
