"""A messenger's backlog: what it is owed and has not received yet. Will it be in time, and which alarms does it raise?

Slack is the time left to the earliest deadline. The ETA is how long the whole backlog takes at the pace of the last minutes. Replayed
notifications were delivered before: they count as pending, but have no slack and are never overdue. What is overdue and refused by its
messenger is an alarm of its own, and has no slack either.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from registryd.domain.identifiers import MessengerId

GRAVE = timedelta(hours=1)
"""An alarm from this slack on is an error, above it a warning."""
FIRST_TRY = timedelta(minutes=5)
"""A lane needs this long before its pace tells anything: a younger backlog is not called slow."""
SECOND_CHANNEL_AFTER = timedelta(hours=6)
"""After pushes have failed for this long, the operator is asked to deliver by another channel."""


class Alarms(NamedTuple):
    """What is to be told about a backlog: the thresholds that its slack is below, whether the operator must deliver otherwise, and whether
    the messenger refuses content that is overdue.
    """

    below: tuple[timedelta, ...] = ()
    second_channel: bool = False
    refused: bool = False


class Backlog(NamedTuple):
    messenger_id: MessengerId
    name: str
    has_endpoint: bool
    pending: int
    overdue: int
    refused: int
    """How many of the overdue ones the messenger refuses though its endpoint works: only people can mend that."""
    replayed: int
    """How many of the pending ones belong to a replay."""
    held: int
    """How many of the pending ones are held in a wave of ends beyond the bound."""
    is_held: bool
    """Whether a person holds this messenger's notifications."""
    deadline_at: datetime | None
    """The earliest deadline of a notification that was never delivered, but for those `refused`; None where there is none."""
    recorded_at: datetime | None
    """When the notification with that deadline was written."""
    received: int
    """Notifications that the endpoint acknowledged in the last `received_within`."""
    received_within: timedelta
    is_gated: bool
    last_error: str | None
    last_success_at: datetime | None
    alarms_below: list[timedelta]
    """The thresholds that an alarm was raised for, and is not over yet."""
    second_channel_due: bool
    refused_told: bool
    seen_at: datetime
    """By the database's clock, as every time here."""

    @property
    def raised(self) -> Alarms:
        return Alarms(tuple(self.alarms_below), self.second_channel_due, self.refused_told)

    @property
    def slack(self) -> timedelta | None:
        return None if self.deadline_at is None else self.deadline_at - self.seen_at

    @property
    def age(self) -> timedelta | None:
        return None if self.recorded_at is None else self.seen_at - self.recorded_at

    @property
    def per_second(self) -> float:
        """How many notifications the endpoint acknowledged a second, lately."""
        seconds = self.received_within.total_seconds()
        return self.received / seconds if seconds > 0 else 0.0

    @property
    def eta(self) -> timedelta | None:
        """How long the backlog takes at that pace; None where the endpoint has acknowledged nothing lately."""
        if not self.pending:
            return timedelta(0)
        return timedelta(seconds=self.pending / self.per_second) if self.per_second else None

    @property
    def is_too_slow(self) -> bool:
        """Whether the backlog will miss a deadline at this pace: the ETA lies beyond the slack, or nothing is acknowledged at all.

        A messenger that pulls has no pace, so only its slack tells.
        """
        slack, age = self.slack, self.age
        if slack is None or age is None:
            return False
        if self.eta is None:
            return slack < timedelta(0) or (self.has_endpoint and age > FIRST_TRY)
        return self.eta > slack

    @property
    def needs_second_channel(self) -> bool:
        """Whether pushes have failed for SECOND_CHANNEL_AFTER while a notification waited that long."""
        age = self.age
        fails = self.is_gated and (self.last_success_at is None or self.seen_at - self.last_success_at > SECOND_CHANNEL_AFTER)
        return fails and age is not None and age > SECOND_CHANNEL_AFTER

    def alarms(self, thresholds: Sequence[timedelta]) -> Alarms:
        """What is to be told now; the largest threshold first."""
        slack = self.slack
        below = () if slack is None else tuple(sorted((t for t in thresholds if slack < t), reverse=True))
        return Alarms(below, self.needs_second_channel, self.refused > 0)
