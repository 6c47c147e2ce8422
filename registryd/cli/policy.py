"""`policy show` and `policy set`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from registryd.cli import completion
from registryd.cli.kinds import Moment, max_absent_option
from registryd.cli.printing import Table, interval, words
from registryd.cli.progress import progress
from registryd.cli.running import Context, Exit, command, fail, json_option, pass_context, present
from registryd.domain.times import parse_rfc3339
from registryd.store import migrations
from registryd.store import policy as store


@click.group()
def policy() -> None:
    """Show or change the law as dated data: time limits, who counts as present, what is kept, what looks like a search."""


@policy.command()
@json_option
@pass_context
@command
async def show(context: Context, *, as_json: bool) -> None:
    """Show the policy in force and those that are planned. `registryd report policy` shows all there ever were."""
    async with context.database() as db, db.connection() as connection:
        await migrations.check(connection)
        rows = await store.read(connection)
    rows = [row for place, row in enumerate(rows) if row["in_force"] or place > _place_in_force(rows)]
    table = Table("column", *("in force" if row["in_force"] else "planned" for row in rows))
    for column in (name for name in rows[0] if not name.endswith("_seconds")) if rows else ():
        table.add(column, *(_shown(row[column]) for row in rows))
    present(as_json, [_facts(row) for row in rows], table)


@policy.command("set")
@click.argument("changes", metavar="KEY=VALUE...", nargs=-1, required=True, shell_complete=completion.policy_columns)
@click.option("--from", "since", type=Moment(), help="From when, as in 2028-03-01T00:00:00+03:00; default: now.")
@click.option("--note", required=True, help="Where the rule comes from: the decree, the decision.")
@max_absent_option
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--dsn", help="Connect as a role that may SET ROLE registryd_owner; default [database] owner_dsn, then dsn.")
@json_option
@pass_context
@command
async def set_policy(
    context: Context,
    *,
    changes: tuple[str, ...],
    since: datetime | None,
    note: str,
    max_absent: Callable[[int], int] | None,
    dry_run: bool,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Add a policy that changes these columns of registry.policy and repeats the rest. KEY= sets NULL where that has a meaning.

    Where who counts as present changes, it counts the live contracts that turn, and stops where too many would turn absent.

    A policy that has begun is never changed. Every process follows a new one within two seconds, without a restart.
    """
    wanted = dict(_pair(change) for change in changes)
    async with context.owner(dsn) as connection:
        await migrations.act_as_owner(connection)
        await migrations.check(connection)
        try:
            with progress("counting the live contracts that this turns"):
                change = await store.change(connection, wanted, since, note, absent_max=max_absent, dry_run=dry_run)
        except store.NoSuchColumn as error:
            fail(str(error), Exit.USAGE)
    turned = change.turned
    turns = f"{'would turn' if dry_run else 'turns'} {turned.absent:,} live contracts absent and {turned.present:,} present"
    if turned.absent > change.allowed:
        turns += f"; that stops it, for {change.allowed:,} may turn absent now: --max-absent"
    counts = {"turnsAbsent": turned.absent, "turnsPresent": turned.present, "mayTurnAbsent": change.allowed}
    next_at = change.after["superseded_at"]
    until = f" until {_shown(next_at)}, when the next one that is planned begins" if next_at else ""
    present(
        as_json,
        _facts(change.after) | {"dryRun": dry_run} | counts,
        *(f"{name}: {_shown(change.before[name])} → {_shown(change.after[name])}" for name in wanted),
        turns,
        f"{'would be ' if dry_run else ''}in force from {_shown(change.after['effective_from'])}{until}",
    )


def _place_in_force(rows: list[dict[str, Any]]) -> int:
    return next((place for place, row in enumerate(rows) if row["in_force"]), -1)


def _pair(change: str) -> tuple[str, str | None]:
    key, equals, value = change.partition("=")
    if not equals:
        fail(f"{change}: write KEY=VALUE, as in notice_within='12 hours'", Exit.USAGE)
    return key, value or None


def _facts(row: dict[str, Any]) -> dict[str, object]:
    """A row with its times as times, so that they are told as everywhere."""
    return {name: (parse_rfc3339(value) or value) if isinstance(value, str) else value for name, value in row.items()}


def _shown(value: object) -> str:
    """A value of a policy, as PostgreSQL writes it in JSON, in words."""
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in value) or "none"
    if isinstance(value, str):
        at = parse_rfc3339(value)
        return interval(value) if at is None else words(at)
    return "none" if value is None else words(value, grouped=False)
