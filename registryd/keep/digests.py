"""Makes the daily digests: one for each messenger and day, once the day is over. A deliver process pushes them (delivery/announcer.py)."""

from __future__ import annotations

from registryd.domain.digest import Digester
from registryd.store import digests
from registryd.store.jobs import exclusively
from registryd.store.pool import Database


async def make(db: Database) -> None:
    """Makes those that are missing, each in a transaction of its own. Raises: Unavailable."""
    for missing in await digests.read_missing(db):
        async with exclusively(db, "digests") as connection:
            if connection is None:
                return
            digester = Digester()
            async for page in digests.read_delivered(connection, missing.messenger_id, missing.day):
                digester.add(page)
            await digests.add(connection, missing, digester.digest)
