"""Replays: delivered notifications that the operator wants delivered again, at a pace of his choice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.store.failures import TRANSIENT
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query


class Chosen(NamedTuple):
    notifications: int


class Replay(NamedTuple):
    replay_id: int
    room: int
    """How many may be made owed again now; zero or less while enough of them wait in the lane."""


class Choice(NamedTuple):
    """Deliveries to one messenger: from `since` until before `until`, and of these only `ids` where given."""

    messenger_id: MessengerId
    since: datetime
    until: datetime
    ids: Sequence[UUID] | None


EVER = datetime(1970, 1, 1, tzinfo=UTC)

COUNT_DELIVERED = Query("replays", "count_delivered", Chosen, int, datetime, datetime, list[UUID])
ASK_REPLAY = Query("replays", "ask_replay", Chosen, int, datetime, datetime, list[UUID], int)
READ_REPLAYS = Query("replays", "read_replays", Replay)
OWE_AGAIN = Query("replays", "owe_again", Chosen, int, int)


async def count(connection: Connection, choice: Choice) -> int:
    """How many notifications a replay would deliver again. There may be millions, so use a connection without a deadline. Raises:
    Unavailable.
    """
    try:
        return (await fetch(connection, COUNT_DELIVERED, *choice))[0].notifications
    except TRANSIENT as error:
        raise Unavailable from error


async def ask(connection: Connection, choice: Choice, per_second: int) -> int:
    """Asks for a replay at `per_second` at most. Returns how many notifications it holds. As `count`. Raises: Unavailable."""
    try:
        return (await fetch(connection, ASK_REPLAY, *choice, per_second))[0].notifications
    except TRANSIENT as error:
        raise Unavailable from error


async def let_in(connection: Connection) -> int:
    """Queues the next notifications of each replay, unless its messenger has ordinary ones that are behind. Returns how many."""
    added = 0
    for replay in await fetch(connection, READ_REPLAYS):
        if replay.room > 0:
            added += (await fetch(connection, OWE_AGAIN, replay.replay_id, replay.room))[0].notifications
    return added
