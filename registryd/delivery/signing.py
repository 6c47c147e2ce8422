"""Standard Webhooks signatures (specification 1.0.0): `v1` HMAC-SHA256 and `v1a` ed25519 over `<id>.<timestamp>.<body>`.

A secret is shown as `whsec_<base64>`; an ed25519 pair as `whsk_<base64>` (ours) and `whpk_<base64>` (told to the messenger).
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from registryd.store.messengers import SigningSecret

SECRET_BYTES = 32


def new_secret(kind: str = "hmac_sha256") -> SigningSecret:
    """32 random bytes: an HMAC secret, or an ed25519 seed."""
    return SigningSecret(kind, secrets.token_bytes(SECRET_BYTES))


def shown(secret: SigningSecret) -> str:
    """What the messenger's engineers are given to verify with."""
    if secret.kind == "ed25519":
        public = Ed25519PrivateKey.from_private_bytes(secret.secret).public_key()
        return "whpk_" + b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    return "whsec_" + b64encode(secret.secret).decode()


def from_shown(text: str) -> SigningSecret:
    """`whsec_…`, with or without its prefix, back to a secret. Raises: ValueError."""
    return SigningSecret("hmac_sha256", b64decode(text.removeprefix("whsec_"), validate=True))


def signature(live: Sequence[SigningSecret], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature for each live secret. `timestamp`: Unix seconds of this attempt."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(_sign(secret, signed) for secret in live)


def _sign(secret: SigningSecret, signed: bytes) -> str:
    if secret.kind == "ed25519":
        return "v1a," + b64encode(Ed25519PrivateKey.from_private_bytes(secret.secret).sign(signed)).decode()
    return "v1," + b64encode(hmac.digest(secret.secret, signed, sha256)).decode()
