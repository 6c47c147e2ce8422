"""Encryption at rest of what the database must not tell: signing secrets under secrets-key, the journal's digest keys under journal-key.

AES-256-GCM (SP 800-38D). A sealed text is one byte of key id, the nonce, and the ciphertext with its tag; the owner is its associated
data, so that one row's text does not open as another's. The byte tells which texts still wait for `registryd secrets rewrap`.

Each key has a public half (X25519, its private half derived by HKDF). Who has only that can seal and cannot open: so a process without
secrets-key hands on a signing secret that it made. Such a text is an X25519 public key made for it, and the ciphertext with its tag.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from registryd.config import ConfigError, Credentials

NONCE_BYTES = 12
PUBLIC_BYTES = 32
_ONCE = bytes(NONCE_BYTES)
"""The nonce of a key that seals one text."""


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
        self._private = [_private_half(each) for each in (key, previous) if each is not None]
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
        except (LookupError, ValueError, InvalidTag):  # another key's; or it is none: it is too short
            raise WrongSecretsKey from None

    @property
    def public_key(self) -> bytes:
        """The public half of the present key."""
        return self._private[0].public_key().public_bytes_raw()

    def open_public(self, owner: object, sealed: bytes) -> bytes:
        """Opens what was sealed to the public half. Raises: WrongSecretsKey."""
        made_for_it, text = sealed[:PUBLIC_BYTES], sealed[PUBLIC_BYTES:]
        for private in self._private:
            with suppress(InvalidTag, ValueError):
                shared = private.exchange(X25519PublicKey.from_public_bytes(made_for_it))
                return _once(shared, made_for_it, private.public_key()).decrypt(_ONCE, text, str(owner).encode())
        raise WrongSecretsKey


def seal_to(public_key: bytes, owner: object, secret: bytes) -> bytes:
    """Seals to the public half of a box's key. Nobody without the box opens it, whoever sealed it included."""
    private, public = X25519PrivateKey.generate(), X25519PublicKey.from_public_bytes(public_key)
    made_for_it = private.public_key().public_bytes_raw()
    return made_for_it + _once(private.exchange(public), made_for_it, public).encrypt(_ONCE, secret, str(owner).encode())


def signing_box(credentials: Credentials) -> SecretBox:
    """The box of messengers' signing secrets. Raises: ConfigError."""
    has_previous = credentials.path("secrets-key-previous") is not None
    return SecretBox(credentials.key("secrets-key"), credentials.key("secrets-key-previous") if has_previous else None)


def digest_box(credentials: Credentials) -> SecretBox:
    """The box of the journal's digest keys. Raises: ConfigError."""
    return SecretBox(credentials.key("journal-key"))


def _id_of(key: bytes) -> int:
    return blake2b(key, digest_size=1, person=b"registryd key id").digest()[0]


def _private_half(key: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(HKDF(SHA256(), 32, None, b"registryd sealing key").derive(key))


def _once(shared: bytes, made_for_it: bytes, public: X25519PublicKey) -> AESGCM:
    """The cipher of one text, whose key both halves agree on."""
    return AESGCM(HKDF(SHA256(), 32, None, b"registryd sealed" + made_for_it + public.public_bytes_raw()).derive(shared))
