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
    """Bring the schema to this release, in one transaction: migrations in order, functions and views that changed, grants."""
    async with context.owner(dsn) as connection:
        if as_script:
            click.echo(await migrations.script(connection), nl=False)
            return
        done = await migrations.migrate(connection, lambda holders: out.print(f"waiting for {holders}", markup=False))
    for name in done.files:
        out.print(f"applied {name}")
    older = done.version > migrations.migrations()[-1].version
    out.print(f"the schema is at {done.version:04d}{', newer than this program: nothing to do' if older else ''}")
