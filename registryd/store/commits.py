"""Whether a transaction was committed whose answer was lost, so that what it wrote is neither lost nor written twice."""

from __future__ import annotations

from typing import NamedTuple

from registryd.domain.errors import Unavailable
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Query


class Taken(NamedTuple):
    taken: str


class Status(NamedTuple):
    status: str | None


TAKE_TRANSACTION_ID = Query("schema", "take_transaction_id", Taken)
READ_TRANSACTION_STATUS = Query("schema", "read_transaction_status", Status, str)


async def transaction_id(connection: Connection) -> str:
    """The id of the transaction that is open, by which its outcome can be asked for later."""
    return (await fetch(connection, TAKE_TRANSACTION_ID))[0].taken


async def was_committed(db: Database, transaction_id: str) -> bool:
    """Raises: Unavailable, also while that is not decided: a commit whose answer was lost may still be under way."""
    status = (await db.fetch(READ_TRANSACTION_STATUS, transaction_id))[0].status
    if status == "in progress":
        raise Unavailable
    return status == "committed"
