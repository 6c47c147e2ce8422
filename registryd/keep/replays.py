"""Lets replays in: every second, as many notifications as the request's pace allows, whichever operate process does it."""

from __future__ import annotations

from registryd.store import replays
from registryd.store.jobs import exclusively
from registryd.store.pool import Database


async def let_in(db: Database) -> int:
    """Owes the next ones again of each messenger's oldest replay; returns how many. Raises: Unavailable."""
    async with exclusively(db, "replays") as connection:
        return await replays.let_in(connection) if connection else 0
