"""What all processes share of the enumeration guard: usage by messenger and day, alarms, and the measures in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

from registryd.domain.enumeration import Sign
from registryd.domain.identifiers import MessengerId
from registryd.store.commits import transaction_id
from registryd.store.pool import Database, fetch, first
from registryd.store.queries import Nothing, Query
from registryd.store.reading import Reader


class UsageRow(NamedTuple):
    messenger_id: MessengerId
    used: int
    absent: int


class Raised(NamedTuple):
    """A sign that was recorded. It raised an alarm (`is_new`) or prolonged one."""

    name: str
    kind: str
    is_new: bool


class ThrottledRow(NamedTuple):
    messenger_id: MessengerId
    remaining: timedelta


class Measures(NamedTuple):
    """The guard's part of the policy in force, and the canary numbers."""

    honest_absent_ratio: float
    scan_absent_ratio: float
    honest_density: float
    honest_queries_per_alarm: int
    alarm_lasts: timedelta
    alarm_queries_per_minute: int
    canaries: list[int]


class Alarm(NamedTuple):
    kind: str
    raised_at: datetime
    ends_at: datetime
    signs: int


class AlarmRow(NamedTuple):
    """An alarm of any messenger, in force or over, as report.enumeration_alarm has it."""

    messenger: str
    kind: str
    in_force: bool
    raised_at: datetime
    ends_at: datetime
    cleared_at: datetime | None
    signs: int
    used_that_day: int
    absent_that_day: int
    absent_ratio_that_day: float | None


class InForce(NamedTuple):
    alarms: int
    queries_per_minute: int
    """What each process still answers a messenger that is slowed down."""


class AlarmKind(NamedTuple):
    kind: str


class Shared(NamedTuple):
    """What the processes know together."""

    usage: list[UsageRow]
    raised: list[Raised]
    throttled: list[ThrottledRow]
    measures: Measures


ADD_USAGE = Query("guard", "add_usage", Nothing, list[int], list[date], list[int], list[int])
READ_USAGE = Query("guard", "read_usage", UsageRow, date)
RAISE_ALARMS = Query("guard", "raise_alarms", Raised, list[int], list[str])
READ_THROTTLED = Query("guard", "read_throttled", ThrottledRow)
READ_MEASURES = Query("guard", "read_measures", Measures)
FIND_ALARMS = Query("guard", "find_alarms", Alarm, int)
READ_ALARMS = Query("guard", "read_alarms", AlarmRow, int)
COUNT_ALARMS = Query("guard", "count_alarms", InForce)
CLEAR_ALARMS = Query("guard", "clear_alarms", AlarmKind, int)


async def exchange(
    db: Database,
    day: date,
    usage: Sequence[tuple[MessengerId, date, int, int]],
    signs: Sequence[tuple[MessengerId, Sign]],
    commits: Callable[[str], None],
) -> Shared:
    """Adds this process's usage (messenger, day, used, absent) and signs. Returns the day's usage and the alarms of all processes.

    `commits` is told the transaction that adds usage before it is committed: where this does not return, whether it was is not known.
    Raises: Unavailable.
    """
    async with db.transaction() as connection:
        if usage:
            await fetch(connection, ADD_USAGE, *zip(*usage, strict=True))
        raised = await fetch(connection, RAISE_ALARMS, *zip(*signs, strict=True)) if signs else []
        measures = await first(connection, READ_MEASURES)
        if measures is None:
            raise AssertionError("no policy is in force: registry.policy has no row that has begun")
        shared = Shared(await fetch(connection, READ_USAGE, day), raised, await fetch(connection, READ_THROTTLED), measures)
        if usage:
            commits(await transaction_id(connection))
    return shared


async def read_alarms(db: Reader, limit: int) -> list[AlarmRow]:
    """Those in force first, then the newest."""
    return await db.fetch(READ_ALARMS, limit)


async def count_alarms(db: Reader) -> InForce:
    return (await db.fetch(COUNT_ALARMS))[0]


async def find_alarms(db: Reader, messenger_id: MessengerId) -> list[Alarm]:
    """The messenger's alarms in force, the oldest first."""
    return await db.fetch(FIND_ALARMS, messenger_id)


async def clear_alarms(db: Reader, messenger_id: MessengerId) -> int:
    """Ends a messenger's alarms; returns how many were in force."""
    return len(await db.fetch(CLEAR_ALARMS, messenger_id))
