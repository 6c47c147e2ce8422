"""A notification: one termination owed to one messenger for one binding; what a push of some of them holds, and how a push may end.

    pending -> delivered (push | pull | hand) ; held -> pending ; held|pending -> withdrawn

A pending notification is a row of registry.notification, a delivered one of registry.notification_delivered, a held one of
registry.notification_held, a withdrawn one of registry.notification_withdrawn. Overdue is a fact, not a state: owed with deadline_at < now.

Where a mistaken end was undone, a notification of the other kind says so (`undoes`). It is owed and delivered as every other one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Literal, NamedTuple
from uuid import UUID

from registryd.domain.times import rfc3339

TERMINATED, REINSTATED = "binding.terminated", "binding.reinstated"
CHANNELS = ("push", "pull", "hand")

BEGINNING = UUID(int=0)
"""Before every id. An id begins with the deadline in milliseconds, so that the order of the ids is the order of the deadlines."""


class Notification(NamedTuple):
    notification_id: UUID
    deadline_at: datetime
    msisdn: int
    generation: int
    identification_code: str
    terminated_at: datetime
    recorded_at: datetime
    attempts: int
    replayed: bool = False
    """It was delivered before and a replay owes it again, so it is never late."""
    undoes: UUID | None = None
    """None: it tells a termination. Else the notification whose end was a mistake; `terminated_at` is then when that was undone."""

    @property
    def type(self) -> str:
        """The type of the event that tells it. A push holds notifications of one type."""
        return TERMINATED if self.undoes is None else REINSTATED


class Acknowledged(NamedTuple):
    """The endpoint answered 2xx: a receipt for the whole push."""

    http_status: int


class Rejected(NamedTuple):
    """The endpoint answered 400, 413 or 422: it works, but refuses this content."""

    http_status: int


class Failed(NamedTuple):
    """The endpoint failed: no answer in time, a redirect, or any other status."""

    error: str
    http_status: int | None = None
    retry_after: timedelta | None = None


Outcome = Acknowledged | Rejected | Failed


def webhook_id(notifications: Sequence[Notification]) -> str:
    """The message's id (Standard Webhooks). It is the same on every retry of the same notifications."""
    if len(notifications) == 1:
        return f"msg_{notifications[0].notification_id.hex}"
    return "msg_" + blake2b(b"".join(n.notification_id.bytes for n in notifications), digest_size=16).hexdigest()


def wire(notification: Notification, *, with_phone_number: bool) -> dict[str, object]:
    """One notification on the wire. A push and a pull show it alike, but that a pull adds the type.

    What undoes another names that one as `notificationId`, which its messenger knows, and itself as `reinstatementId`.
    """
    at = rfc3339(notification.terminated_at)
    item: dict[str, object] = {
        "notificationId": str(notification.undoes or notification.notification_id),
        **({"reinstatementId": str(notification.notification_id)} if notification.undoes else {}),
        "identificationCode": notification.identification_code,
        "generation": notification.generation,
        **({"reinstatedAt": at} if notification.undoes else {"terminatedAt": at}),
        "deadlineAt": rfc3339(notification.deadline_at),
    }
    if with_phone_number:
        item["phoneNumber"] = f"+{notification.msisdn}"
    return item


def own_id(item: Mapping[str, Any]) -> UUID:
    """The id by which an item of the wire is acknowledged, and counted in digests. Raises: KeyError, ValueError."""
    return UUID(item.get("reinstatementId") or item["notificationId"])


def event(notifications: Sequence[Notification], *, with_phone_number: bool) -> dict[str, object]:
    """The body of a push: notifications of one type. Its timestamp is the newest's, so that a retry has the first attempt's content."""
    return {
        "type": notifications[0].type,
        "timestamp": rfc3339(max(n.recorded_at for n in notifications)),
        "data": {"notifications": [wire(n, with_phone_number=with_phone_number) for n in notifications]},
    }


class Deferral(NamedTuple):
    """When a notification that failed is tried again, by the steady clock of its process."""

    notification_id: UUID
    due_s: float
    error: str


class Attempt(NamedTuple):
    """One push, as recorded; its time is the database's."""

    attempted_at: datetime
    notifications: int
    outcome: Literal["acknowledged", "rejected", "failed"]
    http_status: int | None
    latency_ms: int
    error: str | None


class PushTest(NamedTuple):
    """How a push of `endpoint.test` ended."""

    delivered: bool
    status: int | None
    latency_ms: int
    error: str | None
