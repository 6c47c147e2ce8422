"""The processes of the service, as each tells of itself, and the database that they work on."""

from __future__ import annotations

from registryd.store import processes
from registryd.store.pool import Database
from registryd.store.processes import SILENT_S
from registryd.views.shape import Shape, Time, looking


class Process(Shape, frozen=True):
    role: str
    instance: int
    host: str
    pid: int
    version: str
    schema: int
    """The newest migration that it knows."""
    since: Time
    heard_at: Time
    is_up: bool
    """It was heard of in the last 30 s. Who stops in order is not listed, and who dies for a day."""
    lanes: int
    """That it works now."""
    connections: int
    """In the database, of this role and number on all hosts."""


class DatabaseFacts(Shape, frozen=True):
    server_version: str
    started_at: Time
    system_identifier: str
    timeline: int
    schema: int
    """The newest migration that was applied."""
    size_bytes: int
    connections: int
    connections_max: int
    standbys: int
    """That stream from it."""


class Processes(Shape, frozen=True):
    seen_at: Time
    processes: list[Process]
    database: DatabaseFacts


async def read(db: Database) -> Processes:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        found, database = await processes.read_all(moment), await processes.read_database(moment)
    return Processes(
        seen_at=seen_at,
        processes=[
            Process(
                role=p.role,
                instance=p.instance,
                host=p.host,
                pid=p.pid,
                version=p.version,
                schema=p.schema,
                since=p.since,
                heard_at=p.heard_at,
                is_up=p.silent_s <= SILENT_S,
                lanes=p.lanes,
                connections=p.connections,
            )
            for p in found
        ],
        database=DatabaseFacts(**database._asdict()),
    )
