"""`report`."""

from __future__ import annotations

import click

from registryd.cli import completion
from registryd.cli.printing import Table, interval
from registryd.cli.running import Context, Exit, command, err, fail, json_option, pass_context, present
from registryd.domain.names import nearest
from registryd.store import migrations, reports


@click.command()
@click.argument("name", required=False, shell_complete=completion.reports)
@click.option("--columns", is_flag=True, help="Show the view's columns instead: their names, types and meaning.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header, as COPY takes it back.")
@json_option
@pass_context
@command
async def report(context: Context, *, name: str | None, columns: bool, as_csv: bool, as_json: bool) -> None:
    """Show a view of schema report as a table; without NAME, list them."""
    if as_csv and (as_json or columns or name is None):
        fail("--csv goes with NAME alone", Exit.USAGE)
    async with context.database() as db, db.connection() as connection:
        views = {view.name: view for view in await reports.list_views(connection)}
        if not views:
            raise migrations.SchemaMismatch("the database has no schema report: run `registryd migrate` (as the owner; see sql/README.md)")
        if name is None:
            table = Table("report", "what it tells")
            for view in views.values():
                table.add(*view)
            present(as_json, list(views.values()), table)
            return
        if name not in views:
            fail(f"there is no report {name}{nearest(name, views)} (registryd report lists them)", Exit.USAGE)
        known = await reports.list_columns(connection, views[name])
        if columns:
            table = Table("column", "type", "meaning")
            for column in known:
                table.add(*column)
            present(as_json, known, table)
        elif as_csv:
            click.echo(await reports.read_csv(connection, views[name]), nl=False)
        else:
            rows = await reports.read_rows(connection, views[name])
            present(as_json, rows, _table(known, rows))
            if not rows:
                err.print("nothing to report yet")


def _table(columns: list[reports.Column], rows: list[dict[str, object]]) -> Table:
    """Intervals are told in words. The number of seconds that stands beside each is for programs."""
    beside = {f"{column.name}_seconds" for column in columns if column.type in ("interval", "interval[]")}
    shown = [column for column in columns if column.name not in beside]
    table = Table(*(column.name for column in shown))
    for row in rows:
        table.add(*(_shown(column, row[column.name]) for column in shown))
    return table


def _shown(column: reports.Column, value: object) -> object:
    if isinstance(value, int) and (column.name.endswith("_id") or column.name == "request"):
        return str(value)
    if column.type == "interval" and isinstance(value, str):
        return interval(value)
    if column.type == "interval[]" and isinstance(value, list):
        return [interval(one) for one in value]
    return value
