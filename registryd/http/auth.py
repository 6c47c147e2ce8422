"""Who asks: API keys and client certificates, checked against a copy of the directory that is at most seconds old.

Invariants: only SHA-256 of a secret is ever compared, in constant time; a revocation is in force within 5 s; the same refusal for an
unknown key, a wrong secret, an expired, a revoked one and a wrong certificate.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import MappingProxyType

from aiohttp.web import BaseRequest

from registryd import observe
from registryd.domain.errors import PermissionDenied, Unauthenticated
from registryd.domain.identifiers import MessengerId
from registryd.http.problems import unauthenticated_operator
from registryd.store import messengers
from registryd.store.messengers import LiveKey, Messenger
from registryd.store.pool import Database

REFRESH_S = 1.0
_BEARER = re.compile(r"Bearer rk_([a-z2-7]{8,32})_([A-Za-z0-9_-]{20,128})", re.ASCII)
_NO_SECRET = bytes(32)


class Directory:
    """Messengers, keys and the periods in force, read whole every second."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._read_at = time.monotonic()
        self._used: set[str] = set()
        self.messengers: Mapping[MessengerId, Messenger] = MappingProxyType({})
        self.keys: Mapping[str, LiveKey] = MappingProxyType({})
        self.answer_within = timedelta(minutes=20)

    async def refresh(self) -> None:
        """Raises: Unavailable; the former copy then stays."""
        observe.directory_age.set(time.monotonic() - self._read_at)
        async with self._db.connection() as connection:
            found, keys, policy = await messengers.read_directory(connection)
        self.messengers = MappingProxyType({m.messenger_id: m for m in found})
        self.keys = MappingProxyType({k.key_id: k for k in keys})
        self.answer_within = policy.answer_within
        self._read_at = time.monotonic()

    async def record_use(self) -> None:
        """Writes which keys were used since the last time. Raises: Unavailable."""
        used, self._used = self._used, set()
        if used:
            await messengers.touch_keys(self._db, sorted(used))

    def authenticate(self, request: BaseRequest) -> Messenger:
        """Raises: Unauthenticated, PermissionDenied."""
        match = _BEARER.fullmatch(_one_header(request, "Authorization"))
        if match is None:
            raise Unauthenticated
        key = self.keys.get(match[1])
        digest = sha256(match[2].encode()).digest()
        if not hmac.compare_digest(digest, key.secret_sha256 if key else _NO_SECRET) or key is None:
            raise Unauthenticated
        if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
            raise Unauthenticated
        messenger = self.messengers.get(key.messenger_id)
        if messenger is None:  # added while the directory was being read
            raise Unauthenticated
        if messenger.certificate_sha256 and _certificate_sha256(request) not in messenger.certificate_sha256:
            raise Unauthenticated
        self._used.add(key.key_id)
        if messenger.state == "suspended":
            raise PermissionDenied
        return messenger


class OperatorToken:
    """The operator API's one bearer token."""

    def __init__(self, token: str) -> None:
        self._digest = sha256(token.encode()).digest()

    def authenticate(self, request: BaseRequest) -> None:
        """Raises: HttpError 401."""
        header = _one_header(request, "Authorization")
        token = header.removeprefix("Bearer ")
        if token == header or not hmac.compare_digest(sha256(token.encode("utf-8", "surrogateescape")).digest(), self._digest):
            raise unauthenticated_operator()


def _one_header(request: BaseRequest, name: str) -> str:
    values = request.headers.getall(name, [])
    return values[0] if len(values) == 1 else ""


def _certificate_sha256(request: BaseRequest) -> bytes | None:
    ssl_object = request.get_extra_info("ssl_object")
    certificate = ssl_object.getpeercert(True) if ssl_object is not None else None
    return sha256(certificate).digest() if certificate else None
