"""Keys and signing secrets: who holds them since when, whether they are used, and when they end. Never what they are."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, cast

from registryd.store import messengers, operators
from registryd.store.pool import Database
from registryd.views.shape import Shape, Time, looking

State = Literal["live", "ending", "expired", "revoked"]
"""ending: it works until expires_at."""


ENDED_SHOWN = timedelta(days=30)


class MessengerKey(Shape, frozen=True):
    messenger: str
    key_id: str
    state: State
    created_at: Time
    last_used_at: Time | None
    """To the minute; None: never."""
    expires_at: Time | None
    revoked_at: Time | None


class Secret(Shape, frozen=True):
    messenger: str
    kind: Literal["hmac_sha256", "ed25519"]
    state: State
    created_at: Time
    expires_at: Time | None


class OperatorKey(Shape, frozen=True):
    name: str
    key_id: str
    scopes: list[str]
    state: State
    created_at: Time
    last_used_at: Time | None
    """To the minute; None: never."""
    expires_at: Time | None
    revoked_at: Time | None


class Keys(Shape, frozen=True):
    """Those that ended are there for 30 days."""

    seen_at: Time
    messenger_keys: list[MessengerKey]
    secrets: list[Secret]
    operator_keys: list[OperatorKey]


async def read(db: Database) -> Keys:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        keys, secrets = await messengers.read_all_keys(moment), await messengers.read_all_secrets(moment)
        own = [k for k in await operators.read_keys(moment.connection) if not _ended_long_ago(k.revoked_at, k.expires_at, seen_at)]
    return Keys(
        seen_at=seen_at,
        messenger_keys=[MessengerKey(**k._asdict(), state=_state(k.revoked_at, k.expires_at, seen_at)) for k in keys],
        secrets=[
            Secret(
                messenger=s.messenger,
                kind=cast("Literal['hmac_sha256', 'ed25519']", s.kind),
                state=_state(None, s.expires_at, seen_at),
                created_at=s.created_at,
                expires_at=s.expires_at,
            )
            for s in secrets
        ],
        operator_keys=[OperatorKey(**k._asdict(), state=_state(k.revoked_at, k.expires_at, seen_at)) for k in own],
    )


def _state(revoked_at: datetime | None, expires_at: datetime | None, now: datetime) -> State:
    if revoked_at is not None:
        return "revoked"
    if expires_at is None:
        return "live"
    return "expired" if expires_at <= now else "ending"


def _ended_long_ago(revoked_at: datetime | None, expires_at: datetime | None, now: datetime) -> bool:
    return any(at is not None and at < now - ENDED_SHOWN for at in (revoked_at, expires_at))
