"""The processes of the service, as each tells of itself, and the database that they work on."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from registryd.store.pool import Database
from registryd.store.queries import Nothing, Query
from registryd.store.reading import Reader


class Beat(NamedTuple):
    """What a process tells of itself. `schema`: the newest migration that it knows."""

    host: str
    role: str
    instance: int
    pid: int
    version: str
    schema: int


class ProcessRow(NamedTuple):
    role: str
    instance: int
    host: str
    pid: int
    version: str
    schema: int
    since: datetime
    heard_at: datetime
    silent_s: float
    lanes: int
    connections: int


class RoleRow(NamedTuple):
    role: str
    up: int
    silent: int
    """Processes that have told nothing for SILENT_S, and did not stop in order."""


class DatabaseRow(NamedTuple):
    server_version: str
    started_at: datetime
    system_identifier: str
    timeline: int
    schema: int
    size_bytes: int
    connections: int
    connections_max: int
    standbys: int


BEAT_S = 10.0
SILENT_S = 30.0
"""A process of which nobody has heard for so long is not up."""

TELL = Query("processes", "tell", Nothing, str, str, int, int, str, int)
LEAVE = Query("processes", "leave", Nothing, str, str, int, int)
READ_PROCESSES = Query("processes", "read_processes", ProcessRow)
COUNT_ROLES = Query("processes", "count_roles", RoleRow, float)
READ_DATABASE = Query("processes", "read_database", DatabaseRow)


async def tell(db: Database, beat: Beat) -> None:
    await db.fetch(TELL, *beat)


async def leave(db: Database, beat: Beat) -> None:
    """The process stops in order: it is not to be missed."""
    await db.fetch(LEAVE, beat.host, beat.role, beat.instance, beat.pid)


async def read_all(db: Reader) -> list[ProcessRow]:
    return await db.fetch(READ_PROCESSES)


async def count_roles(db: Reader) -> list[RoleRow]:
    """All three roles."""
    return await db.fetch(COUNT_ROLES, SILENT_S)


async def read_database(db: Reader) -> DatabaseRow:
    return (await db.fetch(READ_DATABASE))[0]
