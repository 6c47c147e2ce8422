"""Replays: an operator's choice of delivered notifications, which are let in again at the pace that was asked for."""

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
    """How many may be let in now; not positive while enough wait in the lane."""


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
    """How many a replay would deliver again. On a connection without a deadline: there may be millions. Raises: Unavailable."""
    try:
        return (await fetch(connection, COUNT_DELIVERED, *choice))[0].notifications
    except TRANSIENT as error:
        raise Unavailable from error


async def ask(connection: Connection, choice: Choice, per_second: int) -> int:
    """Has them delivered again, `per_second` at most; returns how many. As `count`. Raises: Unavailable."""
    try:
        return (await fetch(connection, ASK_REPLAY, *choice, per_second))[0].notifications
    except TRANSIENT as error:
        raise Unavailable from error


async def let_in(connection: Connection) -> int:
    """Owes again what the pace allows since the last time, unless the messenger's other notifications are behind. Returns how many."""
    added = 0
    for replay in await fetch(connection, READ_REPLAYS):
        if replay.room > 0:
            added += (await fetch(connection, OWE_AGAIN, replay.replay_id, replay.room))[0].notifications
    return added
