"""Answers a group of presence queries: lookup, journal page and bindings in one statement and one commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.errors import NotComplete
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.store.failures import CONFLICTS
from registryd.store.pool import Database, fetch
from registryd.store.queries import Nothing, Query


class Conflict(Exception):
    """Another transaction bound one of the numbers or codes meanwhile. Nothing of the group is recorded; it may be asked again at once."""


class Runs(NamedTuple):
    """Whose queries a group holds: each messenger's stand one after another."""

    messenger_ids: list[MessengerId]
    query_counts: list[int]
    waited_ms: list[int]
    """How long each messenger's query that waits longest has waited since its receipt."""


class Answered(NamedTuple):
    page_id: UUID
    answered_at: datetime
    bits: str
    """A `0` or `1` for each query, in the order of the group."""


class AnsweredAndBound(NamedTuple):
    page_id: UUID
    answered_at: datetime
    bits: str
    outcomes: list[str | None]
    bound_at: list[datetime | None]
    generations: list[int | None]


class Complete(NamedTuple):
    complete: bool


_RUNS = (list[int], list[int], list[int])
ANSWER = Query("presence", "answer_presence", Answered, list[int], *_RUNS, bytes, int)
ANSWER_AND_BIND = Query("presence", "answer_and_bind", AnsweredAndBound, list[int], list[int], *_RUNS, bytes, int, list[str], list[int])
CONFIRM_COMPLETE = Query("presence", "confirm_complete", Complete)
TRY_JOURNAL = Query("presence", "try_journal", Nothing, int)


async def answer(
    db: Database,
    runs: Runs,
    msisdns: Sequence[Msisdn],
    codes: Sequence[IdentificationCode | None] | None,
    digests: bytes,
    digest_key_id: int,
    *,
    again: bool = False,
) -> Answered | AnsweredAndBound:
    """Answers the queries of a group and records them; `msisdns`, `codes` and `digests` are in the order of `runs`.

    `again`: asks again itself after a conflict, for some milliseconds, instead of raising Conflict.

    Raises: Conflict; NotComplete; Unavailable, when nothing is recorded, or it is not known.
    """
    fetch = db.fetch_retrying if again else db.fetch
    answered: Sequence[Answered] | Sequence[AnsweredAndBound]
    try:
        if codes is not None:
            # Sorted by number, so that statements lock contracts in one order.
            order = sorted(range(len(msisdns)), key=msisdns.__getitem__)
            numbers = [msisdns[i] for i in order]
            owners = [owner for owner, count in zip(runs.messenger_ids, runs.query_counts, strict=True) for _ in range(count)]
            of_queries = ([codes[i] for i in order], [owners[i] for i in order])
            answered = await fetch(ANSWER_AND_BIND, numbers, order, *runs, digests, digest_key_id, *of_queries)
        else:
            answered = await fetch(ANSWER, msisdns, *runs, digests, digest_key_id)
    except CONFLICTS as error:
        if again:
            raise
        raise Conflict from error
    if not answered:  # the registry is not complete, or no policy is in force: there is no rule to answer by
        raise NotComplete
    return answered[0]


async def confirm_complete(db: Database) -> bool:
    """Whether the registry is complete: before that it answers nothing. Raises: Unavailable."""
    return (await db.fetch(CONFIRM_COMPLETE))[0].complete


async def try_journal(db: Database, digest_key_id: int) -> None:
    """Writes a page and undoes it. Raises: whatever a group of queries would fail of."""
    async with db.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await fetch(connection, TRY_JOURNAL, digest_key_id)
        finally:
            await transaction.rollback()
