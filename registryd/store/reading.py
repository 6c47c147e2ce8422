"""What only looks: a read-only transaction with bounds on its time, so that nobody who looks slows down who works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import asyncpg

from registryd.domain.errors import TooLong
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Query, Row

LONGEST_S = 3.0
"""How long one statement of a view may take."""
WHOLE_S = 12.0
"""How long all statements of a view may take together: a page of twenty slow ones would hold one of few connections for a minute. It is
more than [database] command_timeout_s, so that a database that does not answer at all is told as that.
"""

FREELY = "; ".join(
    f"SET LOCAL {name} = {value}"
    for name, value in {
        "plan_cache_mode": "auto",
        "enable_seqscan": "on",
        "enable_bitmapscan": "on",
        "enable_hashjoin": "on",
        "enable_mergejoin": "on",
    }.items()
)
"""The sessions of the pools have plans of index probes alone (session.py), which suit who looks at some rows of large tables. A report sums
whole tables, so it is planned as PostgreSQL sees fit.
"""


class Reader(Protocol):
    """Whatever statements can be run on: a pool, where each is a transaction of its own, a `Reading`, or a `Writing`."""

    async def fetch(self, query: Query[Row], *args: Any) -> list[Row]: ...


class Reading:
    """A read-only transaction: all that it reads is of one moment."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def fetch(self, query: Query[Row], *args: Any) -> list[Row]:
        return await fetch(self.connection, query, *args)

    async def one(self, query: Query[Row], *args: Any) -> Row:
        """The row of a statement that always returns one."""
        (row,) = await fetch(self.connection, query, *args)
        return row


class Writing:
    """A transaction that writes: what is done on it is done together, or not at all."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def fetch(self, query: Query[Row], *args: Any) -> list[Row]:
        return await fetch(self.connection, query, *args)


@asynccontextmanager
async def reading(db: Database, longest_s: float = LONGEST_S, settings: str = "") -> AsyncIterator[Reading]:
    """`settings`: what else holds in it, such as FREELY.

    Raises: Unavailable; TooLong, where a statement takes longer than `longest_s`, or all of them longer than WHOLE_S.
    """
    async with db.connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(f"SET LOCAL statement_timeout = {int(longest_s * 1000)}; {settings}")
        whole = asyncio.timeout(WHOLE_S)
        try:
            async with whole:
                yield Reading(connection)
        except asyncpg.QueryCanceledError as error:
            raise TooLong from error
        except TimeoutError as error:
            if whole.expired():
                raise TooLong from error
            raise
