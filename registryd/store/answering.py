"""What the answer processes do: figures by minute, and today's queries and refusals by messenger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from registryd.store.pool import Database
from registryd.store.queries import Nothing, Query
from registryd.store.reading import Reader


class Figures(NamedTuple):
    """`latencies`: how many single queries fell into each bucket of observe.SECONDS, and above the last one."""

    queries: int
    absent: int
    requests: int
    refused: int
    failed: int
    latencies: list[int]


class MinuteRow(NamedTuple):
    minute: datetime
    queries: int
    absent: int
    requests: int
    refused: int
    failed: int
    latencies: list[int]


class PresenceToday(NamedTuple):
    messenger: str
    quota: int | None
    queries: int
    absent: int


class RefusedToday(NamedTuple):
    messenger: str
    reason: str
    refusals: int


class LateToday(NamedTuple):
    late: int


class Answer(NamedTuple):
    """One answered query, and the page that it is on."""

    messenger: str
    answered_at: datetime
    present: bool | None
    """None: it was not answered, because its contract was being changed, but asked again."""
    bound: bool
    waited_s: float
    is_sealed: bool
    queries: int
    """On the page."""
    messengers: list[str]
    """On the page."""


ADD_MINUTE = Query("answering", "add_minute", Nothing, float, int, int, int, int, int, list[int])
READ_MINUTES = Query("answering", "read_minutes", MinuteRow, int)
READ_PRESENCE_TODAY = Query("answering", "read_presence_today", PresenceToday)
READ_REFUSED_TODAY = Query("answering", "read_refused_today", RefusedToday)
FIND_ANSWER = Query("answering", "find_answer", Answer, UUID)
COUNT_LATE_TODAY = Query("answering", "count_late_today", LateToday)


async def add_minute(db: Database, seconds_ago: float, figures: Figures) -> None:
    """Adds what a process did so long ago."""
    await db.fetch(ADD_MINUTE, seconds_ago, *figures)


async def read_minutes(db: Reader, minutes: int) -> Sequence[MinuteRow]:
    """The last whole minutes, the oldest first; one without figures has zeros."""
    return await db.fetch(READ_MINUTES, minutes)


async def presence_today(db: Reader) -> list[PresenceToday]:
    """Every messenger's queries of today (UTC), up to a second ago."""
    return await db.fetch(READ_PRESENCE_TODAY)


async def refused_today(db: Reader) -> list[RefusedToday]:
    return await db.fetch(READ_REFUSED_TODAY)


async def late_today(db: Reader) -> int:
    """How many queries of today's sealed pages were answered too late."""
    return (await db.fetch(COUNT_LATE_TODAY))[0].late


async def find(db: Reader, query_id: UUID) -> Answer | None:
    rows = await db.fetch(FIND_ANSWER, query_id)
    return rows[0] if rows else None
