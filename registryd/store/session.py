"""What every session of ours is told as soon as it is connected: settings, the network's deadlines, and how a time is read.

Settings are SET after connecting, because PgBouncer refuses a connection whose startup packet names others than it knows. They are set
for what the law needs too, such as the isolation, so that a default of the database or of the role does not change it.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import asyncpg

from registryd.domain.errors import Unavailable
from registryd.store import bigints

PlainConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
"""A connection that belongs to no pool."""
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

TCP_USER_TIMEOUT_MS = 10_000
TRIES = 3
"""How often we look whether two sessions share a server. One look may miss it, because others use the pooler too."""

PROBES = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""Settings that make the planner use nested loops over index probes for our short statements, and plan each once. Without them it would
remember a plan that it made while a table was small.
"""
SETTINGS = {
    **PROBES,
    "jit": "off",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "15s",
    # The program bounds its statements itself. These would be the database's defaults or the role's.
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "temp_tablespaces": "",
}
"""What the sessions of the pools have. A server that does not know one of them goes without it."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_FIRST_US, _LAST_US = (_FIRST - _EPOCH) // _MICROSECOND, (_LAST - _EPOCH) // _MICROSECOND


class TransactionPooling(Unavailable):
    """The pooler before the database pools transactions; registryd needs sessions: set pool_mode = session for this database."""


_UNTUNED = (
    "SELECT set_config(name, boot_val, false) FROM pg_settings "
    "WHERE category LIKE 'Query Tuning%' AND source IN ('database', 'user', 'database user')"
)
"""Sets the planner's settings to PostgreSQL's own where a default of the database or of the role changes them. The server's file holds."""
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')"
"""An answer that was given must outlive the server."""
_LAWFUL = "SELECT set_config('session_replication_role', 'origin', false) WHERE current_setting('session_replication_role') = 'replica'"
"""As `replica` it switches triggers off, and with them the law. Who may not set it is refused here, and works under no such default."""
DEFAULTS_UNDONE = "; ".join((_UNTUNED, _DURABLE, _LAWFUL))
"""Takes back what a default of the database or of the role would change of plans, of durability and of the law."""
_SET_ALL = "; ".join(
    (
        *(
            f"SELECT set_config('{name}', '{value}', false) WHERE current_setting('{name}', true) IS NOT NULL"
            for name, value in SETTINGS.items()
        ),
        DEFAULTS_UNDONE,
    )
)
"""The settings come first: one of them lifts a default's limit on how long a statement may take."""


async def begin(connection: Connection) -> None:
    """Prepares a session of a pool."""
    bound_network(connection)
    await read_every_time(connection)
    bigints.write_many_at_once(connection)
    await connection.execute(_SET_ALL)


def bound_network(connection: Connection) -> None:
    """Lets the kernel close the connection when the network is dead, even under a listener. asyncpg's own timeouts do not work there."""
    transport = connection._transport  # type: ignore[union-attr] # asyncpg offers no public way to its socket
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)


async def read_every_time(connection: Connection) -> None:
    """Reads a time that Python cannot hold as the nearest that it can: `infinity`, and any year after 9999.

    asyncpg would read `infinity` as a time without a zone, which cannot be compared, and would fail on the year 10000: one such row would
    stop every other that is read with it.
    """
    await connection.set_type_codec("timestamptz", schema="pg_catalog", format="tuple", encoder=_to_wire, decoder=_from_wire)


def _to_wire(at: datetime) -> tuple[int]:
    return ((at - _EPOCH) // _MICROSECOND,)


def _from_wire(wire: tuple[int]) -> datetime:
    return _EPOCH + timedelta(microseconds=min(max(wire[0], _FIRST_US), _LAST_US))


async def is_direct(connection: Connection) -> bool:
    """Whether nothing pools connections between us and the server. A pooler tells its clients a process id of its own."""
    async with connection.transaction():
        return bool(await connection.fetchval("SELECT pg_backend_pid()") == connection.get_server_pid())


async def refuse_transaction_pooling(one: PlainConnection, other: PlainConnection) -> None:
    """Both are sessions that are open at the same time. Raises: TransactionPooling, where they share a server.

    A pooler that pools transactions hands the server that `one` has just used to `other`. Settings, locks and LISTEN of either would then
    be anybody's.
    """
    for _ in range(TRIES):
        served = []
        for connection in (one, other):
            async with connection.transaction():
                served.append(await connection.fetchval("SELECT pg_backend_pid()"))
        if served[0] == served[1]:
            raise TransactionPooling(reason="pooling")
