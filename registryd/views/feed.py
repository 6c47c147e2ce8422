"""Billing's feed: is it complete, how late does it come, what was refused, what waits, and what the last snapshot did."""

from __future__ import annotations

from typing import Literal, cast

from registryd.domain.identifiers import without_numbers
from registryd.store import feed
from registryd.store.feed import Lag
from registryd.store.pool import Database
from registryd.views.shape import Shape, Time, looking

TREND_MINUTES = 60
NOW_MINUTES = 5
WAITING_SHOWN = 100


class FeedMinute(Shape, frozen=True):
    at: Time
    """Its begin."""
    events: int


class FeedType(Shape, frozen=True):
    """Today's events of one type and outcome."""

    type: str
    outcome: Literal["applied", "refused"]
    events: int
    mean_lag_seconds: float
    """From occurring to being recorded."""
    worst_lag_seconds: float


class FeedReason(Shape, frozen=True):
    reason: str
    events: int


class WaitingEvent(Shape, frozen=True):
    """An event that was answered not_yet."""

    event_id: str
    """Digits that might be a number are a star."""
    type: str
    reason: str
    occurred_at: Time
    first_at: Time
    last_at: Time
    calls: int
    waited_seconds: float


class Snapshot(Shape, frozen=True):
    """The newest one that was applied. All but the first is null where a history said as of when it was."""

    taken_at: Time
    applied_at: Time | None
    lines: int | None
    rejects: int | None
    """Bad lines, which were left out."""
    started: int | None
    changed: int | None
    ended: int | None


class Feed(Shape, frozen=True):
    seen_at: Time
    complete: bool
    """Whether the registry holds every contract. Where it does not, every query is 503."""
    complete_since: Time | None
    source: str | None
    """What said so: snapshot, history or person."""
    declared_by: str | None
    reason: str | None
    events_per_minute: float
    """Of the last five whole minutes."""
    last_event_at: Time | None
    last_event_seconds: float | None
    mean_lag_seconds: float | None
    """Of today's events."""
    worst_lag_seconds: float | None
    types: list[FeedType]
    refused: list[FeedReason]
    """Of today, by reason, the most first; counted among the newest 20,000 events."""
    waiting: int
    waiting_reasons: list[FeedReason]
    waiting_events: list[WaitingEvent]
    """The 100 that have waited longest."""
    snapshot: Snapshot | None
    ends_last_hour: int
    ends_bound: int
    """How many contracts may end in an hour, by the policy."""
    ends_allowed: int
    """How many more are let through now (registryd feed allow-ends)."""
    ends_left: int
    trend: list[FeedMinute]
    """Whole minutes, the oldest first: 60, or fewer where more than 20,000 events came."""


async def read(db: Database) -> Feed:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        status = await feed.read_status(moment.connection)
        lags = await feed.read_lag(moment.connection)
        waiting = await feed.read_waiting(moment.connection, WAITING_SHOWN)
        waits = await feed.count_waiting(moment)
        refused, minutes = await feed.read_refused(moment), await feed.read_minutes(moment, TREND_MINUTES)
        snapshot = await feed.read_snapshot(moment)
    latest = minutes[-NOW_MINUTES:]
    return Feed(
        seen_at=seen_at,
        complete=status.complete,
        complete_since=status.complete_since,
        source=status.source,
        declared_by=status.declared_by,
        reason=None if status.reason is None else without_numbers(status.reason),
        events_per_minute=round(sum(m.events for m in latest) / max(len(latest), 1), 1),
        last_event_at=status.last_event_at,
        last_event_seconds=None if status.last_event_at is None else round((seen_at - status.last_event_at).total_seconds(), 3),
        mean_lag_seconds=mean_lag(lags),
        worst_lag_seconds=max((lag.worst_lag.total_seconds() for lag in lags), default=None),
        types=[
            FeedType(
                type=lag.type,
                outcome=cast("Literal['applied', 'refused']", lag.outcome),
                events=lag.events,
                mean_lag_seconds=lag.mean_lag.total_seconds(),
                worst_lag_seconds=lag.worst_lag.total_seconds(),
            )
            for lag in lags
        ],
        refused=[FeedReason(**row._asdict()) for row in refused],
        waiting=status.waiting,
        waiting_reasons=[FeedReason(reason=reason, events=events) for reason, events in sorted(waits.items(), key=lambda each: -each[1])],
        waiting_events=[WaitingEvent(**w._asdict(), waited_seconds=round((seen_at - w.first_at).total_seconds(), 3)) for w in waiting],
        snapshot=None
        if snapshot is None
        else Snapshot(
            taken_at=snapshot.as_of,
            applied_at=snapshot.applied_at,
            lines=snapshot.lines,
            rejects=snapshot.rejects,
            started=snapshot.started,
            changed=snapshot.changed,
            ended=snapshot.ended,
        ),
        ends_last_hour=status.ends_last_hour,
        ends_bound=status.ends_bound,
        ends_allowed=status.ends_allowed,
        ends_left=status.ends_left,
        trend=[FeedMinute(at=m.minute, events=m.events) for m in minutes],
    )


def mean_lag(lags: list[Lag]) -> float | None:
    """Of today's events of all types, in seconds; None where none came."""
    events = sum(lag.events for lag in lags)
    return round(sum(lag.mean_lag.total_seconds() * lag.events for lag in lags) / events, 3) if events else None
