"""Open break-glass requests: what two persons are about to do. Nothing here does it: each runs the command under a role of his own."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, cast

from registryd.store import breakglass, evidence
from registryd.store.pool import Database
from registryd.views.shape import Shape, Time, looking

AS_YOURSELF = "--dsn postgresql://YOU@HOST/DATABASE"


class OpenRequest(Shape, frozen=True):
    request: int
    kind: Literal["look", "reinstate", "withdraw"]
    step: Literal["requested", "prepared", "approved"]
    requested_at: Time
    age_seconds: float
    person: str
    """Who asked."""
    reason: str
    number: str | None
    """Masked; of a look alone."""
    scope: str | None
    """Which contracts or notifications, as JSON; of the other kinds."""
    approved_by: str | None
    ends_at: Time
    """When it lapses."""
    next: str
    """Who must do what now."""
    command: str
    """To paste, under one's own database role."""


class Breakglass(Shape, frozen=True):
    seen_at: Time
    requests: list[OpenRequest]
    """The oldest first."""


async def read(db: Database) -> Breakglass:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        found = await evidence.open_requests(moment)
    return Breakglass(seen_at=seen_at, requests=[_request(r, seen_at) for r in found])


def _request(r: breakglass.OpenRequest, seen_at: datetime) -> OpenRequest:
    if r.approved_by is not None:
        step, what, then = "approved", r.kind, f"{r.approved_by} has approved it: {r.requested_by} carries it out before it lapses."
    elif r.is_prepared:
        step, what, then = "prepared", "approve", f"Somebody other than {r.requested_by} approves it or lets it lapse."
    else:
        step, what, then = "requested", "approve", "The service prepares it within seconds; then another person approves it."
    return OpenRequest(
        request=r.request,
        kind=cast("Literal['look', 'reinstate', 'withdraw']", r.kind),
        step=cast("Literal['requested', 'prepared', 'approved']", step),
        requested_at=r.requested_at,
        age_seconds=round((seen_at - r.requested_at).total_seconds(), 3),
        person=r.requested_by,
        reason=r.reason,
        number=r.number,
        scope=r.scope or None,
        approved_by=r.approved_by,
        ends_at=r.ends_at,
        next=then,
        command=f"registryd breakglass {what} {r.request} {AS_YOURSELF}",
    )
