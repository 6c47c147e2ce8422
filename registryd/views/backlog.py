"""What is owed to each messenger, and what is held back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from math import inf
from typing import Literal

from registryd.domain.backlog import Backlog
from registryd.domain.identifiers import MessengerId, without_numbers
from registryd.store import backlogs, holds
from registryd.store.holds import HeldWave
from registryd.store.pool import Database
from registryd.store.reading import Reading
from registryd.views.shape import Shape, Time, looking

Endpoint = Literal["none", "healthy", "gated"]


class MessengerBacklog(Shape, frozen=True):
    messenger: str
    pending: int
    overdue: int
    """Beyond 2,000 by whole minutes."""
    refused: int
    """Of overdue, those whose content the messenger refuses though its endpoint works; counted up to 2,000."""
    replayed: int
    """Of pending, those that a replay owes again."""
    oldest_deadline_at: Time | None
    slack_seconds: float | None
    """From now to it; negative: overdue."""
    age_seconds: float | None
    per_second: float
    """What the endpoint acknowledged lately."""
    eta_seconds: float | None
    """How long pending takes at that pace; None: nothing was acknowledged lately."""
    too_slow: bool
    """At that pace it misses a deadline."""
    endpoint: Endpoint
    last_error: str | None
    held: int
    """Of pending, those in held waves."""
    is_held: bool
    """By a person."""
    second_channel: bool
    """Pushes have failed for hours: deliver otherwise."""


class Hold(Shape, frozen=True):
    messenger: str | None
    """None: everybody's notifications are held."""
    reason: str
    held_at: Time
    held_by: str


class Wave(Shape, frozen=True):
    """A wave of ends beyond the bound that still holds notifications."""

    wave: int
    began_at: Time
    last_at: Time
    ended_by: str
    ends: int
    notifications: int
    held: int
    released: int
    withdrawn: int
    oldest_deadline_at: Time | None


class Backlogs(Shape, frozen=True):
    seen_at: Time
    pending: int
    overdue: int
    held: int
    messengers: list[MessengerBacklog]
    """The tightest first, then those without a deadline by name."""
    holds: list[Hold]
    waves: list[Wave]


async def read(db: Database) -> Backlogs:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        return await read_in(moment, seen_at)


async def read_in(moment: Reading, seen_at: datetime) -> Backlogs:
    found = await backlogs.look(moment)
    names = {b.messenger_id: b.name for b in found}
    by_hand, waves = await holds.in_force(moment), await holds.waves(moment)
    return Backlogs(
        seen_at=seen_at,
        pending=sum(b.pending for b in found),
        overdue=sum(b.overdue for b in found),
        held=sum(b.held for b in found),
        messengers=sorted(map(of, found), key=_tightest),
        holds=[
            Hold(
                messenger=None if h.messenger_id is None else names.get(MessengerId(h.messenger_id)),
                reason=without_numbers(h.reason),
                held_at=h.held_at,
                held_by=h.held_by,
            )
            for h in by_hand
        ],
        waves=_waves(waves),
    )


def of(b: Backlog) -> MessengerBacklog:
    slack, eta, age = b.slack, b.eta, b.age
    return MessengerBacklog(
        messenger=b.name,
        pending=b.pending,
        overdue=b.overdue,
        refused=b.refused,
        replayed=b.replayed,
        oldest_deadline_at=b.deadline_at,
        slack_seconds=None if slack is None else round(slack.total_seconds()),
        age_seconds=None if age is None else round(age.total_seconds()),
        per_second=round(b.per_second, 3),
        eta_seconds=None if eta is None else round(eta.total_seconds()),
        too_slow=b.is_too_slow,
        endpoint="none" if not b.has_endpoint else "gated" if b.is_gated else "healthy",
        last_error=b.last_error,
        held=b.held,
        is_held=b.is_held,
        second_channel=b.needs_second_channel,
    )


def _tightest(b: MessengerBacklog) -> tuple[float, str]:
    return (inf if b.slack_seconds is None else b.slack_seconds, b.messenger)


def _waves(found: Iterable[HeldWave]) -> list[Wave]:
    return [
        Wave(
            wave=w.wave_id,
            began_at=w.began_at,
            last_at=w.last_at,
            ended_by=w.ended_by,
            ends=w.ends,
            notifications=w.notifications,
            held=w.held,
            released=w.released,
            withdrawn=w.withdrawn,
            oldest_deadline_at=w.oldest_deadline_at,
        )
        for w in found
        if w.held
    ]
