"""Encryption at rest of what the database must not tell: signing secrets under secrets-key, the journal's digest keys under journal-key.

AES-256-GCM (SP 800-38D). A sealed text is one byte of key id, the nonce, and the ciphertext with its tag; the owner is its associated
data, so that one row's text does not open as another's. The byte tells which texts still wait for `registryd secrets rewrap`.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from registryd.config import ConfigError, Credentials

NONCE_BYTES = 12


class WrongSecretsKey(ConfigError):
    """A secret in the database cannot be opened: neither secrets-key (of digest keys: journal-key) nor its predecessor sealed it."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class SecretBox:
    """Seals under `key` and opens what was sealed under it or under `previous`. Each is 32 bytes.

    Raises: ConfigError, where one id stands for both.
    """

    def __init__(self, key: bytes, previous: bytes | None = None) -> None:
        self.key_id = _id_of(key)
        self._known = {self.key_id: AESGCM(key)}
        if previous is not None:
            if _id_of(previous) == self.key_id:
                raise ConfigError(
                    "the key and its predecessor have the same id, as one pair in 256 has: make another key (openssl rand -hex 32)"
                )
            self._known[_id_of(previous)] = AESGCM(previous)

    def seal(self, owner: object, secret: bytes) -> bytes:
        """`owner`: whose it is, as text."""
        nonce = os.urandom(NONCE_BYTES)
        return bytes([self.key_id]) + nonce + self._known[self.key_id].encrypt(nonce, secret, str(owner).encode())

    def open(self, owner: object, sealed: bytes) -> bytes:
        """Raises: WrongSecretsKey."""
        try:
            return self._known[sealed[0]].decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], str(owner).encode())
        except (KeyError, InvalidTag):
            raise WrongSecretsKey from None


def signing_box(credentials: Credentials) -> SecretBox:
    """The box of messengers' signing secrets. Raises: ConfigError."""
    has_previous = credentials.path("secrets-key-previous") is not None
    return SecretBox(credentials.key("secrets-key"), credentials.key("secrets-key-previous") if has_previous else None)


def digest_box(credentials: Credentials) -> SecretBox:
    """The box of the journal's digest keys. Raises: ConfigError."""
    return SecretBox(credentials.key("journal-key"))


def _id_of(key: bytes) -> int:
    return blake2b(key, digest_size=1, person=b"registryd key id").digest()[0]
