"""`migrate`."""

from __future__ import annotations

import click

from registryd.cli.running import Context, command, out, pass_context
from registryd.store import migrations


@click.command()
@click.option("--print", "as_script", is_flag=True, help="Print what would be done as a psql script, and do nothing.")
@click.option("--dsn", help="Connect as a role that may SET ROLE registryd_owner; default [database] owner_dsn, then dsn.")
@pass_context
@command
async def migrate(context: Context, *, as_script: bool, dsn: str | None) -> None:
    """Bring the schema to this release: migrations in order, each in a transaction, then the reports."""
    async with context.owner(dsn) as connection:
        if as_script:
            click.echo(await migrations.script(connection), nl=False)
            return
        done = await migrations.migrate(connection)
    for migration in done:
        out.print(f"applied {migration.path.name}")
    out.print("the schema is at " + migrations.migrations()[-1].path.name + "; the reports are made anew")
