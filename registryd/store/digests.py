"""Daily digests: which are missing, what they hold, and which are due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.digest import Digest
from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Nothing, Query

PAGE = 5_000


class Missing(NamedTuple):
    messenger_id: MessengerId
    day: date


class Id(NamedTuple):
    notification_id: UUID


class Claimed(NamedTuple):
    """A digest that this process is to push now."""

    messenger_id: MessengerId
    name: str
    endpoint_url: str
    day: date
    notifications: int
    first_id: UUID | None
    last_id: UUID | None
    sha256: bytes
    made_at: datetime

    @property
    def digest(self) -> Digest:
        return Digest(self.notifications, self.first_id, self.last_id, self.sha256)


READ_MISSING = Query("digests", "read_missing", Missing)
READ_DELIVERED = Query("digests", "read_delivered", Id, int, date, UUID, int)
ADD_DIGEST = Query("digests", "add_digest", Nothing, int, date, int, UUID, UUID, bytes)
CLAIM_DIGESTS = Query("digests", "claim_digests", Claimed)
SETTLE_DIGEST = Query("digests", "settle_digest", Nothing, int, date, str)


async def read_missing(db: Database) -> list[Missing]:
    """The days that are over and have no digest yet, of every messenger with an endpoint."""
    return await db.fetch(READ_MISSING)


async def read_delivered(connection: Connection, messenger_id: MessengerId, day: date) -> AsyncIterator[list[UUID]]:
    """The ids that were delivered on a day, in ascending order, in pages."""
    after = UUID(int=0)
    while True:
        page = [row.notification_id for row in await fetch(connection, READ_DELIVERED, messenger_id, day, after, PAGE)]
        yield page
        if len(page) < PAGE:
            return
        after = page[-1]


async def add(connection: Connection, missing: Missing, digest: Digest) -> None:
    """Adds a digest, unless its day has one already."""
    await fetch(connection, ADD_DIGEST, *missing, *digest)


async def claim(db: Database) -> list[Claimed]:
    """Up to 100 digests whose push is due; each is due again a while later unless it is settled."""
    return await db.fetch(CLAIM_DIGESTS)


async def settle(db: Database, claimed: Claimed, error: str | None) -> None:
    """Records a push of a digest. `error`: None where the endpoint acknowledged it."""
    await db.fetch(SETTLE_DIGEST, claimed.messenger_id, claimed.day, error)
