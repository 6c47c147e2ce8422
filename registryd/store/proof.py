"""What became of one notification, for whoever must prove it; and the settling of what was delivered by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Database
from registryd.store.queries import Query
from registryd.store.reading import Reader

SETTLED_AT_ONCE_MAX = 10_000
CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
"""The name of a channel by which notifications are delivered by hand."""


class Pending(NamedTuple):
    messenger_id: MessengerId
    name: str
    msisdn: int
    generation: int
    identification_code: str
    terminated_at: datetime
    deadline_at: datetime
    recorded_at: datetime
    attempts: int
    not_before: datetime
    last_error: str | None
    replayed: bool
    undoes: UUID | None
    wave_id: int | None
    """The wave that it is held in."""


class Delivered(NamedTuple):
    messenger_id: MessengerId
    name: str
    msisdn: int
    generation: int
    identification_code: str
    terminated_at: datetime
    deadline_at: datetime
    recorded_at: datetime
    attempts: int
    delivered_at: datetime
    via: str
    channel: str | None
    file_sha256: bytes | None
    undoes: UUID | None


class Withdrawn(NamedTuple):
    messenger_id: MessengerId
    name: str
    msisdn: int
    generation: int
    identification_code: str
    terminated_at: datetime
    deadline_at: datetime
    recorded_at: datetime
    attempts: int
    withdrawn_at: datetime
    request: int
    reason: str


class Undoing(NamedTuple):
    reinstatement_id: UUID


class EndedContract(NamedTuple):
    started_at: datetime
    ended_at: datetime | None
    end_reason: str | None


class Replayed(NamedTuple):
    asked_at: datetime
    replayed_at: datetime | None
    delivered_at: datetime | None
    via: str | None


class AttemptRow(NamedTuple):
    attempted_at: datetime
    notifications: int
    outcome: str
    http_status: int | None
    latency_ms: int
    error: str | None


class SettledByHand(NamedTuple):
    settled: int


FIND_PENDING = Query("proof", "find_pending", Pending, UUID)
FIND_HELD = Query("proof", "find_held", Pending, UUID)
FIND_DELIVERED = Query("proof", "find_delivered", Delivered, UUID)
FIND_WITHDRAWN = Query("proof", "find_withdrawn", Withdrawn, UUID)
FIND_UNDOING = Query("proof", "find_undoing", Undoing, int, UUID)
FIND_ENDED = Query("proof", "find_ended", EndedContract, int, int)
FIND_REPLAYS = Query("proof", "find_replays", Replayed, int, UUID)
READ_ATTEMPTS = Query("proof", "read_attempts", AttemptRow, int, datetime, datetime, int)
SETTLE_BY_HAND = Query("proof", "settle_by_hand", SettledByHand, int, list[UUID], str, bytes)


async def find(db: Reader, notification_id: UUID) -> tuple[Pending | None, Delivered | None]:
    """The notification as it is owed now, held or not, and its delivery. There are both where a replay owes it again."""
    pending = await db.fetch(FIND_PENDING, notification_id) or await db.fetch(FIND_HELD, notification_id)
    delivered = await db.fetch(FIND_DELIVERED, notification_id)
    return (pending[0] if pending else None), (delivered[0] if delivered else None)


async def find_withdrawn(db: Reader, notification_id: UUID) -> Withdrawn | None:
    """The notification as two persons have withdrawn it."""
    rows = await db.fetch(FIND_WITHDRAWN, notification_id)
    return rows[0] if rows else None


async def find_undoing(db: Reader, messenger_id: MessengerId, notification_id: UUID) -> UUID | None:
    """The notification that undoes this one."""
    rows = await db.fetch(FIND_UNDOING, messenger_id, notification_id)
    return rows[0].reinstatement_id if rows else None


async def find_ended(db: Reader, msisdn: int, generation: int) -> EndedContract | None:
    """The contract whose end the notification tells."""
    rows = await db.fetch(FIND_ENDED, msisdn, generation)
    return rows[0] if rows else None


async def find_replays(db: Reader, messenger_id: MessengerId, notification_id: UUID) -> list[Replayed]:
    return await db.fetch(FIND_REPLAYS, messenger_id, notification_id)


async def read_attempts(db: Reader, messenger_id: MessengerId, since: datetime, until: datetime, limit: int) -> list[AttemptRow]:
    """The last pushes to a messenger in a period, the newest first."""
    return await db.fetch(READ_ATTEMPTS, messenger_id, since, until, limit)


async def settle_by_hand(db: Database, messenger_id: MessengerId, ids: Sequence[UUID], channel: str, file_sha256: bytes | None) -> int:
    """Settles what was delivered by hand. Returns how many of the ids were still owed; other ids of the file are ignored."""
    settled = 0
    for first in range(0, len(ids), SETTLED_AT_ONCE_MAX):
        portion = ids[first : first + SETTLED_AT_ONCE_MAX]
        settled += (await db.fetch_retrying(SETTLE_BY_HAND, messenger_id, portion, channel, file_sha256))[0].settled
    return settled
