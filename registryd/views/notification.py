"""One notification's life: what it tells whom, what happened to it, and what is still to happen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal
from uuid import UUID

from registryd.domain.identifiers import masked_code, masked_number, without_numbers
from registryd.domain.notification import REINSTATED, TERMINATED
from registryd.store import proof
from registryd.store.pool import Database
from registryd.store.proof import AttemptRow, Delivered, EndedContract, Pending, Replayed, Withdrawn
from registryd.store.reading import Reading
from registryd.views.shape import Shape, Time, looking

PUSHES_MAX = 1_000
"""How many pushes are looked at, at most."""


class LifeEvent(Shape, frozen=True):
    at: Time
    what: str


class NotificationFound(Shape, frozen=True):
    notification_id: str
    messenger: str
    type: str
    """binding.terminated, or binding.reinstated where it undoes another one."""
    state: Literal["pending", "held", "delivered", "owed again", "withdrawn"]
    number: str
    """Masked."""
    generation: int
    identification_code: str
    """Masked."""
    terminated_at: Time | None
    reinstated_at: Time | None
    deadline_at: Time
    delivered_at: Time | None
    via: str | None
    """push, pull, or the channel of a delivery by hand."""
    failed_pushes: int
    verdict: Literal["in time", "late", "owed", "overdue", "withdrawn"]
    undone_by: str | None
    """The notification that tells that this one was a mistake."""
    life: list[LifeEvent]
    """The oldest first."""


async def read(db: Database, notification_id: UUID) -> NotificationFound | None:
    """None: it is neither owed nor among what is kept of the delivered and withdrawn ones. Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        return await read_in(moment, seen_at, notification_id)


async def read_in(moment: Reading, seen_at: datetime, notification_id: UUID) -> NotificationFound | None:
    pending, delivered = await proof.find(moment, notification_id)
    withdrawn = await proof.find_withdrawn(moment, notification_id)
    known = delivered or pending or withdrawn
    if known is None:
        return None
    ended = await proof.find_ended(moment, known.msisdn, known.generation)
    undoing = await proof.find_undoing(moment, known.messenger_id, notification_id)
    again = await proof.find_replays(moment, known.messenger_id, notification_id)
    until = delivered.delivered_at if delivered else withdrawn.withdrawn_at if withdrawn else seen_at
    pushes = await proof.read_attempts(moment, known.messenger_id, known.recorded_at, until, PUSHES_MAX)
    is_late = (delivered.delivered_at if delivered else seen_at) > known.deadline_at
    undoes = _undoes(known)
    return NotificationFound(
        notification_id=str(notification_id),
        messenger=known.name,
        type=REINSTATED if undoes else TERMINATED,
        state=_state(pending, delivered, withdrawn),
        number=masked_number(known.msisdn),
        generation=known.generation,
        identification_code=masked_code(known.identification_code),
        terminated_at=None if undoes else known.terminated_at,
        reinstated_at=known.terminated_at if undoes else None,
        deadline_at=known.deadline_at,
        delivered_at=delivered.delivered_at if delivered else None,
        via=(delivered.channel or delivered.via) if delivered else None,
        failed_pushes=_failures(known),
        verdict=("late" if is_late else "in time") if delivered else "withdrawn" if withdrawn else "overdue" if is_late else "owed",
        undone_by=str(undoing) if undoing else None,
        life=[LifeEvent(at=at, what=what) for at, what in sorted(_life(known, pending, ended, again, pushes), key=lambda event: event[0])],
    )


def _state(
    pending: Pending | None, delivered: Delivered | None, withdrawn: Withdrawn | None
) -> Literal["pending", "held", "delivered", "owed again", "withdrawn"]:
    if delivered is not None:
        return "owed again" if pending else "delivered"
    if pending is not None:
        return "held" if pending.wave_id else "pending"
    assert withdrawn is not None, "it is one of the three"
    return "withdrawn"


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
        yield known.withdrawn_at, f"two persons withdrew it, by request {known.request}: {without_numbers(known.reason)}"
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


def _delivery(d: Delivered) -> str:
    if d.via == "hand":
        file = f", file SHA-256 {d.file_sha256.hex()}" if d.file_sha256 else ""
        return f"delivered by hand: {d.channel}{file}"
    return f"delivered by {d.via}" + (f", attempt {d.attempts}" if d.via == "push" else "")
