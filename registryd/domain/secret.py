"""What signs a messenger's notifications."""

from __future__ import annotations

from base64 import b64encode
from typing import NamedTuple


class SigningSecret(NamedTuple):
    kind: str
    """`hmac_sha256` or `ed25519`."""
    secret: bytes


def whsec(secret: bytes) -> str:
    """An HMAC secret in the form that a messenger's engineers get."""
    return "whsec_" + b64encode(secret).decode()
