"""The brake: notifications that a person holds back, and waves of ends that hold themselves until a person releases them."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Query
from registryd.store.reading import Reader


class HoldId(NamedTuple):
    hold_id: int


class HoldInForce(NamedTuple):
    messenger_id: int | None
    """None: everybody's notifications are held."""
    reason: str
    held_at: datetime
    held_by: str


class HeldBack(NamedTuple):
    """Whether a messenger's notifications are held by hand, and whether it has some in a held wave."""

    by_hand: bool
    in_wave: bool


class HeldWave(NamedTuple):
    wave_id: int
    began_at: datetime
    last_at: datetime
    ended_by: str
    ends: int
    notifications: int
    held: int
    released: int
    withdrawn: int
    alarms: int
    """Which alarms were raised: 0 none, 1 at once, 2 at half of the notice period."""
    oldest_deadline_at: datetime | None
    """None: it holds nothing, because no messenger knew its contracts."""
    half_is_gone: bool


class NotedWave(NamedTuple):
    wave_id: int


class Released(NamedTuple):
    released: int


HOLD_NOTIFICATIONS = Query("holds", "hold_notifications", HoldId, int, str, str)
RELEASE_NOTIFICATIONS = Query("holds", "release_notifications", HoldId, int, str, str)
READ_HOLDS = Query("holds", "read_holds", HoldInForce)
FIND_HOLD = Query("holds", "find_hold", HeldBack, int)
READ_WAVES = Query("holds", "read_waves", HeldWave)
NOTE_WAVE_ALARM = Query("holds", "note_wave_alarm", NotedWave, int, int, int)
RELEASE_WAVE = Query("holds", "release_wave", Released, int, str, int, str)

RELEASED_AT_ONCE = 20_000
"""How many notifications of a wave are released in a transaction."""


async def hold(db: Reader, messenger_id: MessengerId | None, reason: str, who: str | None = None) -> bool:
    """Holds a messenger's notifications (None: everybody's). Returns False where that is held already. `who`: None: our database user."""
    return bool(await db.fetch(HOLD_NOTIFICATIONS, messenger_id, reason, who))


async def release(db: Reader, messenger_id: MessengerId | None, reason: str, who: str | None = None) -> bool:
    """Ends a hold by hand. Returns False where there is none."""
    return bool(await db.fetch(RELEASE_NOTIFICATIONS, messenger_id, reason, who))


async def in_force(db: Reader) -> list[HoldInForce]:
    return await db.fetch(READ_HOLDS)


async def find(db: Database, messenger_id: MessengerId) -> HeldBack:
    return (await db.fetch(FIND_HOLD, messenger_id))[0]


async def waves(db: Reader) -> list[HeldWave]:
    """The waves that still hold notifications, and those that no alarm has told of."""
    return await db.fetch(READ_WAVES)


async def note_alarm(db: Database, wave: HeldWave, alarms: int) -> bool:
    """Keeps that an alarm is being told; False where another process tells it."""
    return bool(await db.fetch(NOTE_WAVE_ALARM, wave.wave_id, wave.alarms, alarms))


async def release_wave(connection: Connection, wave_id: int, reason: str, who: str | None = None) -> int:
    """Releases the next notifications of a wave, the earliest deadlines first. Returns how many; 0 once all are released."""
    return (await fetch(connection, RELEASE_WAVE, wave_id, reason, RELEASED_AT_ONCE, who))[0].released
