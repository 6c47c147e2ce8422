"""A connection of its own for work that may take longer than the pools allow a statement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registryd.config import Settings
from registryd.domain.errors import Unavailable
from registryd.store.failures import MISTAKES, TRANSIENT
from registryd.store.pool import PlainConnection, connect


@asynccontextmanager
async def bulk(settings: Settings) -> AsyncIterator[PlainConnection]:
    """Raises: Unavailable, also where the connection is lost."""
    connection = await connect(settings.file.database.dsn, password=settings.credentials.text("database-password"))
    try:
        yield connection
    except MISTAKES:  # some of TRANSIENT's kind
        raise
    except TRANSIENT as error:
        raise Unavailable from error
    finally:
        await connection.close()
