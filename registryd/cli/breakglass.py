"""`breakglass request | list | approve | look`, under each person's own role. A number is never an argument, because other users can see
arguments.
"""

from __future__ import annotations

import click

from registryd.cli.running import Exit, command, err, fail, json_option, out, present
from registryd.domain.identifiers import parse_msisdn
from registryd.store import breakglass as store

TIME = "%Y-%m-%d %H:%M:%S"

_dsn = click.option("--dsn", required=True, help="Connect as yourself, such as postgresql://anna@db1/registryd: the log names who did it.")


@click.group()
def breakglass() -> None:
    """Look at one number unmasked: for a reason, approved by a second person, and logged."""


@breakglass.command()
@click.option("--reason", required=True, help="Why, for whoever approves and audits it.")
@_dsn
@command
async def request(*, reason: str, dsn: str) -> None:
    """Ask for a look at a number, which is read from the terminal or stdin, and at the queries about it. Needs the role
    registryd_breakglass.
    """
    try:
        msisdn = parse_msisdn(click.prompt("number", err=True))
    except ValueError as error:
        fail(f"the number {error}", Exit.USAGE)
    async with store.session(dsn) as connection:
        number = await store.request(connection, msisdn, reason)
    out.print(f"request {number}: the service prepares it within seconds; then somebody else approves it, within a day:", soft_wrap=True)
    out.print(f"registryd breakglass approve {number}")


@breakglass.command("list")
@_dsn
@json_option
@command
async def list_requests(*, dsn: str, as_json: bool) -> None:
    """Show the requests that wait for an approval or a look, their numbers masked."""
    async with store.session(dsn) as connection:
        requests = await store.open_requests(connection)
    present(as_json, [asked._asdict() for asked in requests], *map(_request, requests))


@breakglass.command()
@click.argument("number", type=int)
@_dsn
@command
async def approve(*, number: int, dsn: str) -> None:
    """Approve somebody else's request. Needs the role registryd_approver."""
    async with store.session(dsn) as connection:
        ends_at = await store.approve(connection, number)
    out.print(f"request {number} is approved: its requester may look once, until {ends_at:{TIME}} UTC", soft_wrap=True)


@breakglass.command()
@click.argument("number", type=int)
@_dsn
@json_option
@command
async def look(*, number: int, dsn: str, as_json: bool) -> None:
    """Show, once, the number's contracts and bindings and which messengers asked about it. Reads the whole journal."""
    async with store.session(dsn) as connection:
        seen = await store.look(connection, number)
    present(as_json, [row._asdict() for row in seen], *map(_seen, seen))
    if not seen:
        err.print("nothing is known of this number")


def _request(asked: store.OpenRequest) -> str:
    state = f"approved by {asked.approved_by}" if asked.approved_by else "not approved" if asked.is_prepared else "not prepared yet"
    return f"{asked.request}  {asked.number}  {asked.requested_by}: {asked.reason}; {state}, until {asked.ends_at:{TIME}} UTC"


def _seen(row: store.Seen) -> str:
    period = f"{row.began_at:{TIME}}" + (f" to {row.ended_at:{TIME}}" if row.ended_at else "")
    generation = f"generation {row.generation}" if row.generation else None
    facts = (f"{row.kind:<8}", period, generation, row.messenger, row.detail, row.outcome)
    return "  ".join(fact for fact in facts if fact)
