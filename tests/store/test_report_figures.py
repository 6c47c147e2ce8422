"""The reports of a small registry add up, and show no number and no code."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import Attempt
from registryd.store import guard, lanes, notifications, reports
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, add_contracts, add_messengers, bind, take_lanes
from tests.store.test_rules import journaled


def test_the_reports_of_a_small_registry_add_up(database: TestDatabase) -> None:
    today = datetime.now(UTC).date()

    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await add_contracts(connection, 10)
            busy, idle = await add_messengers(connection, 2, "http://127.0.0.1:1/")
            names = {
                row["messenger_id"]: row["name"] for row in await connection.fetch("SELECT messenger_id, name FROM registry.messenger")
            }
            name = names[busy]
            await bind(connection, busy, 5)
            await bind(connection, idle, 1)

            # Six numbers asked, two of them absent; one page was late.
            await journaled(database, busy, [FIRST, FIRST + 1, FIRST + 99, FIRST + 98], 5)
            await journaled(database, busy, [FIRST, FIRST + 1], 21 * 60 * 1000)
            await guard.exchange(db, today, [(MessengerId(busy), today, 6, 2)], [(MessengerId(busy), "canary")], lambda _: None)

            # Four of its five bindings end: three a day and an hour ago, so late or overdue; one now.
            ended_at = datetime.now(UTC) - timedelta(hours=25)
            end = "UPDATE registry.contract SET ended_at = $2 WHERE msisdn = ANY ($1::bigint[])"
            await connection.execute(end, [FIRST + 1, FIRST + 2, FIRST + 3], ended_at)
            await connection.execute(end, [FIRST + 4], datetime.now(UTC))
            await connection.execute("UPDATE registry.binding SET ended_at = now(), end_reason = 'removed' WHERE messenger_id = $1", idle)
            owed = await notifications.read_owed(db, MessengerId(busy), notifications.BEGINNING, 10)
            (lease,) = await take_lanes(db, "worker", 10, [])
            async with db.transaction() as own:
                acknowledged = Attempt(datetime.now(UTC), 1, "acknowledged", 204, 10, None)
                failed = Attempt(datetime.now(UTC), 1, "failed", None, 30, "timeout")
                delivered, attempts = [owed[0].notification_id, owed[3].notification_id], [acknowledged, failed, acknowledged]
                assert await notifications.settle_push(own, lease.messenger_id, lease.token, delivered, [], attempts) == 2
                await lanes.gate(own, lease, timedelta(minutes=1), "timeout")
            await connection.execute(
                "INSERT INTO registry.feed_event (event_id, type, content, outcome, reason, occurred_at) VALUES "
                "('e-1', 'terminated', decode(repeat('00', 16), 'hex'), 'applied', NULL, now() - interval '2 minutes'), "
                "('e-2', 'terminated', decode(repeat('00', 16), 'hex'), 'refused', 'why', now())"
            )
            views = {view.name: view for view in await reports.list_views(connection)}
            shown: dict[str, list[dict[str, Any]]] = {}
            for view in views.values():
                shown[view.name] = [dict(row) for row in await connection.fetch(f"SELECT * FROM report.{view.name}")]

            def of(report: str, messenger: str = name, **where: object) -> dict[str, Any]:
                (row,) = [r for r in shown[report] if r.get("messenger") == messenger and all(r[key] == where[key] for key in where)]
                return row

            assert sum(row["queries"] for row in shown["presence_daily"]) == 6
            assert sum(row["present"] for row in shown["presence_daily"]) == 4
            assert sum(row["absent"] for row in shown["presence_daily"]) == 2
            deadlines = shown["answer_deadline"]
            assert (sum(row["in_time"] for row in deadlines), sum(row["late"] for row in deadlines)) == (4, 2)
            assert max(row["worst_wait"] for row in deadlines) >= timedelta(minutes=21)
            assert {row["allowed"] for row in deadlines} == {timedelta(minutes=20)}
            row = of("binding_by_messenger")
            assert (row["live"], row["terminated"], row["replaced"], row["removed"]) == (1, 4, 0, 0)
            assert of("binding_by_messenger", names[idle])["removed"] == 1
            assert sum(row["terminated"] for row in shown["contract_daily"]) == 4
            assert sum(row["activated"] for row in shown["contract_daily"]) == 10
            row = of("notification_backlog")
            assert (row["pending"], row["overdue"], row["delivered_last_hour"], row["eta"]) == (2, 2, 2, timedelta(hours=1))
            assert row["oldest_deadline_at"] == owed[1].deadline_at
            assert row["slack"] < timedelta(0)
            assert of("notification_backlog", names[idle])["pending"] == 0
            row = of("notification_deadline", day=ended_at.date())
            assert (row["owed"], row["in_time"], row["late"], row["overdue"], row["pending"]) == (3, 0, 1, 2, 0)
            row = of("notification_deadline", day=owed[3].terminated_at.date())
            assert (row["owed"], row["in_time"], row["late"], row["overdue"], row["pending"]) == (1, 1, 0, 0, 0)
            row = of("delivery_attempt_daily", outcome="acknowledged")
            assert (row["attempts"], row["notifications"], row["mean_latency_ms"]) == (2, 2, Decimal("10.0"))
            assert of("delivery_attempt_daily", outcome="failed")["http_status"] is None
            row = of("endpoint_health")
            assert (row["state"], row["failures"], row["last_error"], row["process"]) == ("gated", 1, "timeout", "worker")
            assert of("endpoint_health", names[idle])["state"] == "healthy"
            row = of("quota_today")
            assert (row["used"], row["absent"], row["absent_ratio"], row["quota"]) == (6, 2, Decimal("0.3333"), None)
            row = of("enumeration_alarm")
            assert (row["kind"], row["in_force"], row["signs"], row["absent_ratio_that_day"]) == ("canary", True, 1, Decimal("0.3333"))
            lag = {row["outcome"]: row for row in shown["feed_lag"]}
            assert lag["applied"]["worst_lag"] == timedelta(minutes=2)
            assert lag["refused"]["events"] == 1

    asyncio.run(run())


def test_no_report_shows_a_number_or_a_code(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            columns = await connection.fetch(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'report' "
                "AND (column_name ~ 'msisdn|number|code|digest|secret' "
                "AND data_type NOT IN ('interval', 'bigint', 'integer', 'double precision', 'boolean', 'timestamp with time zone') "
                "OR data_type IN ('bytea', 'uuid') OR column_name IN ('msisdn', 'number'))"
            )
            assert columns == []

    asyncio.run(run())
