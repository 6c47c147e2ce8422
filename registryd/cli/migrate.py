"""`migrate`."""

from __future__ import annotations

import click

from registryd.cli.progress import progress
from registryd.cli.running import Context, Exit, command, fail, json_option, pass_context, present
from registryd.store import migrations


@click.command()
@click.option("--print", "as_script", is_flag=True, help="Print what would be done as a psql script, and do nothing.")
@click.option("--dsn", help="Connect as a role that may SET ROLE registryd_owner; default [database] owner_dsn, then dsn.")
@json_option
@pass_context
@command
async def migrate(context: Context, *, as_script: bool, dsn: str | None, as_json: bool) -> None:
    """Bring the schema to this release, in one transaction: migrations in order, functions and views that changed, grants."""
    async with context.owner(dsn) as connection:
        if as_script:
            if as_json:
                fail("--print or --json: one of the two", Exit.USAGE)
            click.echo(await migrations.script(connection), nl=False)
            return
        with progress("migrating"):
            done = await migrations.migrate(connection, lambda holders: click.echo(f"waiting for {holders}", err=True))
    newer = done.version > migrations.migrations()[-1].version
    verdict = f"the schema is at {done.version:04d}{', newer than this program: nothing to do' if newer else ''}"
    present(as_json, {"version": done.version, "applied": done.files}, *(f"applied {name}" for name in done.files), verdict)
