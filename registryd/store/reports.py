"""The views of schema report, for the command line. Columns are the views' own, so rows are read as they come."""

from __future__ import annotations

from typing import NamedTuple

from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query


class View(NamedTuple):
    name: str
    comment: str


class Table(NamedTuple):
    columns: list[str]
    rows: list[tuple[object, ...]]


LIST_VIEWS = Query("reports", "list_views", View)


async def list_views(connection: Connection) -> list[View]:
    return await fetch(connection, LIST_VIEWS)


async def read(connection: Connection, view: View) -> Table:
    """Everything in one view, sorted by its first columns. `view` comes from `list_views`, so its name is one that exists."""
    statement = await connection.prepare(f'SELECT * FROM report."{view.name}" ORDER BY 1, 2')  # noqa: S608 # the name is a view's own
    records = await statement.fetch()
    return Table([attribute.name for attribute in statement.get_attributes()], [tuple(record.values()) for record in records])
