"""Answers a group of presence queries: lookup, journal page and bindings in one statement and one commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.store.pool import Database
from registryd.store.queries import Query


class Page(NamedTuple):
    """The queries of one messenger in one group: a row of the journal."""

    page_id: UUID
    received_at: datetime
    messenger_id: MessengerId
    digests: bytes
    """16 bytes a query, in the order of their positions."""


class AnsweredPage(NamedTuple):
    page: int
    bits: str
    """A `0` or `1` for each query, in the order of their positions."""


class BoundPage(NamedTuple):
    page: int
    bits: str
    outcomes: list[str | None]
    bound_at: list[datetime | None]


_ARRAYS = (list[int], list[int], list[int], list[UUID], list[datetime], list[int], list[bytes], int)
ANSWER = Query("presence", "answer_presence", AnsweredPage, *_ARRAYS)
ANSWER_AND_BIND = Query("presence", "answer_and_bind", BoundPage, *_ARRAYS, list[str])


async def answer(
    db: Database, numbers: Sequence[tuple[Msisdn, int, int, IdentificationCode | None]], pages: Sequence[Page], digest_key_id: int
) -> list[AnsweredPage] | list[BoundPage]:
    """Answers `numbers` (number, page, position, code), sorted by number for the index's sake. One result a page, in order.

    Raises: Unavailable; nothing is then recorded, or it is not known.
    """
    msisdns, page_numbers, positions, codes = zip(*numbers, strict=True)
    page_ids, received_at, messenger_ids, digests = zip(*pages, strict=True)
    arguments = (msisdns, page_numbers, positions, page_ids, received_at, messenger_ids, digests, digest_key_id)
    if any(code is not None for code in codes):
        return await db.fetch_retrying(ANSWER_AND_BIND, *arguments, codes)
    return await db.fetch_retrying(ANSWER, *arguments)
