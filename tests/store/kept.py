"""Evidence of many days, and what reports and partitions say of it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from tests.conftest import TestDatabase
from tests.store.conftest import Connection, begin_chain, change_policy, write_page

REPORTS = ("presence_daily", "answer_deadline", "notification_deadline", "delivery_attempt_daily")
LONG_AGO = 45
"""Days: more than a month and a week before any day that a policy of one day keeps."""


def day_before(days: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=days)


def at_noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


def part_of(family: str, day: date) -> date:
    """The first day of the partition that holds a day."""
    return day - timedelta(days=day.weekday()) if family == "journal_page" else day.replace(day=1)


def parts(family: str, first: date, end: date) -> list[date]:
    """The partitions from that of `first` to the last one before that of `end`."""
    found = {part_of(family, first + timedelta(days=n)) for n in range((end - first).days)}
    return sorted(part for part in found if part < part_of(family, end))


async def since(connection: Connection, days: int, *, sealed: bool = False) -> None:
    """As if the registry had been made so many days ago, and if `sealed`, as if every window since then were."""
    await begin_chain(connection, datetime.combine(day_before(days), time(), UTC))
    if sealed:
        await begin_chain(connection, datetime.now(UTC))


async def keep(connection: Connection, days: int) -> None:
    """A new row of the policy, in force from now on."""
    await change_policy(connection, journal_kept=f"{days} days", notification_kept=f"{days} days")


async def leave_evidence(connection: Connection, messenger_id: int, at: datetime, wait: timedelta = timedelta(seconds=1)) -> None:
    """A page of three queries, a delivery and an attempt at a time, `wait` after their query or the contract's end."""
    await write_page(connection, at, messenger_id, wait)
    await leave_deliveries(connection, messenger_id, at, wait)


async def leave_deliveries(connection: Connection, messenger_id: int, at: datetime, wait: timedelta = timedelta(seconds=1)) -> None:
    await connection.execute(
        "INSERT INTO registry.notification_delivered VALUES ($2, 1, 1, $1::timestamptz + '1 minute' - $3::interval / 2, "
        "registry.id_at($1), 79160000000, $1::timestamptz - $3::interval, $1, $1, 'push', 'u')",
        at,
        messenger_id,
        wait,
    )
    await connection.execute(
        "INSERT INTO registry.delivery_attempt VALUES "
        "($2, $1, 2, 'acknowledged', 204, 7, NULL), ($2, $1, 1, 'failed', NULL, 30, 'timeout')",
        at,
        messenger_id,
    )


async def read_reports(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    return {name: [dict(row) for row in await connection.fetch(f"SELECT * FROM report.{name} ORDER BY 1, 2, 3, 4")] for name in REPORTS}


async def parts_of(connection: Connection, family: str) -> list[date]:
    return [row["day"] for row in await connection.fetch("SELECT day FROM registry.day_partition WHERE family = $1 ORDER BY day", family)]


async def watch(database: TestDatabase, expected: list[dict[str, Any]]) -> None:
    """Reads a report as its role does, again and again until cancelled, while windows are sealed and partitions dropped under it."""
    async with database.connect("registryd_report") as connection:
        while True:
            rows = await connection.fetch("SELECT * FROM report.presence_daily ORDER BY 1, 2, 3, 4")
            assert [dict(row) for row in rows] == expected
