"""The journal's digest keys: random, one a month, sealed under the credential journal-key, destroyed when their month's journal is over.

They are derived from nothing. So once the ciphertext of a month's key is erased, nobody can tie a digest of that month to a number any
more, not even with every credential.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from os import urandom
from typing import NamedTuple

from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Nothing, Query
from registryd.store.secretbox import SecretBox, WrongSecretsKey

KEY_BYTES = 32


class DigestKey(NamedTuple):
    key_id: int
    key: bytes


class SealedKey(NamedTuple):
    key_id: int
    month: date
    ciphertext: bytes


class Today(NamedTuple):
    today: date


class DestroyedKey(NamedTuple):
    month: date


READ_TODAY = Query("digest_keys", "read_today", Today)
READ_KEYS = Query("digest_keys", "read_sealed_keys", SealedKey)
ADD_KEY = Query("digest_keys", "add_sealed_key", Nothing, int, date, bytes)
DESTROY_KEYS = Query("digest_keys", "destroy_over_keys", DestroyedKey)


async def read_current(db: Database, box: SecretBox) -> DigestKey:
    """The key of this month by the database's clock. Raises: WrongSecretsKey, Unavailable."""
    return await read_of(db, box, (await db.fetch(READ_TODAY))[0].today)


async def read_of(db: Database, box: SecretBox, day: date) -> DigestKey:
    """The key of a day's month; makes it and the next month's where they are missing. Raises: WrongSecretsKey, Unavailable."""
    this = day.replace(day=1)
    following = date(this.year + this.month // 12, this.month % 12 + 1, 1)
    months = {row.month: row for row in await db.fetch(READ_KEYS)}
    for month in (this, following):
        if month not in months:
            await db.fetch(ADD_KEY, key_id_of(month), month, box.seal(_owner(month), urandom(KEY_BYTES)))
    if this not in months:  # another process's, where two made it at once
        months = {row.month: row for row in await db.fetch(READ_KEYS)}
    return opened(box, [months[this]])[0]


def opened(box: SecretBox, sealed: Iterable[SealedKey]) -> list[DigestKey]:
    """Raises: WrongSecretsKey."""
    return [DigestKey(row.key_id, box.open(_owner(row.month), row.ciphertext)) for row in sealed]


async def read_all(connection: Connection, box: SecretBox) -> list[DigestKey]:
    """Every key that is not destroyed. Raises: WrongSecretsKey."""
    return opened(box, await fetch(connection, READ_KEYS))


async def unreadable_months(connection: Connection, box: SecretBox) -> list[date]:
    """The months whose key `box` does not open."""
    closed = []
    for row in await fetch(connection, READ_KEYS):
        try:
            opened(box, [row])
        except WrongSecretsKey:
            closed.append(row.month)
    return closed


def key_id_of(month: date) -> int:
    """Months since January 2000, so that a page's key tells its month."""
    return (month.year - 2000) * 12 + month.month


def _owner(month: date) -> str:
    """The text to which the ciphertext is bound."""
    return f"digest key {month:%Y-%m}"
