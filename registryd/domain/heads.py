"""The signed end of the evidence's chains, to keep elsewhere: whoever holds one can tell whether what lay before it is still there.

Signed by ed25519 (RFC 8032) under a key derived (HKDF, RFC 5869) from the service's secrets-key: others can check the signature with the
public key alone, and nobody who has only the database can make one.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from datetime import datetime
from typing import NamedTuple

import msgspec
import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class BadHead(Exception):
    """This is no head that was signed under this service's secrets-key: `registryd audit head` prints one."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class Link(NamedTuple):
    """The last entry of a chain."""

    sequence: int
    at: datetime
    sha256: bytes


class _Chain(msgspec.Struct, forbid_unknown_fields=True):
    sequence: int
    at: datetime
    sha256: str


class _Heads(msgspec.Struct, forbid_unknown_fields=True):
    chains: dict[str, _Chain]
    publicKey: str  # noqa: N815 # as it is written
    signature: str


def signed(chains: dict[str, Link], secrets_key: bytes) -> str:
    """The chains' ends as one line of JSON with its signature."""
    key = _key(secrets_key)
    told = {name: {"sequence": link.sequence, "at": link.at, "sha256": link.sha256.hex()} for name, link in chains.items()}
    public = b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    signature = b64encode(key.sign(_canonical(chains))).decode()
    return orjson.dumps({"chains": told, "publicKey": public, "signature": signature}).decode()


def opened(text: str, secrets_key: bytes) -> dict[str, Link]:
    """What `signed` made, after a look at its signature. Raises: BadHead."""
    try:
        heads = msgspec.json.decode(text, type=_Heads)
        chains = {name: Link(chain.sequence, chain.at, bytes.fromhex(chain.sha256)) for name, chain in heads.chains.items()}
        _key(secrets_key).public_key().verify(b64decode(heads.signature), _canonical(chains))
    except (InvalidSignature, msgspec.MsgspecError, ValueError):
        raise BadHead from None
    return chains


def _canonical(chains: dict[str, Link]) -> bytes:
    """What is signed: a line for each chain, by name."""
    lines = (f"{name} {link.sequence} {link.at.isoformat()} {link.sha256.hex()}\n" for name, link in sorted(chains.items()))
    return b"registryd audit head\n" + "".join(lines).encode()


def _key(secrets_key: bytes) -> Ed25519PrivateKey:
    derived = HKDF(SHA256(), 32, None, b"registryd audit head").derive(secrets_key)
    return Ed25519PrivateKey.from_private_bytes(derived)
