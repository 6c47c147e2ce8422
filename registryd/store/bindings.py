"""Lists, finds and removes a messenger's bindings, by the codes that it assigned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class Removal(NamedTuple):
    binding: BindingRow | None
    """As it is now; None where the code never was bound."""
    has_ended: bool
    """Whether this removal has ended it."""


class Removed(NamedTuple):
    found: Mapping[str, BindingRow]
    """By code: each binding as it is now. A code that never was bound is not in it."""
    ended: int
    """How many of them this removal has ended."""


FIND_BINDING = Query("bindings", "find_binding", BindingRow, int, str)
REMOVE_BINDING = Query("bindings", "remove_binding", BindingRow, int, str)
LIST_BINDINGS = Query("bindings", "list_bindings", BindingRow, int, str, int)
REMOVE_BINDINGS = Query("bindings", "remove_bindings", BindingRow, int, list[str])
FIND_BINDINGS = Query("bindings", "find_bindings", BindingRow, int, list[str])


async def find(db: Database, messenger_id: MessengerId, code: IdentificationCode) -> BindingRow | None:
    """The live binding of the code; else the one that ended last; else None."""
    rows = await db.fetch(FIND_BINDING, messenger_id, code)
    return rows[0] if rows else None


async def remove(db: Database, messenger_id: MessengerId, code: IdentificationCode) -> Removal:
    """Ends the live binding of the code. Returns what `find` then finds, so that removing twice answers the same."""
    rows = await db.fetch(REMOVE_BINDING, messenger_id, code)
    return Removal(rows[0] if rows else await find(db, messenger_id, code), bool(rows))


async def read_live(db: Database, messenger_id: MessengerId, after: str, limit: int) -> list[BindingRow]:
    """Up to `limit` live bindings in the order of their codes, from behind a code; "" stands before all."""
    return await db.fetch(LIST_BINDINGS, messenger_id, after, limit)


async def remove_many(db: Database, messenger_id: MessengerId, codes: Sequence[IdentificationCode]) -> Removed:
    """Removes each, as `remove` does."""
    found = {row.identification_code: row for row in await db.fetch(REMOVE_BINDINGS, messenger_id, sorted(set(codes)))}
    ended, others = len(found), sorted(set(codes) - found.keys())
    for row in await db.fetch(FIND_BINDINGS, messenger_id, others) if others else ():
        # A live one was just being changed by somebody else. Alone, it may wait for that.
        alone = await remove(db, messenger_id, IdentificationCode(row.identification_code)) if row.ended_at is None else Removal(row, False)
        if alone.binding is not None:
            found[row.identification_code] = alone.binding
            ended += alone.has_ended
    return Removed(found, ended)
