"""Whether what was answered outlives the loss of a primary, by how the database replicates."""

from __future__ import annotations

from typing import NamedTuple

from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query


class Replication(NamedTuple):
    synchronous_standbys: str
    """synchronous_standby_names; empty: no commit waits for a standby."""
    standbys: int
    """How many receive its WAL now."""


READ_REPLICATION = Query("schema", "read_replication", Replication)


async def read(connection: Connection) -> Replication:
    return (await fetch(connection, READ_REPLICATION))[0]
