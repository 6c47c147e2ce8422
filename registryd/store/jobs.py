"""The lock of a job: every operate process runs every job on its timer, and this lock lets one of them at a time do it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Query


class Tried(NamedTuple):
    is_ours: bool


TRY_JOB = Query("jobs", "try_job", Tried, str)


@asynccontextmanager
async def exclusively(db: Database, name: str) -> AsyncIterator[Connection | None]:
    """A transaction that holds the lock of job `name` until it ends; None where another process holds it: skip, and come back later.

    A job of several transactions takes the lock in each, so that none keeps a connection, a lock or PostgreSQL's horizon for long.
    Raises: Unavailable.
    """
    async with db.transaction() as connection:
        is_ours = (await fetch(connection, TRY_JOB, name))[0].is_ours
        yield connection if is_ours else None
