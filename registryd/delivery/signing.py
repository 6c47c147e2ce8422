"""Standard Webhooks signatures (specification 1.0.0): `v1` HMAC-SHA256 and `v1a` ed25519 over `<id>.<timestamp>.<body>`.

A secret is shown as `whsec_<base64>`; an ed25519 pair as `whsk_<base64>` (ours) and `whpk_<base64>` (told to the messenger).
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import b64decode, b64encode
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from registryd.domain.secret import SigningSecret, whsec

SECRET_BYTES = 32
_TIMESTAMP = re.compile(r"[0-9]{1,19}")

Key = SigningSecret | Ed25519PublicKey
"""A key that a messenger verifies with."""


def new_secret(kind: str = "hmac_sha256") -> SigningSecret:
    """32 random bytes: an HMAC secret, or an ed25519 seed."""
    return SigningSecret(kind, secrets.token_bytes(SECRET_BYTES))


def shown(secret: SigningSecret) -> str:
    """The secret or public key in the form that the messenger's engineers get."""
    if secret.kind == "ed25519":
        public = Ed25519PrivateKey.from_private_bytes(secret.secret).public_key()
        return "whpk_" + b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    return whsec(secret.secret)


def from_shown(text: str) -> SigningSecret:
    """`whsec_…`, with or without its prefix and its padding, back to a secret. Raises: ValueError."""
    return SigningSecret("hmac_sha256", _bytes_in(text.removeprefix("whsec_")))


def key_from_shown(text: str) -> Key:
    """`whsec_…` or `whpk_…`. Raises: ValueError."""
    if text.startswith("whpk_"):
        return Ed25519PublicKey.from_public_bytes(_bytes_in(text.removeprefix("whpk_")))
    return from_shown(text)


def secret_from_shown(text: str) -> SigningSecret:
    """`whsec_…`, or `whsk_…` of an ed25519 pair, back to what signs. Raises: ValueError."""
    if not text.startswith("whsk_"):
        return from_shown(text)
    seed = _bytes_in(text.removeprefix("whsk_"))
    Ed25519PrivateKey.from_private_bytes(seed)
    return SigningSecret("ed25519", seed)


def _bytes_in(text: str) -> bytes:
    """Raises: ValueError."""
    return b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)


def seconds_in(timestamp: str) -> int | None:
    """The Unix seconds of a `webhook-timestamp` header; None where it holds none."""
    return int(timestamp) if _TIMESTAMP.fullmatch(timestamp) else None


def is_signed(key: Key, message_id: str, timestamp: str, signatures: str, body: bytes) -> bool:
    """Whether one of the signatures in a `webhook-signature` header is the key's, whatever the message's age."""
    seconds = seconds_in(timestamp)
    if seconds is None or not (message_id.isascii() and signatures.isascii()):  # ours are shorter
        return False
    if isinstance(key, SigningSecret):
        expected = signature([key], message_id, seconds, body)
        return any(hmac.compare_digest(expected, given) for given in signatures.split(" "))
    signed = _signed(message_id, seconds, body)
    return any(_is_by(key, given, signed) for given in signatures.split(" ") if given.startswith("v1a,"))


def _is_by(key: Ed25519PublicKey, given: str, signed: bytes) -> bool:
    try:
        key.verify(b64decode(given.removeprefix("v1a,")), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed(message_id: str, timestamp: int, body: bytes) -> bytes:
    return b"%b.%d.%b" % (message_id.encode(), timestamp, body)


class Signer:
    """Signs with every live secret; made once for many messages, because an ed25519 key costs more to load than to sign with.

    Raises: ValueError, where a secret is none of its kind.
    """

    def __init__(self, live: Sequence[SigningSecret]) -> None:
        self._macs = [_hmac(secret.secret) for secret in live if secret.kind != "ed25519"]
        self._keys = [Ed25519PrivateKey.from_private_bytes(secret.secret) for secret in live if secret.kind == "ed25519"]

    def __bool__(self) -> bool:
        return bool(self._macs or self._keys)

    def signature(self, message_id: str, timestamp: int, body: bytes) -> str:
        """The `webhook-signature` header: one signature for each live secret. `timestamp`: Unix seconds of this attempt."""
        signed = _signed(message_id, timestamp, body)
        made = ["v1," + b2a_base64(mac(signed), newline=False).decode() for mac in self._macs]
        made += ["v1a," + b2a_base64(key.sign(signed), newline=False).decode() for key in self._keys]
        return " ".join(made)


def _hmac(secret: bytes) -> Callable[[bytes], bytes]:
    """HMAC-SHA256 (RFC 2104). The key's two blocks are hashed once, which takes a third of the time of `hmac.digest`."""
    key = (sha256(secret).digest() if len(secret) > 64 else secret).ljust(64, b"\0")
    inner, outer = sha256(bytes(byte ^ 0x36 for byte in key)), sha256(bytes(byte ^ 0x5C for byte in key))

    def digest(message: bytes) -> bytes:
        within, around = inner.copy(), outer.copy()
        within.update(message)
        around.update(within.digest())
        return around.digest()

    return digest


def signature(live: Sequence[SigningSecret], message_id: str, timestamp: int, body: bytes) -> str:
    """One message's `webhook-signature`."""
    return Signer(live).signature(message_id, timestamp, body)
