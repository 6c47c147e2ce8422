"""What is owed to one messenger and not delivered yet: will it be in time, and who must be told.

Slack is what is left to the earliest deadline; the ETA is when the whole backlog ends at the pace of the last minutes. Replayed
notifications are pending, but were delivered before: they have no slack and are never overdue.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from registryd.domain.identifiers import MessengerId

FIRST_TRY = timedelta(minutes=5)
"""A notification younger than this may be without a pace to judge it by: its lane has had no time to deliver anything."""
SECOND_CHANNEL_AFTER = timedelta(hours=6)
"""Once pushes have failed for so long, what is owed is to be handed over by another channel."""


class Backlog(NamedTuple):
    messenger_id: MessengerId
    name: str
    has_endpoint: bool
    pending: int
    overdue: int
    replayed: int
    """Of the pending ones, those that a replay has let in."""
    deadline_at: datetime | None
    """The earliest deadline of those that were never delivered; None where all were."""
    recorded_at: datetime | None
    """When that one was written."""
    received: int
    """Notifications that the endpoint acknowledged in the last `received_within`."""
    received_within: timedelta
    is_gated: bool
    last_error: str | None
    last_success_at: datetime | None

    def slack(self, now: datetime) -> timedelta | None:
        return None if self.deadline_at is None else self.deadline_at - now

    def age(self, now: datetime) -> timedelta | None:
        return None if self.recorded_at is None else now - self.recorded_at

    @property
    def per_second(self) -> float:
        """The endpoint's pace lately."""
        seconds = self.received_within.total_seconds()
        return self.received / seconds if seconds > 0 else 0.0

    @property
    def eta(self) -> timedelta | None:
        """How long the backlog takes at that pace; None where there is none to go by."""
        if not self.pending:
            return timedelta(0)
        return timedelta(seconds=self.pending / self.per_second) if self.per_second else None

    def is_too_slow(self, now: datetime) -> bool:
        """Whether the duty will not be met as things go: the ETA lies beyond the slack, or nothing arrives at all.

        Of a messenger that pulls no pace is known: its slack alone tells.
        """
        slack, age = self.slack(now), self.age(now)
        if slack is None or age is None:
            return False
        if self.eta is None:
            return slack < timedelta(0) or (self.has_endpoint and age > FIRST_TRY)
        return self.eta > slack

    def needs_second_channel(self, now: datetime) -> bool:
        """Whether pushes have failed for six hours while something waited."""
        age = self.age(now)
        fails = self.is_gated and (self.last_success_at is None or now - self.last_success_at > SECOND_CHANNEL_AFTER)
        return fails and age is not None and age > SECOND_CHANNEL_AFTER


def alarms(slack: timedelta | None, thresholds: Sequence[timedelta]) -> list[timedelta]:
    """The thresholds that the slack has fallen below, the widest first."""
    return [] if slack is None else sorted((t for t in thresholds if slack < t), reverse=True)
