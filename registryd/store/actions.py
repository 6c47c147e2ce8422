"""The log of what persons did in the console, written in the transaction of what it tells of."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Nothing, Query
from registryd.store.sessions import Person

NEWEST = 2**63 - 1


class ActionId(NamedTuple):
    action_id: int


class Action(NamedTuple):
    """What is to be written of an action."""

    kind: str
    messenger_id: MessengerId | None
    what: str
    counted: int
    reason: str
    outcome: str | None
    """None: it is not known yet; `finish` writes it."""


class ActionRow(NamedTuple):
    action_id: int
    at: datetime
    person: str
    key_id: str
    kind: str
    messenger: str | None
    what: str
    counted: int
    reason: str
    outcome: str | None


RECORD_ACTION = Query("actions", "record_action", ActionId, UUID, str, str, str, int, str, int, str, str)
READ_ACTIONS = Query("actions", "read_actions", ActionRow, int, int)
FINISH_ACTION = Query("actions", "finish_action", Nothing, int, str)
FIND_ACTION = Query("actions", "find_action", ActionId, UUID)


async def record(connection: Connection, confirmation: UUID, person: Person, action: Action) -> int | None:
    """Writes an action's line; returns its number. None: this confirmation was carried out before, so the caller must do nothing."""
    rows = await fetch(connection, RECORD_ACTION, confirmation, person.name, person.key_id, *action)
    return rows[0].action_id if rows else None


async def finish(db: Database, action_id: int, outcome: str) -> None:
    await db.fetch(FINISH_ACTION, action_id, outcome)


async def find(db: Database, confirmation: UUID) -> int | None:
    """The number of the action that this confirmation led to."""
    rows = await db.fetch(FIND_ACTION, confirmation)
    return rows[0].action_id if rows else None


async def read(db: Database, count: int, before: int = NEWEST) -> list[ActionRow]:
    """The newest actions below a number."""
    return await db.fetch(READ_ACTIONS, before, count)
