"""Finds and removes a messenger's bindings, by the codes that it assigned."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from registryd.domain.identifiers import IdentificationCode, MessengerId
from registryd.store.pool import Database
from registryd.store.queries import Query


class BindingRow(NamedTuple):
    identification_code: str
    generation: int
    bound_at: datetime
    ended_at: datetime | None
    end_reason: str | None


FIND_BINDING = Query("bindings", "find_binding", BindingRow, int, str)
REMOVE_BINDING = Query("bindings", "remove_binding", BindingRow, int, str)


async def find(db: Database, messenger_id: MessengerId, code: IdentificationCode) -> BindingRow | None:
    """The live binding of the code; else the one that ended last; else None."""
    rows = await db.fetch(FIND_BINDING, messenger_id, code)
    return rows[0] if rows else None


async def remove(db: Database, messenger_id: MessengerId, code: IdentificationCode) -> BindingRow | None:
    """Ends the live binding of the code. Returns what `find` then finds, so that removing twice answers the same."""
    rows = await db.fetch(REMOVE_BINDING, messenger_id, code)
    return rows[0] if rows else await find(db, messenger_id, code)
