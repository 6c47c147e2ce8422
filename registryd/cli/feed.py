"""`feed status | complete | incomplete | allow-ends`."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from registryd.cli.kinds import Moment, Whole
from registryd.cli.printing import Table, duration, words
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
    lag = Table("type", "outcome", "events", "mean lag", "worst lag", title="today's events")
    for row in lags:
        lag.add(row.type, row.outcome, row.events, row.mean_lag, row.worst_lag)
    waits = Table("event", "type", "waits for", "since", "last sent", "calls", title="events that wait")
    for event in waiting:
        waits.add(event.event_id, event.type, event.reason, event.first_at, event.last_at, event.calls)
    allowed = Table("allowance", "ends", "used", "until", "by", "reason", title="allowances")
    for one in allowances:
        allowed.add(str(one.allowance_id), one.ends, one.used, one.until_at, one.made_by, one.reason)
    facts = {**found._asdict(), "lag": lags, "events_waiting": waiting, "allowances": allowances}
    present(as_json, facts, *_told(found), *(table for table in (lag, waits, allowed) if table.rows))


@feed.command()
@reason_option
@json_option
@pass_context
@command
async def complete(context: Context, *, reason: str, as_json: bool) -> None:
    """Say that the registry holds every contract, so that queries are answered. A whole snapshot says it by itself."""
    async with context.database() as db, db.connection() as connection:
        await store.declare_complete(connection, _reason(reason))
        found = await store.read_status(connection)
    present(as_json, found, *_told(found)[:1])


@feed.command()
@reason_option
@json_option
@pass_context
@command
async def incomplete(context: Context, *, reason: str, as_json: bool) -> None:
    """Say that the registry lacks contracts. Every query is 503 then, until a whole snapshot or `feed complete`."""
    async with context.database() as db, db.connection() as connection:
        await store.declare_incomplete(connection, _reason(reason))
        found = await store.read_status(connection)
    present(as_json, found, *_told(found)[:1])


@feed.command("allow-ends")
@click.argument("ends", type=Whole(1, 1_000_000_000))
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
        {**made._asdict(), "ends_left": found.ends_left},
        f"{ends:,} ends are let through beyond the bound until {words(until)}",
        _ends(found),
    )


def _told(found: FeedStatus) -> list[str]:
    if found.complete:
        completeness = f"complete since {words(found.complete_since)} by {found.declared_by} ({found.source}): {found.reason}"
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
    if at is None:
        return "never"
    seconds = (found.now - at).total_seconds()
    rounded = 1 if seconds < 120 else 60 if seconds < 86_400 else 3_600
    return f"{duration(timedelta(seconds=seconds // rounded * rounded))} ago"


def _reason(reason: str) -> str:
    if not reason.strip():
        fail("--reason is empty: say why", Exit.USAGE)
    return reason.strip()
