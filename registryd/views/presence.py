"""Presence queries: rates and latencies, and who asked how much of its quota and was refused why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from registryd.store import answering
from registryd.store.answering import PresenceToday, RefusedToday
from registryd.store.pool import Database
from registryd.views import answering as answers
from registryd.views.answering import Answering, Minute
from registryd.views.shape import Shape, Time, looking


class RefusalReason(Shape, frozen=True):
    reason: str
    """quota, throttle, budget, queue, database, suspended, invalid, …"""
    refusals: int
    """Requests; a batch is one."""


class MessengerPresence(Shape, frozen=True):
    """Today (UTC)."""

    messenger: str
    queries: int
    present: int
    absent: int
    absent_ratio: float | None
    quota: int | None
    """Numbers a day; None: no quota."""
    refusals: list[RefusalReason]
    """The most first."""


class Presence(Shape, frozen=True):
    seen_at: Time
    answering: Answering
    present_today: int
    absent_today: int
    refusals: list[RefusalReason]
    """Of today, of all messengers, the most first."""
    messengers: list[MessengerPresence]
    """Who asked most first."""
    trend: list[Minute]
    """The last 60 whole minutes, the oldest first; those without figures are zeros."""


async def read(db: Database) -> Presence:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        today, refused = await answering.presence_today(moment), await answering.refused_today(moment)
        minutes = await answering.read_minutes(moment, answers.TREND_MINUTES)
        now = await answers.now(moment, today, minutes)
    absent = sum(t.absent for t in today)
    return Presence(
        seen_at=seen_at,
        answering=now,
        present_today=now.queries_today - absent,
        absent_today=absent,
        refusals=_reasons(refused),
        messengers=[of(t, [r for r in refused if r.messenger == t.messenger]) for t in today],
        trend=answers.trend(minutes),
    )


def of(today: PresenceToday, refused: Sequence[RefusedToday]) -> MessengerPresence:
    return MessengerPresence(
        messenger=today.messenger,
        queries=today.queries,
        present=today.queries - today.absent,
        absent=today.absent,
        absent_ratio=answers.ratio(today.absent, today.queries),
        quota=today.quota,
        refusals=_reasons(refused),
    )


def _reasons(refused: Iterable[RefusedToday]) -> list[RefusalReason]:
    counted: Counter[str] = Counter()
    for r in refused:
        counted[r.reason] += r.refusals
    return [RefusalReason(reason=reason, refusals=n) for reason, n in counted.most_common()]
