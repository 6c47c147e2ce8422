"""Lanes and their endpoints: who is healthy, whose gate is shut and why, and the last pushes of one."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, cast

from registryd.domain.identifiers import MessengerId
from registryd.store import backlogs, lanes, proof
from registryd.store.lanes import LaneRow
from registryd.store.pool import Database
from registryd.views import backlog
from registryd.views.backlog import Endpoint, MessengerBacklog
from registryd.views.shape import NothingThere, Shape, Time, looking

ATTEMPTS_SHOWN = 20


class Lane(Shape, frozen=True):
    messenger: str
    endpoint: str | None
    """Without its query, which may hold a secret. None: it pulls."""
    state: Endpoint
    is_held: bool
    """By a person."""
    failures: int
    last_error: str | None
    next_probe_at: Time | None
    last_success_at: Time | None
    process: str | None
    """Which deliver process works it now."""
    push_p50_seconds: float | None
    """Of its last 100 pushes in a day."""
    push_p99_seconds: float | None
    failed_share: float | None
    """Of the same, 0 to 1."""


class Lanes(Shape, frozen=True):
    seen_at: Time
    lanes: list[Lane]
    """Gated ones first, then by name."""


class Attempt(Shape, frozen=True):
    """A push."""

    at: Time
    notifications: int
    outcome: Literal["acknowledged", "rejected", "failed"]
    http_status: int | None
    latency_seconds: float
    error: str | None


class OneLane(Shape, frozen=True):
    seen_at: Time
    lane: Lane
    backlog: MessengerBacklog
    attempts: list[Attempt]
    """The last 20, the newest first."""


async def read(db: Database) -> Lanes:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        found = await lanes.read_all(moment)
    return Lanes(seen_at=seen_at, lanes=sorted(map(of, found), key=lambda lane: (lane.state != "gated", lane.messenger)))


async def read_one(db: Database, messenger: str) -> OneLane:
    """Raises: NothingThere, Unavailable."""
    async with looking(db) as (moment, seen_at):
        found = await lanes.read_all(moment, messenger)
        owed = next((b for b in await backlogs.look(moment) if b.name == messenger), None)
        if not found or owed is None:
            raise NothingThere
        attempts = await proof.read_attempts(moment, MessengerId(owed.messenger_id), seen_at - timedelta(days=30), seen_at, ATTEMPTS_SHOWN)
    return OneLane(
        seen_at=seen_at,
        lane=of(found[0]),
        backlog=backlog.of(owed),
        attempts=[
            Attempt(
                at=a.attempted_at,
                notifications=a.notifications,
                outcome=cast("Literal['acknowledged', 'rejected', 'failed']", a.outcome),
                http_status=a.http_status,
                latency_seconds=a.latency_ms / 1000,
                error=a.error,
            )
            for a in attempts
        ],
    )


def of(row: LaneRow) -> Lane:
    return Lane(
        messenger=row.messenger,
        endpoint=row.endpoint,
        state=cast("Endpoint", row.state),
        is_held=row.is_held,
        failures=row.failures,
        last_error=row.last_error,
        next_probe_at=row.gate_until,
        last_success_at=row.last_success_at,
        process=row.process,
        push_p50_seconds=row.push_p50_s,
        push_p99_seconds=row.push_p99_s,
        failed_share=row.failed_share,
    )
