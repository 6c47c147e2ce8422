"""Alarms: messengers whose queries looked like a search for subscribers."""

from __future__ import annotations

from typing import Literal

from registryd.store import guard
from registryd.store.pool import Database
from registryd.views.shape import Shape, Time, looking

SHOWN_MAX = 200


class Alarm(Shape, frozen=True):
    messenger: str
    kind: Literal["absent", "consecutive", "canary"]
    in_force: bool
    raised_at: Time
    ends_at: Time
    cleared_at: Time | None
    signs: int
    used_that_day: int
    absent_that_day: int
    absent_ratio_that_day: float | None


class Alarms(Shape, frozen=True):
    seen_at: Time
    in_force: int
    queries_per_minute: int
    """What a process still answers a messenger that is slowed down, by the policy."""
    alarms: list[Alarm]
    """Those in force first, then the newest; 200 at most."""


async def read(db: Database) -> Alarms:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        rows, counted = await guard.read_alarms(moment, SHOWN_MAX), await guard.count_alarms(moment)
    return Alarms(
        seen_at=seen_at,
        in_force=counted.alarms,
        queries_per_minute=counted.queries_per_minute,
        alarms=[of(row) for row in rows],
    )


def of(row: guard.AlarmRow) -> Alarm:
    return Alarm(**row._asdict())
