"""`feed status | complete | incomplete | allow-ends`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import NamedTuple

import click
from rich.table import Table

from registryd.cli.kinds import Moment
from registryd.cli.running import Context, Exit, command, fail, json_option, pass_context, present
from registryd.store import feed as store
from registryd.store.feed import FeedStatus

WAITING_SHOWN_MAX = 20

reason_option = click.option("--reason", required=True, help="Why, for those who ask later.")


@click.group()
def feed() -> None:
    """Look at billing's feed, say that the registry is complete, and let a known wave of ends through."""


@feed.command()
@json_option
@pass_context
@command
async def status(context: Context, *, as_json: bool) -> None:
    """Show whether the registry is complete, when billing last spoke, what waits, and how many contracts may still end."""
    async with context.database() as db, db.connection() as connection:
        found = await store.read_status(connection)
        lags = await store.read_lag(connection)
        waiting = await store.read_waiting(connection, WAITING_SHOWN_MAX)
        allowances = await store.read_allowances(connection)
    lag = Table("today", "outcome", "events", "mean lag", "worst lag", box=None, header_style="dim")
    for row in lags:
        lag.add_row(
            row.type, row.outcome, f"{row.events:,}", _duration(row.mean_lag.total_seconds()), _duration(row.worst_lag.total_seconds())
        )
    waits = Table("waits", "type", "for", "since", "last sent", "calls", box=None, header_style="dim")
    for event in waiting:
        waits.add_row(event.event_id, event.type, event.reason, f"{event.first_at:%F %T}", f"{event.last_at:%F %T}", f"{event.calls:,}")
    allowed = Table("allowance", "ends", "used", "until", "by", "reason", box=None, header_style="dim")
    for one in allowances:
        allowed.add_row(f"{one.allowance_id}", f"{one.ends:,}", f"{one.used:,}", f"{one.until_at:%F %T}", one.made_by, one.reason)
    facts = {
        **_wire(found),
        "lag": [_wire(row) for row in lags],
        "eventsWaiting": [_wire(event) for event in waiting],
        "allowances": [_wire(one) for one in allowances],
    }
    tables = [table for table, rows in ((lag, lags), (waits, waiting), (allowed, allowances)) if rows]
    present(as_json, facts, *_told(found), *tables)


@feed.command()
@reason_option
@pass_context
@command
async def complete(context: Context, *, reason: str) -> None:
    """Say that the registry holds every contract, so that queries are answered. A whole snapshot says it by itself."""
    async with context.database() as db, db.connection() as connection:
        await store.declare_complete(connection, _reason(reason))
        found = await store.read_status(connection)
    present(False, None, *_told(found)[:1])


@feed.command()
@reason_option
@pass_context
@command
async def incomplete(context: Context, *, reason: str) -> None:
    """Say that the registry lacks contracts. Every query is 503 then, until a whole snapshot or `feed complete`."""
    async with context.database() as db, db.connection() as connection:
        await store.declare_incomplete(connection, _reason(reason))
        found = await store.read_status(connection)
    present(False, None, *_told(found)[:1])


@feed.command("allow-ends")
@click.argument("ends", type=click.IntRange(1, 1_000_000_000))
@click.option(
    "--until", required=True, type=Moment(), help="When the wave will be over, as in 2028-03-01T06:00:00+03:00; a week ahead at most."
)
@reason_option
@json_option
@pass_context
@command
async def allow_ends(context: Context, *, ends: int, until: datetime, reason: str, as_json: bool) -> None:
    """Let ENDS contracts end beyond the policy's bound of an hour: a wave that you know of, by whatever path it comes."""
    async with context.database() as db, db.transaction() as connection:
        made = await store.allow_ends(connection, ends, until, _reason(reason))
        found = await store.read_status(connection)
    present(
        as_json,
        {**_wire(made), "endsLeft": found.ends_left},
        f"{ends:,} ends are let through beyond the bound until {until}",
        _ends(found),
    )


def _wire(row: NamedTuple) -> dict[str, object]:
    """A row as JSON has it: names in camel case, intervals in seconds."""
    return {
        re.sub("_(.)", lambda after: after[1].upper(), name): value.total_seconds() if isinstance(value, timedelta) else value
        for name, value in row._asdict().items()
    }


def _told(found: FeedStatus) -> list[str]:
    if found.complete:
        completeness = f"complete since {found.complete_since:%F %T} by {found.declared_by} ({found.source}): {found.reason}"
    elif found.complete_since is not None:
        completeness = "NOT COMPLETE: that was said in another database cluster. Every query is 503: import a snapshot, or feed complete"
    elif found.declared_by is not None:
        completeness = f"NOT COMPLETE by {found.declared_by}: {found.reason}. Every query is 503"
    else:
        completeness = "NOT COMPLETE: nobody has said so. Every query is 503: import a snapshot, or feed complete"
    return [
        completeness,
        f"last event {_ago(found, found.last_event_at)}, last snapshot taken {_ago(found, found.last_snapshot_at)}",
        f"events that wait: {found.waiting:,}" + (f", the oldest came {_ago(found, found.oldest_waiting_at)}" if found.waiting else ""),
        _ends(found),
    ]


def _ends(found: FeedStatus) -> str:
    allowed = f", {found.ends_allowed:,} more are allowed" if found.ends_allowed else ""
    return (
        f"{found.ends_last_hour:,} contracts ended in the last hour of {found.ends_bound:,} that may{allowed}; {found.ends_left:,} are left"
    )


def _ago(found: FeedStatus, at: datetime | None) -> str:
    return "never" if at is None else f"{_duration((found.now - at).total_seconds())} ago"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:.1f} h"


def _reason(reason: str) -> str:
    if not reason.strip():
        fail("--reason is empty: say why", Exit.USAGE)
    return reason.strip()
