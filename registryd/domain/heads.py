"""Heads: the signed ends of the evidence's chains, to be kept elsewhere. With a head one can tell whether what lay before it is still
there.

A head is signed by ed25519 (RFC 8032) with the credential head-key. Checking it takes the public key alone, as it was noted at the first
head, not as this head names it: a forger would name his own.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from datetime import datetime
from typing import NamedTuple

import msgspec
import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class BadHead(Exception):
    """This is no head that belongs to this public key: `registryd audit head` prints one."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class Origin(NamedTuple):
    """Where an entry was written: a database cluster, and its timeline, of which each promotion begins a new one."""

    system_identifier: int
    timeline: int


class Link(NamedTuple):
    """The last entry of a chain, and where the chain was then."""

    sequence: int
    at: datetime
    sha256: bytes
    origin: Origin


class _Chain(msgspec.Struct, forbid_unknown_fields=True):
    sequence: int
    at: datetime
    sha256: str
    system: str
    timeline: int


class _Heads(msgspec.Struct, forbid_unknown_fields=True):
    chains: dict[str, _Chain]
    publicKey: str  # noqa: N815 # as it is written
    signature: str


def signed(chains: dict[str, Link], head_key: bytes) -> str:
    """The chains' ends as one line of JSON with the signature. `head_key`: the private key's seed, 32 bytes."""
    key = Ed25519PrivateKey.from_private_bytes(head_key)
    told = {
        name: {
            "sequence": link.sequence,
            "at": link.at,
            "sha256": link.sha256.hex(),
            "system": str(link.origin.system_identifier),
            "timeline": link.origin.timeline,
        }
        for name, link in chains.items()
    }
    signature = b64encode(key.sign(_canonical(chains))).decode()
    return orjson.dumps({"chains": told, "publicKey": public_key(head_key), "signature": signature}).decode()


def public_key(head_key: bytes) -> str:
    """The public key of `head_key`, in base64. It is not secret, and checking a head takes nothing else."""
    public = Ed25519PrivateKey.from_private_bytes(head_key).public_key()
    return b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def opened(text: str, public: str) -> dict[str, Link]:
    """The chains' ends of a head that the owner of `public` (as `public_key` writes it) signed. Raises: BadHead."""
    try:
        heads = msgspec.json.decode(text, type=_Heads)
        chains = {
            name: Link(chain.sequence, chain.at, bytes.fromhex(chain.sha256), Origin(int(chain.system), chain.timeline))
            for name, chain in heads.chains.items()
        }
        Ed25519PublicKey.from_public_bytes(b64decode(public)).verify(b64decode(heads.signature), _canonical(chains))
    except (InvalidSignature, msgspec.MsgspecError, ValueError):
        raise BadHead from None
    return chains


def _canonical(chains: dict[str, Link]) -> bytes:
    """The text that is signed: a line for each chain, by name."""
    lines = (
        f"{name} {link.sequence} {link.at.isoformat()} {link.sha256.hex()} {link.origin.system_identifier} {link.origin.timeline}\n"
        for name, link in sorted(chains.items())
    )
    return b"registryd audit head\n" + "".join(lines).encode()
