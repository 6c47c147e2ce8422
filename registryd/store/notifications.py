"""Notifications that are owed: read in order, settled in batches, never locked during a push."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import BEGINNING as BEGINNING
from registryd.domain.notification import Attempt, Notification
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Nothing, Query

DUE_BATCH = 10_000


class Settled(NamedTuple):
    settled: int


class Deferred(NamedTuple):
    notification_id: UUID


class MadeDue(NamedTuple):
    notification_id: UUID


class PushAttempt(NamedTuple):
    attempted_at: datetime
    notifications: int
    outcome: str
    http_status: int | None
    latency_ms: int
    error: str | None


class NextAttempt(NamedTuple):
    next_attempt_at: datetime | None


class PendingCount(NamedTuple):
    pending: int
    oldest_deadline_at: datetime | None


READ_DUE = Query("notifications", "read_due", Notification, int, UUID, int)
FIND_CANARY = Query("notifications", "find_canary", Notification, int)
READ_OWED = Query("notifications", "read_owed", Notification, int, UUID, int)
SETTLE_DELIVERED = Query("notifications", "settle_delivered", Settled, int, list[UUID], str)
DEFER_REFUSED = Query("notifications", "defer_refused", Deferred, int, int, list[UUID], list[timedelta], list[str])
MAKE_DUE = Query("notifications", "make_due", MadeDue, int, UUID, int)
RECORD_ATTEMPTS = Query(
    "notifications", "record_attempts", Nothing, int, list[datetime], list[int], list[str], list[int], list[int], list[str]
)
SETTLE_RECEIPTS = Query(
    "notifications",
    "settle_receipts",
    Settled,
    int,
    list[UUID],
    list[datetime],
    list[int],
    list[str],
    list[int],
    list[int],
    list[str],
)
COUNT_PENDING = Query("notifications", "count_pending", PendingCount, int)
READ_OWN_ATTEMPTS = Query("notifications", "read_own_attempts", PushAttempt, int, datetime, int)
FIND_NEXT_ATTEMPT = Query("notifications", "find_next_attempt", NextAttempt, int)


async def read_due(db: Database, messenger_id: MessengerId, after: UUID, limit: int) -> list[Notification]:
    """Up to `limit` notifications whose next attempt is due, after an id, earliest deadline first."""
    return await db.fetch(READ_DUE, messenger_id, after, limit)


async def find_canary(db: Database, messenger_id: MessengerId) -> list[Notification]:
    """The notification to probe a failing endpoint with; none where nothing is due."""
    return await db.fetch(FIND_CANARY, messenger_id)


async def read_owed(db: Database, messenger_id: MessengerId, after: UUID, limit: int) -> list[Notification]:
    """Up to `limit` notifications after an id, whether or not an attempt is due: what a messenger may pull."""
    return await db.fetch(READ_OWED, messenger_id, after, limit)


async def acknowledge(db: Database, messenger_id: MessengerId, ids: Sequence[UUID]) -> int:
    """Settles notifications by pull. Returns how many this call settled; ids of others and settled ones are ignored."""
    return (await db.fetch_retrying(SETTLE_DELIVERED, messenger_id, ids, "pull"))[0].settled


async def make_due(db: Database, messenger_id: MessengerId) -> int:
    """Makes the next attempt of whatever waits for one due now. Returns of how many."""
    total, after = 0, BEGINNING
    while made := await db.fetch(MAKE_DUE, messenger_id, after, DUE_BATCH):
        total += len(made)
        after = max(row.notification_id for row in made)
    return total


async def count_pending(db: Database, messenger_id: MessengerId) -> PendingCount:
    """Pending notifications (counted to 1,000) and the earliest deadline among them."""
    return (await db.fetch(COUNT_PENDING, messenger_id))[0]


async def read_attempts(db: Database, messenger_id: MessengerId, before: datetime, limit: int) -> list[PushAttempt]:
    """The pushes of the last 30 days that began before a time, the newest first: `limit` of them, and what began when the last one did."""
    return await db.fetch(READ_OWN_ATTEMPTS, messenger_id, before, limit)


async def find_next_attempt(db: Database, messenger_id: MessengerId) -> datetime | None:
    """When the next push is due; None where nothing is owed."""
    return (await db.fetch(FIND_NEXT_ATTEMPT, messenger_id))[0].next_attempt_at


async def settle_receipts(db: Database, messenger_id: MessengerId, delivered: Sequence[UUID], attempts: Sequence[Attempt]) -> int:
    """Writes receipts alone, in one statement and one round trip."""
    columns = [list(column) for column in zip(*attempts, strict=True)] or [[] for _ in Attempt._fields]
    return (await db.fetch_retrying(SETTLE_RECEIPTS, messenger_id, delivered, *columns))[0].settled


async def settle_push(
    connection: Connection,
    messenger_id: MessengerId,
    token: int,
    delivered: Sequence[UUID],
    deferred: Sequence[tuple[UUID, timedelta, str]],
    attempts: Sequence[Attempt],
) -> int:
    """Writes outcomes of pushes in the caller's transaction: receipts whoever holds the lane, deferrals (id, wait, error) under `token`
    only.
    """
    settled = 0
    if delivered:
        settled = (await fetch(connection, SETTLE_DELIVERED, messenger_id, delivered, "push"))[0].settled
    if deferred:
        await fetch(connection, DEFER_REFUSED, messenger_id, token, *map(list, zip(*deferred, strict=True)))
    if attempts:
        await fetch(connection, RECORD_ATTEMPTS, messenger_id, *map(list, zip(*attempts, strict=True)))
    return settled
