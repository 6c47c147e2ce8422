"""Messengers, their API keys and their signing secrets.

Signing secrets are sealed (store/secretbox.py) before they are written and opened after they are read; of API keys only SHA-256 is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from registryd.domain.errors import Refusal
from registryd.domain.identifiers import MessengerId
from registryd.domain.names import nearest
from registryd.domain.secret import SigningSecret
from registryd.store.pool import Connection, Database, fetch, first
from registryd.store.queries import Nothing, Query
from registryd.store.reading import Reader
from registryd.store.secretbox import SecretBox, WrongSecretsKey


class Messenger(NamedTuple):
    messenger_id: MessengerId
    name: str
    state: str
    endpoint_url: str | None
    batch_max: int
    includes_phone_number: bool
    daily_quota: int | None
    certificate_sha256: list[bytes]


class MessengerKey(NamedTuple):
    key_id: str
    messenger_id: MessengerId
    secret_sha256: bytes
    expires_at: datetime | None
    ended: str | None
    """revoked_key or expired_key; None for a key that works."""


class KeyRow(NamedTuple):
    key_id: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class AnyKeyRow(NamedTuple):
    messenger: str
    key_id: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class AnySecretRow(NamedTuple):
    messenger: str
    kind: str
    created_at: datetime
    expires_at: datetime | None


class Described(NamedTuple):
    name: str
    state: str
    agreement: str | None
    register_no: str | None
    created_at: datetime
    suspended_at: datetime | None
    includes_phone_number: bool
    batch_max: int


class KeyUse(NamedTuple):
    """When a messenger's last key ends, None: never, or it has none; and when one was last used."""

    messenger: str
    keys_expire_at: datetime | None
    last_used_at: datetime | None


class AnswerPolicy(NamedTuple):
    answer_within: timedelta
    notice_within: timedelta


class MessengerIdRow(NamedTuple):
    messenger_id: MessengerId


class SealedSecret(NamedTuple):
    secret_id: int
    messenger_id: MessengerId
    name: str
    ciphertext: bytes
    to_public: bool


class KeyId(NamedTuple):
    key_id: str


class EndingKey(NamedTuple):
    key_id: str
    expires_at: datetime


class KeyCount(NamedTuple):
    made: int


class SecretRow(NamedTuple):
    kind: str
    ciphertext: bytes
    to_public: bool


READ_DIRECTORY = Query("messengers", "read_directory", Messenger)
READ_KNOWN_KEYS = Query("messengers", "read_known_keys", MessengerKey)
READ_KEY_USES = Query("messengers", "read_key_uses", KeyUse)
READ_KEYS = Query("messengers", "read_keys", KeyRow, int)
READ_ALL_KEYS = Query("messengers", "read_all_keys", AnyKeyRow)
READ_ALL_SECRETS = Query("messengers", "read_all_secrets", AnySecretRow)
DESCRIBE_MESSENGER = Query("messengers", "describe_messenger", Described, str)
READ_ANSWER_POLICY = Query("messengers", "read_answer_policy", AnswerPolicy)
TOUCH_KEYS = Query("messengers", "touch_keys", Nothing, list[str])
ADD_MESSENGER = Query("messengers", "add_messenger", MessengerIdRow, str, str, str, str, int, bool, int, list[bytes])
LOCK_MESSENGER = Query("messengers", "lock_messenger", MessengerIdRow, str)
SET_MESSENGER = Query("messengers", "set_messenger", MessengerIdRow, int, str, int, bool, int, list[bytes], str)
SET_QUOTA = Query("messengers", "set_quota", MessengerIdRow, int, int, int)
ADD_KEY = Query("messengers", "add_key", Nothing, str, int, bytes)
EXPIRE_KEYS = Query("messengers", "expire_keys", EndingKey, int, timedelta)
REVOKE_KEY = Query("messengers", "revoke_key", KeyId, str)
READ_LIVE_KEYS = Query("messengers", "read_live_keys", KeyRow, int)
READ_OWN_KEYS = Query("messengers", "read_own_keys", KeyRow, int)
COUNT_NEW_KEYS = Query("messengers", "count_new_keys", KeyCount, int)
REVOKE_OWN_KEY = Query("messengers", "revoke_own_key", KeyRow, int, str)
ADD_SECRET = Query("messengers", "add_secret", Nothing, int, str, bytes)
EXPIRE_SECRETS = Query("messengers", "expire_secrets", Nothing, int, str, timedelta)
READ_SEALED_SECRETS = Query("messengers", "read_sealed_secrets", SealedSecret)
RESEAL_SECRET = Query("messengers", "reseal_secret", Nothing, int, bytes)
READ_LIVE_SECRETS = Query("messengers", "read_live_secrets", SecretRow, int)


class NoMessenger(Refusal):
    """There is no messenger of that name."""


async def read_directory(connection: Connection) -> tuple[list[Messenger], list[MessengerKey], AnswerPolicy]:
    """Everybody who may ask, every key that works or ended of late, and the periods in force."""
    messengers = await fetch(connection, READ_DIRECTORY)
    keys = await fetch(connection, READ_KNOWN_KEYS)
    policy = await first(connection, READ_ANSWER_POLICY)
    if policy is None:
        raise AssertionError("no policy is in force: registry.policy has no row that has begun")
    return messengers, keys, policy


async def touch_keys(db: Database, key_ids: Sequence[str]) -> None:
    await db.fetch(TOUCH_KEYS, key_ids)


async def signing_secrets(db: Database, box: SecretBox, messenger_id: MessengerId) -> list[SigningSecret]:
    """The live secrets, newest first."""
    rows = await db.fetch(READ_LIVE_SECRETS, messenger_id)
    return [SigningSecret(row.kind, _open(box, messenger_id, row)) for row in rows]


async def unreadable_secrets(connection: Connection, box: SecretBox) -> list[str]:
    """The messengers that have a signing secret which `box` does not open."""
    return sorted({row.name for row in await fetch(connection, READ_SEALED_SECRETS) if not _opens(box, row)})


async def refuse_foreign_key(db: Database, box: SecretBox) -> None:
    """Raises: WrongSecretsKey, where there are secrets and `box` opens none: each lane that the process took would be shut for all."""
    async with db.connection() as connection:
        sealed = await fetch(connection, READ_SEALED_SECRETS)
    if sealed and not any(_opens(box, row) for row in sealed):
        raise WrongSecretsKey


async def rewrap_secrets(connection: Connection, box: SecretBox) -> int:
    """Seals under the present key what is sealed under the former one or to a public half; returns how many. Raises: WrongSecretsKey."""
    former = [row for row in await fetch(connection, READ_SEALED_SECRETS) if row.to_public or row.ciphertext[0] != box.key_id]
    for row in former:
        await fetch(connection, RESEAL_SECRET, row.secret_id, box.seal(row.messenger_id, _open(box, row.messenger_id, row)))
    return len(former)


def _open(box: SecretBox, messenger_id: MessengerId, row: SealedSecret | SecretRow) -> bytes:
    """Raises: WrongSecretsKey."""
    return box.open_public(messenger_id, row.ciphertext) if row.to_public else box.open(messenger_id, row.ciphertext)


def _opens(box: SecretBox, row: SealedSecret) -> bool:
    try:
        _open(box, row.messenger_id, row)
    except WrongSecretsKey:
        return False
    return True


async def read_all(connection: Connection) -> list[Messenger]:
    return await fetch(connection, READ_DIRECTORY)


async def find(connection: Connection, name: str) -> Messenger | None:
    return next((m for m in await read_all(connection) if m.name == name), None)


async def named(connection: Connection, name: str) -> Messenger:
    """Raises: NoMessenger."""
    found = await find(connection, name)
    if found is None:
        known = [messenger.name for messenger in await read_all(connection)]
        raise NoMessenger(f"there is no messenger {name}{nearest(name, known)} (registryd messenger list)")
    return found


async def named_for_update(connection: Connection, name: str) -> Messenger:
    """The same, and nobody else changes it before the transaction ends. Raises: NoMessenger."""
    await fetch(connection, LOCK_MESSENGER, name)
    return await named(connection, name)


async def read_all_keys(db: Reader) -> list[AnyKeyRow]:
    """Everybody's, and those that ended in the last 30 days."""
    return await db.fetch(READ_ALL_KEYS)


async def read_all_secrets(db: Reader) -> list[AnySecretRow]:
    """The same for signing secrets."""
    return await db.fetch(READ_ALL_SECRETS)


async def describe(db: Reader, name: str) -> Described | None:
    rows = await db.fetch(DESCRIBE_MESSENGER, name)
    return rows[0] if rows else None


async def read_keys(connection: Connection, messenger_id: MessengerId) -> list[KeyRow]:
    return await fetch(connection, READ_KEYS, messenger_id)


async def read_live_keys(connection: Connection, messenger_id: MessengerId) -> list[KeyRow]:
    return await fetch(connection, READ_LIVE_KEYS, messenger_id)


async def read_key_uses(connection: Connection) -> dict[str, KeyUse]:
    """By the messenger's name."""
    return {use.messenger: use for use in await fetch(connection, READ_KEY_USES)}


async def add(connection: Connection, messenger: Messenger, agreement: str | None, register_no: str | None) -> MessengerId:
    """Adds a messenger; `messenger.messenger_id` is ignored. Raises: asyncpg.UniqueViolationError where the name is taken."""
    rows = await fetch(
        connection,
        ADD_MESSENGER,
        *(messenger.name, agreement, register_no, messenger.endpoint_url, messenger.batch_max, messenger.includes_phone_number),
        *(messenger.daily_quota, messenger.certificate_sha256),
    )
    return rows[0].messenger_id


async def update(connection: Connection, messenger: Messenger) -> None:
    """Writes all settings: read them by `named_for_update` in the same transaction."""
    m = messenger
    settings = m.endpoint_url, m.batch_max, m.includes_phone_number, m.daily_quota, m.certificate_sha256, m.state
    await fetch(connection, SET_MESSENGER, m.messenger_id, *settings)


async def set_quota(connection: Connection, messenger_id: MessengerId, former: int | None, quota: int | None) -> bool:
    """Changes the daily quota (None: none). Returns False where it is not `former` any more."""
    return bool(await fetch(connection, SET_QUOTA, messenger_id, former, quota))


async def add_key(connection: Connection, messenger_id: MessengerId, key_id: str, secret_sha256: bytes) -> None:
    await fetch(connection, ADD_KEY, key_id, messenger_id, secret_sha256)


async def expire_keys(connection: Connection, messenger_id: MessengerId, after: timedelta) -> list[EndingKey]:
    """Lets every live key end after the overlap; returns when each does."""
    return await fetch(connection, EXPIRE_KEYS, messenger_id, after)


async def revoke_key(connection: Connection, key_id: str) -> bool:
    return bool(await fetch(connection, REVOKE_KEY, key_id))


async def add_secret(connection: Connection, box: SecretBox, messenger_id: MessengerId, secret: SigningSecret) -> None:
    await fetch(connection, ADD_SECRET, messenger_id, secret.kind, box.seal(messenger_id, secret.secret))


async def expire_secrets(connection: Connection, messenger_id: MessengerId, kind: str, after: timedelta) -> None:
    await fetch(connection, EXPIRE_SECRETS, messenger_id, kind, after)
