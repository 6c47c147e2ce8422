"""Break-glass, the daemon's part: it adds to each request the digests by which the journal is searched for the number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registryd.domain.identifiers import Msisdn, msisdn_digest
from registryd.store.digest_keys import DigestKey
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query


class Asked(NamedTuple):
    request: int
    msisdn: Msisdn


class Step(NamedTuple):
    sequence: int


FIND_REQUESTS_TO_PREPARE = Query("breakglass_requests", "find_requests_to_prepare", Asked)
PREPARE_REQUEST = Query("breakglass_requests", "prepare_request", Step, int, list[int], bytes)


async def find(connection: Connection) -> list[Asked]:
    """The requests that have no digests yet."""
    return await fetch(connection, FIND_REQUESTS_TO_PREPARE)


async def prepare(connection: Connection, asked: Asked, keys: Sequence[DigestKey]) -> None:
    """Adds the number's digest under each of `keys`."""
    digests = b"".join(msisdn_digest(key.key, asked.msisdn) for key in keys)
    await fetch(connection, PREPARE_REQUEST, asked.request, [key.key_id for key in keys], digests)
