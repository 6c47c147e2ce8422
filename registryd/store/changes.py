"""Change requests: a messenger asks for another endpoint or another signing secret, and a person decides.

A new secret is made by whichever process is asked, which has no secrets-key: it seals the secret to that key's public half, shows it to the
messenger, and forgets it. Deliver processes publish the public half and open what was sealed to it.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import NamedTuple

from registryd.domain.errors import EndpointKept, Refusal, TooManyChanges, Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.domain.secret import whsec
from registryd.store.queries import Nothing, Query
from registryd.store.reading import Reader
from registryd.store.rotation import OVERLAP
from registryd.store.secretbox import SecretBox, seal_to

A_DAY_MAX = 10
"""How many changes a messenger may ask for within 24 hours."""
RETRY_S = 3_600
SECRET_BYTES = 32

REFUSED = {
    "unknown": "there is no such request",
    "confirmed": "it is confirmed already",
    "refused": "it is refused already",
    "superseded": "its messenger has asked for something else since",
    "expired": "its 7 days are over: its messenger may ask again",
    "revoked": "the key that asked is revoked since, and may have been a thief's: its messenger may ask again",
    "stale": "its secret is sealed to a former secrets-key: its messenger may ask again",
}
"""Why a request cannot be decided, by what registry.decide_change returns."""


class PublicKey(NamedTuple):
    public_key: bytes


class Requested(NamedTuple):
    outcome: str
    change_id: int
    requested_at: datetime
    expires_at: datetime


class Decided(NamedTuple):
    outcome: str


class Change(NamedTuple):
    """`state`: waiting, confirmed, refused, superseded or expired. `present_url`: the endpoint in force."""

    change_id: int
    messenger_id: MessengerId
    messenger: str
    kind: str
    state: str
    endpoint_url: str | None
    present_url: str | None
    requested_at: datetime
    requested_by: str
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None


class CannotDecide(Refusal):
    """The request cannot be decided."""


READ_SEALING_KEY = Query("changes", "read_sealing_key", PublicKey)
PUBLISH_SEALING_KEY = Query("changes", "publish_sealing_key", Nothing, bytes)
REQUEST_CHANGE = Query("changes", "request_change", Requested, int, str, str, bytes, bytes, str, int)
DECIDE_CHANGE = Query("changes", "decide_change", Decided, int, str, str, str, timedelta)
READ_CHANGES = Query("changes", "read_changes", Change)
FIND_CHANGE = Query("changes", "find_change", Change, int)
READ_OWN_CHANGES = Query("changes", "read_own_changes", Change, int)


async def publish(db: Reader, box: SecretBox) -> None:
    """Writes the public half of secrets-key where it differs. Raises: Unavailable."""
    await db.fetch(PUBLISH_SEALING_KEY, box.public_key)


async def request_endpoint(db: Reader, messenger_id: MessengerId, key_id: str, url: str) -> Requested:
    """The same endpoint, asked for again, is the same request. Raises: EndpointKept, TooManyChanges, Unavailable."""
    return await _request(db, messenger_id, "endpoint", url, None, None, key_id)


async def request_secret(db: Reader, messenger_id: MessengerId, key_id: str) -> tuple[Requested, str]:
    """The request, and the new secret as its messenger gets it, this once. Raises: TooManyChanges, Unavailable."""
    published = await db.fetch(READ_SEALING_KEY)
    if not published:
        raise Unavailable(reason="delivery")  # no deliver process has ever run
    public_key, secret = published[0].public_key, secrets.token_bytes(SECRET_BYTES)
    sealed = seal_to(public_key, messenger_id, secret)
    return await _request(db, messenger_id, "webhook_secret", None, sealed, public_key, key_id), whsec(secret)


async def _request(db: Reader, messenger_id: MessengerId, *wanted: str | bytes | None) -> Requested:
    requested = (await db.fetch(REQUEST_CHANGE, messenger_id, *wanted, A_DAY_MAX))[0]
    match requested.outcome:
        case "same":
            raise EndpointKept
        case "often":
            raise TooManyChanges(RETRY_S)
    return requested


async def read_own(db: Reader, messenger_id: MessengerId) -> list[Change]:
    """The messenger's last requests, the newest first."""
    return await db.fetch(READ_OWN_CHANGES, messenger_id)


async def read_all(db: Reader) -> list[Change]:
    """What waits, then what was decided or expired in the last 30 days."""
    return await db.fetch(READ_CHANGES)


async def find(db: Reader, change_id: int) -> Change:
    """Raises: CannotDecide, where there is none."""
    rows = await db.fetch(FIND_CHANGE, change_id)
    if not rows:
        raise CannotDecide(f"change {change_id}: {REFUSED['unknown']}")
    return rows[0]


async def confirm(db: Reader, change_id: int, who: str | None = None) -> Change:
    """Carries the request out. `who` decides: an operator key's name; None: the database user. Raises: CannotDecide, Unavailable."""
    return await _decide(db, change_id, "confirmed", who, None)


async def refuse(db: Reader, change_id: int, reason: str, who: str | None = None) -> Change:
    """The messenger is told the reason. As `confirm`."""
    return await _decide(db, change_id, "refused", who, reason)


async def _decide(db: Reader, change_id: int, verdict: str, who: str | None, reason: str | None) -> Change:
    outcome = (await db.fetch(DECIDE_CHANGE, change_id, verdict, who, reason, OVERLAP))[0].outcome
    if outcome != "decided":
        raise CannotDecide(f"change {change_id}: {REFUSED[outcome]}")
    return await find(db, change_id)
