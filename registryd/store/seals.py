"""The chain over the journal, as the operate processes append to it. Who verifies it: audit.py."""

from __future__ import annotations

from typing import NamedTuple

from registryd.store.pool import Connection, first
from registryd.store.queries import Query
from registryd.store.reading import Reader


class Sealed(NamedTuple):
    pages: int
    queries: int


class Unsealed(NamedTuple):
    unsealed_s: float


SEAL_WINDOW = Query("seals", "seal_window", Sealed)
READ_UNSEALED = Query("seals", "read_unsealed", Unsealed)


async def seal_window(connection: Connection) -> Sealed | None:
    """Seals the next window of the journal that is over; None where there is none, or where a transaction still holds it open."""
    return await first(connection, SEAL_WINDOW)


async def unsealed_s(db: Reader) -> float:
    """How many seconds ago the oldest page was written that no seal covers. Raises: Unavailable."""
    return (await db.fetch(READ_UNSEALED))[0].unsealed_s
