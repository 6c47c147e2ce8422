"""Seals the journal, a window (a minute of pages) at a time, for all processes together: sql/code/seals.sql says how."""

from __future__ import annotations

from registryd import observe
from registryd.store import seals
from registryd.store.jobs import exclusively
from registryd.store.pool import Database


async def seal_windows(db: Database) -> None:
    """Seals every window that is over, each in a transaction of its own. Raises: Unavailable."""
    while await _seal_window(db):
        pass
    observe.unsealed_seconds.set(await seals.unsealed_s(db))


async def _seal_window(db: Database) -> bool:
    async with exclusively(db, "seals") as connection:
        sealed = await seals.seal_window(connection) if connection else None
    if sealed:
        observe.pages_sealed.inc(sealed.pages)
    return sealed is not None
