"""`notifications status | explain`: backlogs, and one notification's life."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import click

from registryd.cli.kinds import NoticeId
from registryd.cli.printing import Record, Table, duration
from registryd.cli.running import Context, command, fail, json_option, pass_context, present
from registryd.domain.backlog import Backlog
from registryd.domain.times import parse_rfc3339
from registryd.store import backlogs
from registryd.views import backlog, notification
from registryd.views.shape import builtins


@click.command()
@json_option
@pass_context
@command
async def status(context: Context, *, as_json: bool) -> None:
    """Show each messenger's backlog, the slack to its earliest deadline, and how long it takes at the pace of the last five minutes."""
    async with context.database() as db:
        found = await backlogs.read(db)
    table = Table("messenger", "pending", "overdue", "among them", "earliest deadline", "slack", "per second", "ETA", "endpoint")
    for b in found:
        eta = duration(b.eta) if b.eta is not None else "never" if b.has_endpoint else "unknown"
        among = (f"{number:,} {what}" for number, what in ((b.replayed, "replayed"), (b.held, "held"), (b.refused, "refused")) if number)
        table.add(
            *(b.name, b.pending, b.overdue, ", ".join(among), b.deadline_at, b.slack and _whole(b.slack), round(b.per_second, 1)),
            *(eta if b.pending else None, _endpoint(b)),
            style="red" if b.held or b.is_held or b.refused or b.is_too_slow or b.needs_second_channel else "",
        )
    present(as_json, [builtins(backlog.of(b)) for b in found], table)


@click.command()
@click.argument("notification_id", metavar="ID", type=NoticeId())
@json_option
@pass_context
@command
async def explain(context: Context, *, notification_id: UUID, as_json: bool) -> None:
    """Show one notification's life: the contract's end, the deadline, its pushes, the delivery. ID: notificationId."""
    async with context.database() as db:
        found = await notification.read(db, notification_id)
    if found is None:
        fail("there is no such notification: it is neither owed nor among what is kept of the delivered and withdrawn ones")
    facts = builtins(found)
    shown = {name: _time(value) for name, value in facts.items() if value is not None and name != "life"}
    life = Table("when", "what happened")
    for event in facts["life"]:
        life.add(_time(event["at"]), event["what"])
    present(as_json, facts, Record(shown), life)


def _time(value: object) -> object:
    """A time of JSON as a time, and anything else as it is."""
    return (parse_rfc3339(value) or value) if isinstance(value, str) else value


def _endpoint(b: Backlog) -> str:
    if b.is_held:
        return f"held by hand; registryd notifications release {b.name}"
    if not b.has_endpoint:
        return "pulls"
    if b.needs_second_channel:
        return f"fails for hours: {b.last_error}; hand over: registryd notifications export {b.name} FILE"
    return f"gated: {b.last_error}" if b.is_gated else "healthy"


def _whole(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))
