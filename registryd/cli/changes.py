"""`messenger changes list | confirm | refuse`: what messengers ask to change, and a person's decision."""

from __future__ import annotations

import click

from registryd.cli.kinds import Whole
from registryd.cli.printing import Record, Table
from registryd.cli.running import Context, command, fail, json_option, pass_context, present
from registryd.domain.errors import NotPushed, TooManyTests
from registryd.store import changes as store
from registryd.store import test_pushes
from registryd.store.changes import Change
from registryd.store.pool import Database


@click.group()
def changes() -> None:
    """Look at the endpoints and webhook secrets that messengers ask for, and confirm or refuse them."""


@changes.command("list")
@json_option
@pass_context
@command
async def list_changes(context: Context, *, as_json: bool) -> None:
    """List what waits for a decision, and what was decided or expired in the last 30 days."""
    async with context.database() as db:
        found = await store.read_all(db)
    table = Table("change", "messenger", "asks for", "state", "asked", "by key", "expires", "decided by", "why")
    for change in found:
        wanted = change.endpoint_url or "a new webhook secret"
        table.add(
            *(str(change.change_id), change.messenger, wanted, change.state, change.requested_at, change.requested_by),
            *(change.expires_at, change.decided_by, change.reason),
            style="yellow" if change.state == "waiting" else "",
        )
    present(as_json, found, table)


@changes.command()
@click.argument("change_id", metavar="ID", type=Whole(1))
@click.option("--test", "with_test", is_flag=True, help="Push an endpoint.test to the new endpoint first; confirm only if it answers 2xx.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@json_option
@pass_context
@command
async def confirm(context: Context, *, change_id: int, with_test: bool, dry_run: bool, as_json: bool) -> None:
    """Carry a request out: pushes go to the new endpoint, or are signed with the new secret too.

    Ask the messenger by another way than its API whether it has asked: its key may be a thief's. Former secrets end after 24 hours.
    """
    async with context.database() as db:
        change = await store.find(db, change_id)
        if change.state != "waiting":
            fail(f"change {change_id}: {store.REFUSED[change.state]}")
        if with_test:
            await _test(db, change)
        if not dry_run:
            change = await store.confirm(db, change_id)
    present(as_json, {**change._asdict(), "dryRun": dry_run}, _effect(change), "nothing is changed" if dry_run else "confirmed")


@changes.command()
@click.argument("change_id", metavar="ID", type=Whole(1))
@click.option("--reason", required=True, help="Why; the messenger is told.")
@json_option
@pass_context
@command
async def refuse(context: Context, *, change_id: int, reason: str, as_json: bool) -> None:
    """Refuse a request: nothing changes. If its messenger knows nothing of it, revoke the key that asked."""
    async with context.database() as db:
        change = await store.refuse(db, change_id, reason)
    present(as_json, change, f"change {change_id} of {change.messenger} is refused; the key {change.requested_by} had asked for it")


async def _test(db: Database, change: Change) -> None:
    """Ends the command where the endpoint that is asked for takes no test push."""
    if change.endpoint_url is None:
        fail("--test is for endpoints: a secret that is not confirmed signs nothing")
    try:
        result = await test_pushes.run(db, change.messenger_id, change.endpoint_url)
    except TooManyTests as error:
        fail(str(error))
    except NotPushed as error:
        fail(f"{error} Is registryd-deliver running?")
    if not result.delivered:
        fail(f"not confirmed: the test push to {change.endpoint_url} was not delivered: {result.error or f'status {result.status}'}")


def _effect(change: Change) -> Record:
    facts: dict[str, object] = {"messenger": change.messenger, "asked": change.requested_at, "by key": change.requested_by}
    if change.endpoint_url is None:
        return Record({**facts, "changes": "a new webhook secret signs beside the former ones, which end after 24 hours"})
    return Record({**facts, "endpoint": change.present_url or "none: it pulls", "new endpoint": change.endpoint_url})
