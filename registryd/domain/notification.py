"""A notification: one termination owed to one messenger for one binding, and what a push of some of them is.

    pending -> delivered (push | pull | hand)

pending is a row of registry.notification; delivered, of registry.notification_delivered. overdue = pending and deadline_at < now: a
fact, not a state. A replay owes a delivered one again, in a row of its own beside the proof, which stays. An outcome is a type: `match`
it and close with `assert_never`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Literal, NamedTuple
from uuid import UUID

from registryd.domain.times import rfc3339

STATES = ("pending", "delivered")
CHANNELS = ("push", "pull", "hand")

Key = tuple[datetime, UUID]
"""Where a notification stands among one messenger's: earliest deadline first."""
BEGINNING: Key = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class Notification(NamedTuple):
    deadline_at: datetime
    notification_id: UUID
    msisdn: int
    generation: int
    identification_code: str
    terminated_at: datetime
    recorded_at: datetime
    attempts: int
    replayed: bool = False
    """Delivered before, and owed again by a replay: never late."""


class Acknowledged(NamedTuple):
    """A 2xx: a receipt for the whole push."""

    http_status: int


class Rejected(NamedTuple):
    """400, 413 or 422: the endpoint lives, and refuses this content."""

    http_status: int


class Failed(NamedTuple):
    """The endpoint failed: no answer in time, a redirect, or any other status."""

    error: str
    http_status: int | None = None
    retry_after: timedelta | None = None


Outcome = Acknowledged | Rejected | Failed


def webhook_id(notifications: Sequence[Notification]) -> str:
    """The message's id (Standard Webhooks): the same on every retry of the same notifications."""
    if len(notifications) == 1:
        return f"msg_{notifications[0].notification_id.hex}"
    return "msg_" + blake2b(b"".join(n.notification_id.bytes for n in notifications), digest_size=16).hexdigest()


def wire(notification: Notification, *, with_phone_number: bool) -> dict[str, object]:
    """One notification as it stands on the wire, pushed and pulled alike."""
    item: dict[str, object] = {
        "notificationId": str(notification.notification_id),
        "identificationCode": notification.identification_code,
        "generation": notification.generation,
        "terminatedAt": rfc3339(notification.terminated_at),
        "deadlineAt": rfc3339(notification.deadline_at),
    }
    if with_phone_number:
        item["phoneNumber"] = f"+{notification.msisdn}"
    return item


def event(notifications: Sequence[Notification], *, with_phone_number: bool) -> dict[str, object]:
    """The body of a push. Its timestamp is the newest notification's own, so that a retry has the same content as its first attempt."""
    return {
        "type": "binding.terminated",
        "timestamp": rfc3339(max(n.recorded_at for n in notifications)),
        "data": {"notifications": [wire(n, with_phone_number=with_phone_number) for n in notifications]},
    }


class Deferral(NamedTuple):
    """A refused notification's next attempt."""

    notification_id: UUID
    not_before: datetime
    error: str


class Attempt(NamedTuple):
    """One push, as recorded."""

    attempted_at: datetime
    notifications: int
    outcome: Literal["acknowledged", "rejected", "failed"]
    http_status: int | None
    latency_ms: int
    error: str | None


class TestPush(NamedTuple):
    """What a push of `endpoint.test` came to."""

    delivered: bool
    status: int | None
    latency_ms: int
    error: str | None
