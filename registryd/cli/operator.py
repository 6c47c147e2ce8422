"""`operator add | list | rotate-key | revoke-key`."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from registryd.cli import completion
from registryd.cli.printing import Table
from registryd.cli.running import Context, Exit, command, fail, json_option, overlap_option, pass_context, present, present_once
from registryd.store import operators
from registryd.store.keys import new_key
from registryd.store.operators import SCOPES


@click.group()
def operator() -> None:
    """Make, list, rotate and revoke keys of the operator API."""


@operator.command()
@click.argument("name")
@click.option("--scope", required=True, help="What the key allows: one or more of feed, read, act, with commas between.")
@json_option
@pass_context
@command
async def add(context: Context, *, name: str, scope: str, as_json: bool) -> None:
    """Make a key under a new name. Prints it once, now."""
    scopes = scope.split(",")
    if not set(scopes) <= set(SCOPES):
        fail(f"--scope takes {', '.join(SCOPES)}, with commas between", Exit.USAGE)
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name):
        fail("a name is 1 to 63 of a-z, 0-9, dot, underscore and hyphen", Exit.USAGE)
    key = new_key("ok")
    async with context.database() as db, db.transaction() as connection:
        if await operators.lock_live_keys(connection, name):
            fail(f"{name} has a live key already: registryd operator rotate-key {name}, or take another name")
        await operators.add_key(connection, name, sorted(set(scopes), key=SCOPES.index), key)
        present_once(as_json, {"name": name, "apiKey": key.shown})


@operator.command("list")
@json_option
@pass_context
@command
async def list_keys(context: Context, *, as_json: bool) -> None:
    """List all keys, those that ended or were revoked too."""
    async with context.database() as db, db.connection() as connection:
        rows = await operators.read_keys(connection)
    table = Table("name", "key", "scopes", "made", "expires", "revoked", "used")
    for row in rows:
        ends = (row.expires_at or "never", row.revoked_at or "no")
        table.add(row.name, row.key_id, row.scopes, row.created_at, *ends, row.last_used_at or "never")
    present(as_json, rows, table)


@operator.command("rotate-key")
@click.argument("name", shell_complete=completion.operators)
@overlap_option
@json_option
@pass_context
@command
async def rotate_key(context: Context, *, name: str, overlap_hours: float, as_json: bool) -> None:
    """Make a second key under the name, with the same scopes; the former one ends when the overlap does. Prints it once."""
    key = new_key("ok")
    async with context.database() as db, db.transaction() as connection:
        live = await operators.lock_live_keys(connection, name)
        if not live:
            fail(f"{name} has no live key: registryd operator add {name} --scope …")
        if len(live) > 1:
            fail(f"{name} has two live keys already: registryd operator revoke-key {name} {live[0].key_id}, or wait until it expires")
        await operators.expire_keys(connection, name, timedelta(hours=overlap_hours))
        await operators.add_key(connection, name, live[0].scopes, key)
        present_once(as_json, {"name": name, "apiKey": key.shown, "formerKeysEndIn": timedelta(hours=overlap_hours)})


@operator.command("revoke-key")
@click.argument("name", shell_complete=completion.operators)
@click.argument("key_id")
@json_option
@pass_context
@command
async def revoke_key(context: Context, *, name: str, key_id: str, as_json: bool) -> None:
    """Revoke one key now: refused everywhere within 5 seconds. KEY_ID is the middle of ok_<keyId>_<secret>."""
    async with context.database() as db, db.transaction() as connection:
        if not await operators.revoke_key(connection, name, key_id):
            fail(f"{name} has no key of that id that is not revoked: registryd operator list")
    present(as_json, {"name": name, "keyId": key_id, "revoked": True}, f"the key {key_id} of {name} is revoked")
