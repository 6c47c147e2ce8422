"""What signs a messenger's notifications."""

from __future__ import annotations

from typing import NamedTuple


class SigningSecret(NamedTuple):
    kind: str
    """`hmac_sha256` or `ed25519`."""
    secret: bytes
