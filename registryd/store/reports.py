"""Reads the views of schema report for the command line, and ends report sessions that go on for too long.

The columns are a view's own, so there are no row classes here: values are shown as PostgreSQL writes them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from registryd import observe
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Query

LONGEST = timedelta(minutes=1)
"""How long a transaction of the report role may take, whatever limits it set for itself."""


class View(NamedTuple):
    name: str
    comment: str


class Column(NamedTuple):
    name: str
    type: str
    comment: str


class EndedSessions(NamedTuple):
    ended: int


LIST_VIEWS = Query("reports", "list_views", View)
LIST_COLUMNS = Query("reports", "list_columns", Column, str)

END_LONG_REPORTS = Query("reports", "end_long_reports", EndedSessions, timedelta)


_CASTS = {"interval": "::text", "interval[]": "::text[]"}


async def list_views(connection: Connection) -> list[View]:
    return await fetch(connection, LIST_VIEWS)


async def read_csv(connection: Connection, view: View) -> str:
    """The rows of one view as CSV with a header, sorted by the first two columns. COPY takes it again: NULL differs from an empty text."""
    parts: list[bytes] = []

    async def take(part: bytes) -> None:
        parts.append(part)

    await connection.copy_from_query(_select(view), output=take, format="csv", header=True)
    return b"".join(parts).decode()


async def list_columns(connection: Connection, view: View) -> list[Column]:
    return await fetch(connection, LIST_COLUMNS, view.name)


async def read_rows(connection: Connection, view: View, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` of the same rows, by the columns' names. Intervals are as PostgreSQL writes them: a month has no length."""
    columns = await list_columns(connection, view)
    shown = ", ".join(f'"{column.name}"{_CASTS.get(column.type, "")} AS "{column.name}"' for column in columns)
    rows = await connection.fetch(f"{_select(view, shown)} LIMIT $1", limit)
    return [dict(row) for row in rows]


def _select(view: View, shown: str = "*") -> str:
    """`view` comes from `list_views` and the columns from `list_columns`, so their names are safe to put into the statement."""
    return f'SELECT {shown} FROM report."{view.name}" ORDER BY 1, 2'  # noqa: S608 # the name is a view's own


async def end_long(db: Database) -> None:
    """Ends sessions of the report role that take longer than LONGEST, or hold a lock that housekeeping waits for."""
    ended = (await db.fetch(END_LONG_REPORTS, LONGEST))[0].ended
    if ended:
        observe.event("reports_ended", "warning", sessions=ended)
