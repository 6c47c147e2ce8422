"""API keys as they are made: `rk_<keyId>_<secret>` for messengers, `ok_…` for the operator API. Only the secret's SHA-256 is stored."""

from __future__ import annotations

import base64
import secrets
from hashlib import sha256
from typing import NamedTuple


class NewKey(NamedTuple):
    key_id: str
    secret_sha256: bytes
    shown: str
    """The whole key: told once, never stored."""


def new_key(prefix: str = "rk") -> NewKey:
    """A key with 80 random bits of id and 256 of secret."""
    key_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    secret = secrets.token_urlsafe(32)
    return NewKey(key_id, sha256(secret.encode()).digest(), f"{prefix}_{key_id}_{secret}")
