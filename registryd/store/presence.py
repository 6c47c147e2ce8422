"""Answers a group of presence queries: lookup, journal page and bindings in one statement and one commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.domain.presence import PresenceQuery
from registryd.store.pool import Database
from registryd.store.queries import Query


class Page:
    """The queries of one messenger in one group: a row of the journal, with their digests in the same order."""

    __slots__ = ("codes", "digests", "messenger_id", "msisdns", "page_id", "received_at")

    def __init__(self, page_id: UUID, received_at: datetime, messenger_id: MessengerId) -> None:
        self.page_id = page_id
        self.received_at = received_at
        self.messenger_id = messenger_id
        self.msisdns: list[Msisdn] = []
        self.codes: list[IdentificationCode | None] = []
        self.digests = b""

    def add(self, queries: Sequence[PresenceQuery], digests: bytes) -> int:
        """Puts queries on the page; returns the position of the first."""
        first = len(self.msisdns)
        self.msisdns += [query.msisdn for query in queries]
        self.codes += [query.code for query in queries]
        self.digests += digests
        return first


class AnsweredPage(NamedTuple):
    page: int
    bits: str
    """A `0` or `1` for each query, in the order of their positions."""
    answered_at: datetime


class BoundPage(NamedTuple):
    page: int
    bits: str
    outcomes: list[str | None]
    bound_at: list[datetime | None]
    answered_at: datetime


_ARRAYS = (list[int], list[int], list[UUID], list[datetime], list[int], list[bytes], int)
ANSWER = Query("presence", "answer_presence", AnsweredPage, *_ARRAYS)
ANSWER_AND_BIND = Query("presence", "answer_and_bind", BoundPage, *_ARRAYS, list[str])


async def answer(db: Database, pages: Sequence[Page], digest_key_id: int) -> Sequence[AnsweredPage] | Sequence[BoundPage]:
    """Answers the queries of `pages`: a result for each, in their order.

    Raises: Unavailable; nothing is then recorded, or it is not known.
    """
    msisdns = [msisdn for page in pages for msisdn in page.msisdns]
    # Sorted by number: neighbours share the index's pages.
    order = sorted(range(len(msisdns)), key=msisdns.__getitem__)
    places = [place for number, page in enumerate(pages) for place in range(number << 16, (number << 16) + len(page.msisdns))]
    arguments = (
        [msisdns[i] for i in order],
        [places[i] for i in order],
        [page.page_id for page in pages],
        [page.received_at for page in pages],
        [page.messenger_id for page in pages],
        [page.digests for page in pages],
        digest_key_id,
    )
    codes = [code for page in pages for code in page.codes]
    if any(codes):
        return await db.fetch_retrying(ANSWER_AND_BIND, *arguments, [codes[i] for i in order])
    return await db.fetch_retrying(ANSWER, *arguments)
