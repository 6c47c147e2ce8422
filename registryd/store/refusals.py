"""Refusals by day, messenger and reason: evidence of what was asked and not answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registryd.domain.identifiers import MessengerId
from registryd.store import migrations
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Nothing, Query


class Committed(NamedTuple):
    committed: bool


class Refused(NamedTuple):
    messenger_id: MessengerId
    reason: str
    seconds_ago: float
    refusals: int


ADD_REFUSALS = Query("refusals", "add_refusals", Nothing, list[int], list[str], list[float], list[int])
WAS_COMMITTED = Query("refusals", "was_committed", Committed, str)


async def transaction_id(connection: Connection) -> str:
    """The id of the transaction that is open, by which its outcome can be asked for later."""
    return (await fetch(connection, migrations.TAKE_TRANSACTION_ID))[0].taken


async def add(connection: Connection, refused: Sequence[Refused]) -> None:
    await fetch(connection, ADD_REFUSALS, *zip(*refused, strict=True))


async def was_committed(db: Database, transaction_id: str) -> bool:
    """Whether a transaction was committed whose answer was lost. Raises: Unavailable."""
    return (await db.fetch(WAS_COMMITTED, transaction_id))[0].committed
