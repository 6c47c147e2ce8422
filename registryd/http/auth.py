"""Who asks: API keys and client certificates, checked against a copy of the directory that is at most seconds old.

Invariants: only SHA-256 of a secret is ever compared, in constant time; a key that is revoked, or that ends by the database's clock, is
refused within 5 s, because a copy that is older answers 503; an unknown key, a wrong secret, an expired or revoked key and a wrong
certificate get the same refusal.
"""

from __future__ import annotations

import hmac
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from math import inf
from typing import Generic, Protocol

from aiohttp.web import BaseRequest

from registryd import observe
from registryd.domain.errors import Unauthenticated, Unavailable
from registryd.exposition import Known
from registryd.http.routes import Caller
from registryd.store import messengers, operators
from registryd.store.messengers import Messenger
from registryd.store.operators import Operator
from registryd.store.pool import Connection, Database

REFRESH_S = 1.0
KEY_USE_S = 30.0
"""How often the last use of keys is written."""
STALE_S = 5.0
"""A copy that is older decides nothing: a key that it holds may have been revoked."""
_NO_SECRET = bytes(32)


class AnyKey(Protocol):
    """A row of messenger_key or operator_key."""

    @property
    def key_id(self) -> str: ...
    @property
    def secret_sha256(self) -> bytes: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def ended(self) -> str | None: ...


class Keys(ABC, Generic[Caller]):
    """The keys of one API and whose they are: a copy that is read whole every second. `prefix`: what the API's keys begin with."""

    def __init__(self, db: Database, prefix: str) -> None:
        self._db = db
        self._bearer = re.compile(rf"(?i:Bearer) {prefix}_([a-z2-7]{{8,32}})_([A-Za-z0-9_-]{{20,128}})", re.ASCII)
        self._read_at = -inf
        self._used: set[str] = set()
        self._keys: Mapping[str, tuple[AnyKey, Caller]] = {}
        """By id: the key, and whose it is."""
        observe.directory_age.set_function(lambda: time.monotonic() - self._read_at)

    async def refresh(self) -> None:
        """Reads the copy anew. Raises: Unavailable; the former one then stays until it is too old."""
        began = time.monotonic()
        async with self._db.connection() as connection:
            self._keys = {key.key_id: (key, owner) for key, owner in await self._read(connection)}
        self._read_at = began

    async def look(self) -> str:
        """Why nobody can be admitted now; empty where they can be."""
        if self._is_stale:
            with suppress(Unavailable):
                await self.refresh()
        return "the keys cannot be read" if self._is_stale else ""

    async def record_use(self) -> None:
        """Writes which keys were used since the last time. Raises: Unavailable."""
        used, self._used = self._used, set()
        if used:
            await self._touch(sorted(used))

    def authenticate(self, request: BaseRequest) -> Caller:
        """Raises: Unauthenticated; Unavailable, where the copy is too old to tell."""
        return self._judge(self._bearer.fullmatch(_one_header(request, "Authorization")), request)

    def _judge(self, match: re.Match[str] | None, request: BaseRequest) -> Caller:
        if match is None:
            raise Unauthenticated("no_key")
        if self._is_stale:
            raise Unavailable(reason="keys")
        key, owner = self._keys.get(match[1], (None, None))
        digest = sha256(match[2].encode()).digest()
        is_right = hmac.compare_digest(digest, key.secret_sha256 if key else _NO_SECRET)
        if key is None or owner is None:
            raise Unauthenticated("unknown_key")
        if not is_right:
            raise Unauthenticated("wrong_secret", owner.name, key.key_id)
        if key.ended is not None:
            raise Unauthenticated("expired_key" if key.ended == "expired_key" else "revoked_key", owner.name, key.key_id)
        if not self._is_accepted(owner, request):
            raise Unauthenticated("certificate", owner.name, key.key_id)
        self._used.add(key.key_id)
        return owner

    @property
    def _is_stale(self) -> bool:
        return time.monotonic() - self._read_at > STALE_S

    def key_id(self, request: BaseRequest) -> str | None:
        """The id of the key that the request shows, where it is one of ours: what else stands there is the client's."""
        match = self._bearer.fullmatch(_one_header(request, "Authorization"))
        return match[1] if match is not None and match[1] in self._keys else None

    def shown(self, request: BaseRequest) -> AnyKey:
        """The key that an admitted request shows. Raises: Unauthenticated, where it is gone since."""
        key_id = self.key_id(request)
        if key_id is None:
            raise Unauthenticated("unknown_key")
        return self._keys[key_id][0]

    @abstractmethod
    async def _read(self, connection: Connection) -> Iterable[tuple[AnyKey, Caller]]: ...

    @abstractmethod
    async def _touch(self, key_ids: Sequence[str]) -> None: ...

    def _is_accepted(self, owner: Caller, request: BaseRequest) -> bool:
        return True


class Directory(Keys[Messenger]):
    """The messengers with their keys, and the period that the policy in force leaves for an answer."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, "rk")
        self.answer_within = timedelta(minutes=20)
        self._known = Known("answer")

    async def _read(self, connection: Connection) -> Iterable[tuple[AnyKey, Messenger]]:
        found, keys, policy = await messengers.read_directory(connection)
        self.answer_within = policy.answer_within
        self._known.keep(messenger.name for messenger in found)
        by_id = {messenger.messenger_id: messenger for messenger in found}
        return [(key, by_id[key.messenger_id]) for key in keys if key.messenger_id in by_id]

    async def _touch(self, key_ids: Sequence[str]) -> None:
        await messengers.touch_keys(self._db, key_ids)

    def _is_accepted(self, owner: Messenger, request: BaseRequest) -> bool:
        return not owner.certificate_sha256 or _certificate_sha256(request) in owner.certificate_sha256


class Operators(Keys[Operator]):
    """The keys of the operator API."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, "ok")

    async def _read(self, connection: Connection) -> Iterable[tuple[AnyKey, Operator]]:
        return [(operator, operator) for operator in await operators.read_known(connection)]

    async def _touch(self, key_ids: Sequence[str]) -> None:
        await operators.touch_keys(self._db, key_ids)

    def admit(self, shown: str, request: BaseRequest) -> Operator:
        """Whose key a person typed into the console. Raises: as `authenticate`."""
        return self._judge(self._bearer.fullmatch(f"Bearer {shown}"), request)


def _one_header(request: BaseRequest, name: str) -> str:
    values = request.headers.getall(name, [])
    return values[0] if len(values) == 1 else ""


def _certificate_sha256(request: BaseRequest) -> bytes | None:
    ssl_object = request.get_extra_info("ssl_object")
    certificate = ssl_object.getpeercert(True) if ssl_object is not None else None
    return sha256(certificate).digest() if certificate else None
