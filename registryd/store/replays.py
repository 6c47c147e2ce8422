"""Replays: delivered notifications that an operator or their messenger wants delivered again, at a bounded pace."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from registryd.domain.errors import InvalidArgument, ReplayUnderWay, TooManyReplays, Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.store.failures import TRANSIENT
from registryd.store.pool import Connection, Database, fetch
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


class OwnChoice(NamedTuple):
    """`outcome`: asked, counted, busy, often or many, as registry.ask_own_replay says."""

    outcome: str
    replay_id: int | None
    notifications: int


class OwnReplay(NamedTuple):
    replay_id: int
    own: bool
    since_at: datetime | None
    until_at: datetime | None
    notifications: int
    asked_at: datetime
    finished_at: datetime | None
    waiting: int


OWN_MAX = 100_000
"""How many notifications a replay holds that a messenger asks for itself."""
OWN_PER_SECOND = 50
OWN_A_DAY_MAX = 5
OWN_RETRY_S = 3_600
EVER = datetime(1970, 1, 1, tzinfo=UTC)

COUNT_DELIVERED = Query("replays", "count_delivered", Chosen, int, datetime, datetime, list[UUID])
ASK_REPLAY = Query("replays", "ask_replay", Chosen, int, datetime, datetime, list[UUID], int)
READ_REPLAYS = Query("replays", "read_replays", Replay)
ASK_OWN_REPLAY = Query("replays", "ask_own_replay", OwnChoice, int, datetime, datetime, int, int, int, bool)
READ_OWN_REPLAYS = Query("replays", "read_own_replays", OwnReplay, int)
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


async def ask_own(db: Database, messenger_id: MessengerId, since: datetime, until: datetime, *, dry_run: bool) -> OwnChoice:
    """Asks for a replay of what was delivered in a window, as its messenger does. Nothing to replay is no replay.

    Raises: ReplayUnderWay, TooManyReplays, InvalidArgument, Unavailable.
    """
    window = messenger_id, since, until
    choice = (await db.fetch(ASK_OWN_REPLAY, *window, OWN_PER_SECOND, OWN_MAX, OWN_A_DAY_MAX, dry_run))[0]
    match choice.outcome:
        case "busy":
            raise ReplayUnderWay
        case "often":
            raise TooManyReplays(OWN_RETRY_S)
        case "many":
            raise InvalidArgument(("from", f"more than {OWN_MAX:,} notices were delivered to you then: choose a shorter time"))
    return choice


async def read_own(db: Database, messenger_id: MessengerId) -> list[OwnReplay]:
    """The messenger's last replays, whoever asked for them, the newest first."""
    return await db.fetch(READ_OWN_REPLAYS, messenger_id)


async def let_in(connection: Connection) -> int:
    """Queues the next notifications of each replay, unless its messenger has ordinary ones that are behind. Returns how many."""
    added = 0
    for replay in await fetch(connection, READ_REPLAYS):
        if replay.room > 0:
            added += (await fetch(connection, OWE_AGAIN, replay.replay_id, replay.room))[0].notifications
    return added
