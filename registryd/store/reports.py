"""The views of schema report, for the command line, and the end of report sessions that go on for too long.

Columns are the views' own, so rows are read as they come.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from registryd import observe
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Query

LONGEST = timedelta(minutes=1)
"""A transaction of the report role, whatever limits it set itself."""


class View(NamedTuple):
    name: str
    comment: str


class Table(NamedTuple):
    columns: list[str]
    rows: list[tuple[Any, ...]]
    types: list[str]
    """PostgreSQL's names, one a column: a count is an int8 in every view."""


class Ended(NamedTuple):
    ended: int


LIST_VIEWS = Query("reports", "list_views", View)

END_LONG_REPORTS = Query("reports", "end_long_reports", Ended, timedelta)


async def list_views(connection: Connection) -> list[View]:
    return await fetch(connection, LIST_VIEWS)


async def read(connection: Connection, view: View) -> Table:
    """Everything in one view, sorted by its first columns. `view` comes from `list_views`, so its name is one that exists."""
    statement = await connection.prepare(f'SELECT * FROM report."{view.name}" ORDER BY 1, 2')  # noqa: S608 # the name is a view's own
    records = await statement.fetch()
    columns = statement.get_attributes()
    return Table([c.name for c in columns], [tuple(record.values()) for record in records], [c.type.name for c in columns])


async def end_long(db: Database) -> None:
    """Ends the report role's sessions that go on for over LONGEST, or hold what housekeeping waits for."""
    ended = (await db.fetch(END_LONG_REPORTS, LONGEST))[0].ended
    if ended:
        observe.event("reports_ended", "warning", sessions=ended)
