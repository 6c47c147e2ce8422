"""`report`."""

from __future__ import annotations

import csv
import io

import click
from rich.markup import escape
from rich.table import Table

from registryd.cli.running import Context, Exit, command, err, fail, out, pass_context
from registryd.store import migrations, reports


@click.command()
@click.argument("name", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of objects.")
@pass_context
@command
async def report(context: Context, *, name: str | None, as_csv: bool, as_json: bool) -> None:
    """Show a view of schema report as a table; without NAME, list them."""
    async with context.database() as db, db.connection() as connection:
        views = {view.name: view for view in await reports.list_views(connection)}
        if not views:
            raise migrations.SchemaMismatch("the database has no schema report: run `registryd migrate` (as the owner; see sql/README.md)")
        if name is None:
            for view in views.values():
                out.print(f"[bold]{view.name:<24}[/] {view.comment}")
            return
        if name not in views:
            fail(f"there is no report {name!r}; there are {', '.join(views)}", Exit.USAGE)
        view = views[name]
        if as_json:
            click.echo(await reports.read_json(connection, view))
        elif as_csv:
            click.echo(await reports.read_csv(connection, view), nl=False)
        else:
            header, *rows = csv.reader(io.StringIO(await reports.read_csv(connection, view), newline=""))
            table = Table(*header, title=name, caption=view.comment)
            for row in rows:
                table.add_row(*map(escape, row))
            out.print(table)
            if not rows:
                err.print("nothing to report yet")
