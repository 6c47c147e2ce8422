"""The chain over the journal, as a worker appends to it. Who verifies it: audit.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from registryd.store.pool import Database
from registryd.store.queries import Query

SEAL_MAX_PAGES = 5_000


class Sealed(NamedTuple):
    page_ids: list[UUID]


SEAL_PAGES = Query("seals", "seal_pages", Sealed, list[UUID])


async def seal_pages(db: Database, page_ids: Sequence[UUID]) -> list[UUID]:
    """Seals those of the pages that are committed and returns them. At most SEAL_MAX_PAGES. Raises: Unavailable."""
    return (await db.fetch(SEAL_PAGES, page_ids))[0].page_ids
