"""A messenger's API keys as they change: a second key is made beside the one in use, which ends when the overlap does."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import asyncpg

from registryd.domain.errors import NoSuchKey, TooManyKeys, TwoLiveKeys
from registryd.domain.identifiers import MessengerId
from registryd.store import keys, messengers
from registryd.store.keys import NewKey
from registryd.store.messengers import COUNT_NEW_KEYS, READ_OWN_KEYS, REVOKE_OWN_KEY, EndingKey, KeyRow
from registryd.store.pool import Connection, Database, fetch

OVERLAP = timedelta(hours=24)
"""How long the former key still works, where nobody says otherwise."""
A_DAY_MAX = 10
"""How many keys a messenger may make itself within 24 hours."""
RETRY_S = 3_600


class Rotated(NamedTuple):
    key: NewKey
    former: list[EndingKey]


async def rotate(connection: Connection, messenger_id: MessengerId, overlap: timedelta) -> Rotated:
    """Makes a key, and lets the former one end after the overlap. Raises: TwoLiveKeys; the transaction is then of no use."""
    if len(await messengers.read_live_keys(connection, messenger_id)) > 1:
        raise TwoLiveKeys
    former = await messengers.expire_keys(connection, messenger_id, overlap)
    return Rotated(await add(connection, messenger_id), former)


async def add(connection: Connection, messenger_id: MessengerId) -> NewKey:
    """Raises: TwoLiveKeys."""
    key = keys.new_key()
    try:
        await messengers.add_key(connection, messenger_id, key.key_id, key.secret_sha256)
    except asyncpg.RestrictViolationError:  # another one came at the same moment
        raise TwoLiveKeys from None
    return key


async def rotate_own(db: Database, messenger_id: MessengerId) -> Rotated:
    """As a messenger does it itself. Raises: TwoLiveKeys, TooManyKeys, Unavailable."""
    async with db.transaction() as connection:
        if (await fetch(connection, COUNT_NEW_KEYS, messenger_id))[0].made >= A_DAY_MAX:
            raise TooManyKeys(RETRY_S)
        return await rotate(connection, messenger_id, OVERLAP)


async def read_own(db: Database, messenger_id: MessengerId) -> list[KeyRow]:
    """The keys that work or ended in the last month, the newest first."""
    return await db.fetch(READ_OWN_KEYS, messenger_id)


async def revoke_own(db: Database, messenger_id: MessengerId, key_id: str) -> KeyRow:
    """Idempotent. Raises: NoSuchKey, where it is nobody's or another messenger's."""
    rows = await db.fetch(REVOKE_OWN_KEY, messenger_id, key_id)
    if not rows:
        raise NoSuchKey
    return rows[0]
