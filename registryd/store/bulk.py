"""A connection of its own for a command's work, or for what may take longer than the pools allow a statement.

A DBA's limits on sessions do not bound it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from registryd.addresses import split_hosts
from registryd.config import Settings
from registryd.domain.errors import Unavailable
from registryd.store import session
from registryd.store.failures import MISTAKES, TRANSIENT
from registryd.store.primary import PrimaryFinder
from registryd.store.session import PlainConnection

UNBOUNDED = (
    "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; "
    "SET default_transaction_isolation = 'read committed'; "
    "SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL; "
    f"{session.DEFAULTS_UNDONE}"
)
"""What a role or a database may have as defaults, and what would end bulk work halfway. PostgreSQL 17 has `transaction_timeout`.

They are SET, and not asked for at the start, because PgBouncer refuses a connection that asks for others than it knows.
"""


async def connect(dsn: str, *, password: str | None = None, timeout_s: float = 5.0) -> PlainConnection:
    """One connection to the primary. Raises: Unavailable."""
    name = f"registryd {os.getpid()}"
    try:
        connection: PlainConnection = await asyncpg.connect(
            await _dsn_of_primary(dsn, password, name, timeout_s),
            password=password,
            timeout=timeout_s,
            target_session_attrs=SessionAttribute.read_write,
            server_settings={"application_name": name, "timezone": "UTC"},
        )
        try:
            session.bound_network(connection)
            await session.read_every_time(connection)
            await connection.execute(UNBOUNDED)
        except BaseException:
            await connection.close()
            raise
    except TRANSIENT as error:
        raise Unavailable from error
    return connection


async def _dsn_of_primary(dsn: str, password: str | None, name: str, timeout_s: float) -> str:
    """Of several hosts the primary's DSN: a former primary takes writes too until somebody stops it, and asyncpg takes the first that does.

    The whole DSN where no primary is found.
    """
    if len(split_hosts(dsn)) == 1:
        return dsn
    async with PrimaryFinder(dsn, password, name, lambda: None, timeout_s) as finder:
        return finder.primary.dsn if finder.primary is not None else dsn


@asynccontextmanager
async def bulk(settings: Settings) -> AsyncIterator[PlainConnection]:
    """A connection of the daemon's role. Raises: Unavailable, also where the connection is lost."""
    connection = await connect(settings.file.database.dsn, password=settings.credentials.text("database-password"))
    try:
        yield connection
    except MISTAKES:  # some of TRANSIENT's kind
        raise
    except TRANSIENT as error:
        raise Unavailable from error
    finally:
        await connection.close()
