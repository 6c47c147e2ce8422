"""`notifications status | explain`: backlogs, and one notification's life."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import click

from registryd.cli.kinds import NoticeId
from registryd.cli.printing import Record, Table, duration
from registryd.cli.running import Context, command, fail, json_option, pass_context, present
from registryd.domain.backlog import Backlog
from registryd.domain.identifiers import masked_code, masked_number
from registryd.domain.notification import REINSTATED, TERMINATED
from registryd.domain.times import rfc3339
from registryd.store import backlogs, proof
from registryd.store.proof import AttemptRow, Delivered, EndedContract, Pending, Replayed, Withdrawn

PUSHES_MAX = 1_000
"""How many pushes are looked at, at most."""


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
    present(as_json, [_backlog(b) for b in found], table)


@click.command()
@click.argument("notification_id", metavar="ID", type=NoticeId())
@json_option
@pass_context
@command
async def explain(context: Context, *, notification_id: UUID, as_json: bool) -> None:
    """Show one notification's life: the contract's end, the deadline, its pushes, the delivery. ID: notificationId."""
    async with context.database() as db:
        pending, delivered = await proof.find(db, notification_id)
        withdrawn = await proof.find_withdrawn(db, notification_id)
        known = delivered or pending or withdrawn
        if known is None:
            fail("there is no such notification: it is neither owed nor among what is kept of the delivered and withdrawn ones")
        ended = await proof.find_ended(db, known.msisdn, known.generation)
        undoing = await proof.find_undoing(db, known.messenger_id, notification_id)
        again = await proof.find_replays(db, known.messenger_id, notification_id)
        until = delivered.delivered_at if delivered else withdrawn.withdrawn_at if withdrawn else datetime.now(UTC)
        attempts = await proof.read_attempts(db, known.messenger_id, known.recorded_at, until, PUSHES_MAX)
    facts = {**_notification(notification_id, pending, delivered, withdrawn), "undoneBy": undoing}
    life = sorted(_life(known, pending, ended, again, attempts), key=lambda event: event[0])
    present(
        as_json,
        {**facts, "life": [{"at": at, "what": what} for at, what in life]},
        Record(facts),
        Record({rfc3339(at): what for at, what in life}),
    )


def _backlog(b: Backlog) -> dict[str, object]:
    slack, eta, age = b.slack, b.eta, b.age
    return {
        "messenger": b.name,
        "pending": b.pending,
        "overdue": b.overdue,
        "refused": b.refused,
        "replayed": b.replayed,
        "oldestDeadlineAt": b.deadline_at,
        "slackSeconds": round(slack.total_seconds()) if slack is not None else None,
        "ageSeconds": round(age.total_seconds()) if age is not None else None,
        "perSecond": round(b.per_second, 3),
        "etaSeconds": round(eta.total_seconds()) if eta is not None else None,
        "tooSlow": b.is_too_slow,
        "endpoint": "none" if not b.has_endpoint else "gated" if b.is_gated else "healthy",
        "lastError": b.last_error,
        "held": b.held,
        "isHeld": b.is_held,
        "secondChannel": b.needs_second_channel,
    }


def _endpoint(b: Backlog) -> str:
    if b.is_held:
        return f"held by hand; registryd notifications release {b.name}"
    if not b.has_endpoint:
        return "pulls"
    if b.needs_second_channel:
        return f"fails for hours: {b.last_error}; hand over: registryd notifications export {b.name} FILE"
    return f"gated: {b.last_error}" if b.is_gated else "healthy"


def _life(
    known: Pending | Delivered | Withdrawn,
    pending: Pending | None,
    ended: EndedContract | None,
    again: list[Replayed],
    attempts: list[AttemptRow],
) -> Iterator[tuple[datetime, str]]:
    """Everything that happened to one notification, or is to happen, with its time."""
    if undoes := _undoes(known):
        yield known.terminated_at, f"a mistaken end was undone, which notification {undoes} told"
    elif ended is not None and ended.ended_at is not None:
        yield ended.ended_at, f"the contract ended ({ended.end_reason}); it had begun {ended.started_at:%F}"
    yield known.recorded_at, "the registry wrote the notification"
    for a in own_pushes(known, attempts):
        answer = a.error or f"status {a.http_status}"
        yield a.attempted_at, f"push of {a.notifications}: {a.outcome}, {answer}, {a.latency_ms} ms"
    if isinstance(known, Delivered):
        yield known.delivered_at, _delivery(known)
    if isinstance(known, Withdrawn):
        yield known.withdrawn_at, f"two persons withdrew it, by request {known.request}: {known.reason}"
    for replay in again:
        yield replay.asked_at, "a replay was asked for"
        if replay.replayed_at is not None:
            yield replay.replayed_at, "owed again by the replay"
        if replay.delivered_at is not None:
            yield replay.delivered_at, f"delivered again by {replay.via}"
    yield known.deadline_at, "the deadline"
    if pending is not None and pending.wave_id is not None:
        yield pending.recorded_at, f"held in wave {pending.wave_id}, until a person releases or withdraws it"
    elif pending is not None:
        error = f"; last: {pending.last_error}" if pending.last_error else ""
        yield pending.not_before, f"its next attempt is due; {pending.attempts} have failed{error}"


def own_pushes(known: Pending | Delivered | Withdrawn, pushes: list[AttemptRow]) -> list[AttemptRow]:
    """Of the pushes to its messenger meanwhile, those that must have held it: the others told of its neighbours.

    Which notifications a push held is not recorded, but how many pushes of each failed is. Where just so many failed, they were its own,
    and so was the one that was acknowledged, where there is one alone.
    """
    failed = [push for push in pushes if push.outcome != "acknowledged"]
    received = [push for push in pushes if push.outcome == "acknowledged"]
    is_pushed = isinstance(known, Delivered) and known.via == "push"
    is_certain = len(pushes) < PUSHES_MAX
    own = failed if is_certain and len(failed) == _failures(known) else []
    return own + (received if is_certain and is_pushed and len(received) == 1 else [])


def _failures(known: Pending | Delivered | Withdrawn) -> int:
    """How many pushes of it failed."""
    return known.attempts - (isinstance(known, Delivered) and known.via == "push")


def _undoes(known: Pending | Delivered | Withdrawn) -> UUID | None:
    return None if isinstance(known, Withdrawn) else known.undoes


def _notification(
    notification_id: UUID, pending: Pending | None, delivered: Delivered | None, withdrawn: Withdrawn | None
) -> dict[str, object]:
    known = delivered or pending or withdrawn
    assert known is not None, "it is one of the three"
    is_late = (delivered.delivered_at if delivered else datetime.now(UTC)) > known.deadline_at
    state = ("owed again" if pending else "delivered") if delivered else "held" if pending and pending.wave_id else "pending"
    return {
        "notificationId": notification_id,
        "messenger": known.name,
        "type": REINSTATED if _undoes(known) else TERMINATED,
        "state": "withdrawn" if known is withdrawn else state,
        "number": masked_number(known.msisdn),
        "generation": known.generation,
        "identificationCode": masked_code(known.identification_code),
        "reinstatedAt" if _undoes(known) else "terminatedAt": known.terminated_at,
        "deadlineAt": known.deadline_at,
        "deliveredAt": delivered.delivered_at if delivered else None,
        "via": (delivered.channel or delivered.via) if delivered else None,
        "failedPushes": _failures(known),
        "verdict": ("late" if is_late else "in time") if delivered else "withdrawn" if withdrawn else "overdue" if is_late else "owed",
    }


def _delivery(d: Delivered) -> str:
    if d.via == "hand":
        file = f", file SHA-256 {d.file_sha256.hex()}" if d.file_sha256 else ""
        return f"delivered by hand: {d.channel}{file}"
    return f"delivered by {d.via}" + (f", attempt {d.attempts}" if d.via == "push" else "")


def _whole(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))
