"""Shows how many live contracts lie outside the operator's numbering capacity: numbers that were ported in, or a sign of a wrong feed."""

from __future__ import annotations

from registryd import observe
from registryd.store import ranges
from registryd.store.pool import Database


async def watch(db: Database) -> None:
    """Raises: Unavailable."""
    async with db.connection() as connection:
        observe.outside_capacity.set(await ranges.count_outside(connection))
