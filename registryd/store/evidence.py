"""What is kept as evidence, where its chain ends, who verified it last, and which break-glass requests are open: for people who look."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple

from registryd.store.breakglass import OpenRequest
from registryd.store.queries import Query
from registryd.store.reading import Reader


class FamilyRow(NamedTuple):
    family: str
    partitions: int
    oldest: date
    made_until: date
    """The last day that there is a partition for."""
    size_bytes: int
    parts_over: int
    unplaced_rows: int


class ChainEnd(NamedTuple):
    seals: int
    sequence: int
    sealed_at: datetime
    sealed_until: datetime
    unsealed_s: float
    unsealed_pages: int
    """Counted to 10,000."""
    log_entries: int


class Verified(NamedTuple):
    verified_at: datetime
    verified_by: str
    pages: int
    findings: int


class DigestKeyCount(NamedTuple):
    kept: int
    destroyed: int
    oldest_kept: date | None


READ_FAMILIES = Query("evidence", "read_families", FamilyRow)
READ_CHAIN_END = Query("evidence", "read_chain_end", ChainEnd)
READ_VERIFIED = Query("evidence", "read_verified", Verified)
COUNT_DIGEST_KEYS = Query("evidence", "count_digest_keys", DigestKeyCount)
READ_OPEN_REQUESTS = Query("evidence", "read_open_requests", OpenRequest)


async def families(db: Reader) -> list[FamilyRow]:
    return await db.fetch(READ_FAMILIES)


async def chain_end(db: Reader) -> ChainEnd:
    return (await db.fetch(READ_CHAIN_END))[0]


async def verified(db: Reader) -> Verified | None:
    """The last time that somebody verified the evidence."""
    rows = await db.fetch(READ_VERIFIED)
    return rows[0] if rows else None


async def digest_keys(db: Reader) -> DigestKeyCount:
    return (await db.fetch(COUNT_DIGEST_KEYS))[0]


async def open_requests(db: Reader) -> list[OpenRequest]:
    """As break-glass lists them, but for what might be a number in a reason."""
    return await db.fetch(READ_OPEN_REQUESTS)
