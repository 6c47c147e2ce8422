"""The statements of erasure, one batch each. Which rows may go is decided by functions of the database."""

from __future__ import annotations

from typing import NamedTuple

from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query


class Purged(NamedTuple):
    bindings: int
    contracts: int


class Forgotten(NamedTuple):
    replayed_notifications: int
    events: int
    records: int


class Count(NamedTuple):
    forgotten: int


FORGET_REPLAYS = Query("erasure", "forget_replays", Count, int)
FORGET_EVENTS = Query("erasure", "forget_events", Count, int)
FORGET_RECORDS = Query("erasure", "forget_records", Count, int)
PURGE_ENDED = Query("erasure", "purge_ended", Purged, int)


async def purge_ended(connection: Connection, rows: int) -> Purged:
    """One batch of at most `rows` bindings and as many contracts."""
    purged = await fetch(connection, PURGE_ENDED, rows)
    return purged[0] if purged else Purged(0, 0)


async def forget(connection: Connection, query: Query[Count], rows: int) -> int:
    return (await fetch(connection, query, rows))[0].forgotten
