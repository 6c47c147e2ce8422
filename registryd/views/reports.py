"""The views of schema report, as rows and columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from registryd.domain.times import rfc3339
from registryd.store import reports
from registryd.store.pool import Database
from registryd.store.reading import FREELY
from registryd.views.shape import NothingThere, Shape, Time, looking

ROWS_MAX = 1_000
LONGEST_S = 8.0
"""A report may take longer than a view, and less than [database] command_timeout_s, after which the database would seem to be away."""


class ReportName(Shape, frozen=True):
    name: str
    comment: str


class ReportNames(Shape, frozen=True):
    seen_at: Time
    reports: list[ReportName]


class ReportColumn(Shape, frozen=True):
    name: str
    type: str
    """As PostgreSQL names it."""
    comment: str


class Report(Shape, frozen=True):
    seen_at: Time
    name: str
    comment: str
    columns: list[ReportColumn]
    rows: list[list[str | int | float | bool | None]]
    """A value for each column: times in RFC 3339, durations and what else JSON does not know as PostgreSQL writes them."""
    is_cut: bool
    """There are more than 1,000 rows."""


async def list_all(db: Database) -> ReportNames:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        found = await reports.list_views(moment.connection)
    return ReportNames(seen_at=seen_at, reports=[ReportName(name=view.name, comment=view.comment) for view in found])


async def read(db: Database, name: str) -> Report:
    """Sorted by the first two columns. Raises: NothingThere; Unavailable, also where it takes longer than 8 s."""
    async with looking(db, LONGEST_S, FREELY) as (moment, seen_at):
        view = next((view for view in await reports.list_views(moment.connection) if view.name == name), None)
        if view is None:
            raise NothingThere
        columns = await reports.list_columns(moment.connection, view)
        rows = await reports.read_rows(moment.connection, view, ROWS_MAX + 1)
    return Report(
        seen_at=seen_at,
        name=view.name,
        comment=view.comment,
        columns=[ReportColumn(name=c.name, type=c.type, comment=c.comment) for c in columns],
        rows=[[_plain(value) for value in row.values()] for row in rows[:ROWS_MAX]],
        is_cut=len(rows) > ROWS_MAX,
    )


def _plain(value: Any) -> str | int | float | bool | None:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return rfc3339(value.astimezone(UTC))
        case list():
            return ", ".join(str(_plain(each)) for each in value)
        case _:
            return str(value)
