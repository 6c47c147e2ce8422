"""Keys of the operator API, kept as messengers' are. A key has a name, which two live keys may share, and scopes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from registryd.store.keys import NewKey
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Nothing, Query

SCOPES = ("feed", "read", "act")
"""Contract events; the console's views; its actions."""


class Operator(NamedTuple):
    """A key: who calls the operator API."""

    key_id: str
    name: str
    scopes: list[str]
    secret_sha256: bytes
    expires_at: datetime | None
    ended: str | None
    """revoked_key or expired_key; None for a key that works."""


class OperatorKeyRow(NamedTuple):
    key_id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class OperatorKeyId(NamedTuple):
    key_id: str


class Locked(NamedTuple):
    locked: bool


READ_OPERATORS = Query("operators", "read_operators", Operator)
READ_OPERATOR_KEYS = Query("operators", "read_operator_keys", OperatorKeyRow)
LOCK_OPERATOR = Query("operators", "lock_operator", Locked, str)
READ_LIVE_OPERATOR_KEYS = Query("operators", "read_live_operator_keys", OperatorKeyRow, str)
TOUCH_OPERATOR_KEYS = Query("operators", "touch_operator_keys", Nothing, list[str])
ADD_OPERATOR_KEY = Query("operators", "add_operator_key", Nothing, str, str, list[str], bytes)
EXPIRE_OPERATOR_KEYS = Query("operators", "expire_operator_keys", Nothing, str, timedelta)
REVOKE_OPERATOR_KEY = Query("operators", "revoke_operator_key", OperatorKeyId, str, str)


async def read_known(connection: Connection) -> list[Operator]:
    """Every key that works, and those that ended of late."""
    return await fetch(connection, READ_OPERATORS)


async def read_keys(connection: Connection) -> list[OperatorKeyRow]:
    """All of them, those of one name together and the oldest first."""
    return await fetch(connection, READ_OPERATOR_KEYS)


async def lock_live_keys(connection: Connection, name: str) -> list[OperatorKeyRow]:
    """The live keys of a name, the oldest first. Nobody else makes one under it until the transaction ends."""
    await fetch(connection, LOCK_OPERATOR, name)
    return await fetch(connection, READ_LIVE_OPERATOR_KEYS, name)


async def touch_keys(db: Database, key_ids: Sequence[str]) -> None:
    await db.fetch(TOUCH_OPERATOR_KEYS, key_ids)


async def add_key(connection: Connection, name: str, scopes: Sequence[str], key: NewKey) -> None:
    await fetch(connection, ADD_OPERATOR_KEY, key.key_id, name, list(scopes), key.secret_sha256)


async def expire_keys(connection: Connection, name: str, after: timedelta) -> None:
    """Lets every live key of the name end after the overlap."""
    await fetch(connection, EXPIRE_OPERATOR_KEYS, name, after)


async def revoke_key(connection: Connection, name: str, key_id: str) -> bool:
    return bool(await fetch(connection, REVOKE_OPERATOR_KEY, name, key_id))
