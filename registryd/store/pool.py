"""Connections to the primary: one bounded pool with deadlines, which turns every transient failure into `Unavailable`.

A statement whose outcome is unknown is never repeated here.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.exceptions import TargetServerAttributeNotMatched
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from registryd import observe
from registryd.config import Settings
from registryd.domain.errors import Unavailable
from registryd.store import session
from registryd.store.failures import BROKEN, CLIENT_ERRORS, CONFLICTS, MISTAKES, TRANSIENT, kind
from registryd.store.primary import PrimaryFinder, PrimaryStuck
from registryd.store.queries import Query, Row
from registryd.store.session import Connection, PlainConnection

ACQUIRE_TIMEOUT_S = 2.0
CANCEL_TIMEOUT_S = 1.0
"""How long we wait for a cancel to take effect before we drop the connection."""

__all__ = ["Connection", "PlainConnection"]


class Database:
    """A pool of connections. Use: `async with Database(...)`. Every method raises `Unavailable` while the database is away."""

    def __init__(
        self,
        dsn: str,
        *,
        size: int,
        connect_timeout_s: float,
        command_timeout_s: float,
        password: str | None = None,
        name: str = "registryd",
    ) -> None:
        self._dsn = dsn
        self._password = password
        self._size = size
        self._connect_timeout_s = connect_timeout_s
        self._command_timeout_s = command_timeout_s
        self._name = name
        self._label = name.rpartition(" ")[2]
        self._waits = observe.database_wait.labels(self._label)
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._finder = PrimaryFinder(dsn, password, name, self._leave, connect_timeout_s)
        self._startup = {"application_name": name, "timezone": "UTC"}
        """Of the startup packet's settings PgBouncer takes only a few, these among them."""
        self._is_own_session = False
        self.is_broken = False
        """Whether a statement has failed because the database could not write. Who finds that it can again sets it to False."""
        self._opening: set[asyncio.Timeout] = set()
        self._opened: weakref.WeakSet[asyncpg.Connection[asyncpg.Record]] = weakref.WeakSet()

    async def __aenter__(self) -> Database:
        await self._finder.__aenter__()
        self._pool = await asyncpg.create_pool(
            self._dsn,
            password=self._password,
            min_size=0,
            max_size=self._size,
            timeout=self._connect_timeout_s,
            command_timeout=self._command_timeout_s,
            max_inactive_connection_lifetime=300,
            target_session_attrs=SessionAttribute.read_write,
            connect=self._open,
            init=self._begin,
            reset=_keep_session,
            server_settings=self._startup,
        )
        size, idle = self._pool.get_size, self._pool.get_idle_size
        observe.database_connections.labels(self._label, "busy").set_function(lambda: size() - idle())
        observe.database_connections.labels(self._label, "idle").set_function(idle)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._finder.__aexit__()
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()

    async def _open(self, dsn: str | None = None, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        """Opens a connection for the pool: to the primary, or to the first host that takes writes while no primary is known."""
        if self._finder.stuck:
            raise ConnectionError from PrimaryStuck(self._finder.stuck)
        primary = self._finder.primary
        async with asyncio.timeout(None) as patience:
            self._opening.add(patience)
            try:
                connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(primary.dsn if primary else dsn, **options)
            except asyncpg.InternalServerError as error:
                # So a server ends a new session where its full disk does not take the session's list of catalogues.
                raise (asyncpg.DiskFullError if "init file" in str(error) else ConnectionError)(str(error)) from error
            finally:
                self._opening.discard(patience)
        self._opened.add(connection)
        return connection

    async def _begin(self, connection: Connection) -> None:
        """Prepares a new connection. The first one also finds out whether a pooler lies between, and how it pools."""
        await session.begin(connection)
        if not self._is_own_session:
            if not await session.is_direct(connection):
                opening = (
                    self._open(self._dsn, password=self._password, server_settings=self._startup, statement_cache_size=0) for _ in range(2)
                )
                one, other = await asyncio.gather(*opening)
                try:
                    await session.refuse_transaction_pooling(one, other)
                finally:
                    one.terminate()
                    other.terminate()
            self._is_own_session = True

    def _leave(self) -> None:
        """Cuts the connections to a primary that is stuck or was left: each of them could hang for as long as a statement may take.

        Cut, not cancelled: a commit that waits for a standby and is cancelled is shown to everybody, though the standby does not have it.
        """
        opening, self._opening = self._opening, set()
        for patience in opening:
            patience.reschedule(0)
        for connection in list(self._opened):
            # Not terminate(): under a statement that is being prepared it ends in an AttributeError.
            connection._transport.abort()  # type: ignore[attr-defined] # asyncpg offers no public way to its socket

    @property
    def hindrance(self) -> str:
        """What is known of why the primary cannot be used; empty where nothing is."""
        return self._finder.stuck or self._finder.left_behind

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A pooled connection.

        Raises: Unavailable.
        """
        assert self._pool is not None, "the database is entered before it is used"
        if self._finder.stuck:
            raise Unavailable from PrimaryStuck(self._finder.stuck)
        try:
            began = time.monotonic()
            try:
                connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S + self._connect_timeout_s)
            except TargetServerAttributeNotMatched:  # one of CLIENT_ERRORS, but it says what is wrong: no host takes writes
                raise
            except CLIENT_ERRORS as error:  # lost while it was being opened
                raise ConnectionError from error
            self._waits.observe(time.monotonic() - began)
            try:
                yield connection
                self._finder.heard_at = time.monotonic()
            except CLIENT_ERRORS as error:
                if _is_gone(connection):
                    raise ConnectionError from error
                raise
            finally:
                await self._pool.release(connection, timeout=CANCEL_TIMEOUT_S)
        except MISTAKES:  # some of TRANSIENT's kind
            raise
        except TRANSIENT as error:
            observe.database_errors.labels(kind(error)).inc()
            self.is_broken |= isinstance(error, BROKEN)
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):  # demoted: no connection to it is of use
                await self._pool.expire_connections()
            raise Unavailable from error

    @asynccontextmanager
    async def listening(self, channel: str, hear: Callable[[str], None]) -> AsyncIterator[asyncio.Event]:
        """Calls `hear` with the payload of each NOTIFY on a channel; the event says that the connection was lost. Raises: Unavailable."""
        lost = asyncio.Event()
        async with self.connection() as connection:
            connection.add_termination_listener(lambda _: lost.set())

            def heard(*arguments: Any) -> None:
                hear(arguments[-1])

            await connection.add_listener(channel, heard)
            try:
                yield lost
            finally:
                await connection.remove_listener(channel, heard)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction, which commits at the end. Nothing inside may wait for any other network than PostgreSQL's.

        Raises: Unavailable, also where a deadlock or a conflict has undone the whole transaction.
        """
        try:
            async with self.connection() as connection, connection.transaction():
                yield connection
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
            raise Unavailable from None

    async def fetch(self, query: Query[Row], *args: Any) -> list[Row]:
        """Runs one statement and commits it."""
        async with self.connection() as connection:
            return await fetch(connection, query, *args)

    async def fetch_retrying(self, query: Query[Row], *args: Any) -> list[Row]:
        """Runs and commits one statement. After a conflict with another transaction it is tried again for some milliseconds.

        Raises: Unavailable; asyncpg.RestrictViolationError, where a rule refuses it each time: that is no conflict, but a fault of ours.
        """
        try:
            return await self.fetch(query, *args)
        except CONFLICTS:
            pass
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(CONFLICTS),
                stop=stop_after_attempt(5),
                wait=wait_random_exponential(multiplier=0.005, max=0.1),
                reraise=True,
            ):
                with attempt:
                    return await self.fetch(query, *args)
        except asyncpg.RestrictViolationError:
            raise
        except CONFLICTS:
            raise Unavailable from None
        raise AssertionError("unreachable: tenacity returns or raises")


def of(settings: Settings, name: str, size: int) -> Database:
    """A pool as the configuration describes it, not yet entered; `name` is what pg_stat_activity shows."""
    section = settings.file.database
    return Database(
        section.dsn,
        size=size,
        connect_timeout_s=section.connect_timeout_s,
        command_timeout_s=section.command_timeout_s,
        password=settings.credentials.text("database-password"),
        name=name,
    )


async def fetch(connection: Connection, query: Query[Row], *args: Any) -> list[Row]:
    """Runs one statement on the caller's connection."""
    row = query.row
    return [row(*record.values()) for record in await connection.fetch(query.sql, *args)]


async def first(connection: Connection, query: Query[Row], *args: Any) -> Row | None:
    rows = await fetch(connection, query, *args)
    return rows[0] if rows else None


def _is_gone(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # it closed, and the pool has taken it back
        return True


async def _keep_session(_: Connection) -> None:
    """Replaces asyncpg's reset, which costs a round trip at each release: nothing here changes a session's state."""
