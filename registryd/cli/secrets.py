"""`secrets rewrap`."""

from __future__ import annotations

import click

from registryd.cli.progress import progress
from registryd.cli.running import Context, command, json_option, pass_context, present
from registryd.store import messengers, migrations
from registryd.store.secretbox import signing_box


@click.group()
def secrets() -> None:
    """Change the key under which messengers' signing secrets are sealed."""


@secrets.command()
@click.option("--dsn", help="Connect as a role that may SET ROLE registryd_owner; default [database] owner_dsn, then dsn.")
@json_option
@pass_context
@command
async def rewrap(context: Context, *, dsn: str | None, as_json: bool) -> None:
    """Seal anew, under secrets-key, what is still sealed under secrets-key-previous. That one can be deleted afterwards."""
    box = signing_box(context.settings.credentials)
    async with context.owner(dsn) as connection, connection.transaction():
        await migrations.act_as_owner(connection)
        with progress("sealing anew"):
            count = await messengers.rewrap_secrets(connection, box)
    told = f"{count:,} signing secrets are sealed anew; delete secrets-key-previous once every process has the new secrets-key"
    present(as_json, {"rewrapped": count}, told)
