"""Watches billing's feed: shows how long it has been silent and what waits, and raises an alarm for events that wait too long.

Every operate process looks and shows. Which alarms were raised stands in the database, so that each is told once.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import get_args

from registryd import observe
from registryd.domain.contract import Lack
from registryd.store import feed
from registryd.store.jobs import exclusively
from registryd.store.pool import Database


async def watch(db: Database) -> None:
    """Shows the feed's state, and tells what has waited too long. Raises: Unavailable."""
    async with db.connection() as connection:
        status = await feed.read_status(connection)
    observe.feed_last_event.set(_seconds(status.last_event_at))
    observe.feed_last_snapshot.set(_seconds(status.last_snapshot_at))
    oldest = status.oldest_waiting_at
    observe.feed_waiting_age.set(0 if oldest is None else max((status.now - oldest).total_seconds(), 0))
    observe.ends_left.set(status.ends_left)
    waiting = await feed.count_waiting(db)
    for reason in get_args(Lack):
        observe.feed_waiting.labels(reason).set(waiting.get(reason, 0))
    async with exclusively(db, "feed") as connection_of_job:
        for alarm in await feed.note_alarms(connection_of_job) if connection_of_job else ():
            observe.event("feed_waiting", "error" if alarm.grave else "warning", type=alarm.type, reason=alarm.reason, events=alarm.events)


def _seconds(at: datetime | None) -> float:
    """Since 1970; NaN, for which no alert's comparison holds, where it never was."""
    return math.nan if at is None else at.timestamp()
