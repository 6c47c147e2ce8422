"""Lanes: leases with fencing tokens, and the gate of a failing endpoint.

free -> leased -> free ;  open <-> gated
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import inf
from typing import NamedTuple

from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Connection, Database, fetch, first
from registryd.store.queries import Query

LEASE = timedelta(seconds=45)


class Lease(NamedTuple):
    """A lane this worker holds, with what it needs of its messenger."""

    messenger_id: MessengerId
    token: int
    failures: int
    name: str
    endpoint_url: str
    batch_max: int
    includes_phone_number: bool


class Token(NamedTuple):
    token: int


class Failures(NamedTuple):
    failures: int


class Gate(NamedTuple):
    gate_until: datetime | None
    last_error: str | None


class EchoBound(NamedTuple):
    echo_per_s: int | None
    workers: int


LEASE_LANES = Query("lanes", "lease_lanes", Lease, str, timedelta, int, list[int])
RENEW_LEASE = Query("lanes", "renew_lease", Token, int, int, timedelta)
RELEASE_LANE = Query("lanes", "release_lane", Token, int, int, bool)
GATE_LANE = Query("lanes", "gate_lane", Failures, int, int, datetime, str)
OPEN_LANE = Query("lanes", "open_lane", Token, int, int)
READ_ECHO_BOUND = Query("lanes", "read_echo_bound", EchoBound)
FIND_LANE = Query("lanes", "find_lane", Gate, int)


async def lease(connection: Connection, owner: str, limit: int, working: Sequence[MessengerId]) -> list[Lease]:
    """Takes up to `limit` free lanes that have something due, but none of those `owner` is working already."""
    return await fetch(connection, LEASE_LANES, owner, LEASE, limit, working)


async def renew(db: Database, lease: Lease) -> bool:
    """Whether the lane is still ours, for another 45 s."""
    return bool(await db.fetch(RENEW_LEASE, lease.messenger_id, lease.token, LEASE))


async def release(db: Database, lease: Lease, *, succeeded: bool) -> None:
    """Gives the lane back; `succeeded`: whether its endpoint has just received something."""
    await db.fetch(RELEASE_LANE, lease.messenger_id, lease.token, succeeded)


async def gate(connection: Connection, lease: Lease, until: datetime, error: str) -> None:
    """Closes the lane until the next probe: one row, however many notifications wait behind it."""
    await first(connection, GATE_LANE, lease.messenger_id, lease.token, until, error)


async def reopen(connection: Connection, lease: Lease) -> None:
    await first(connection, OPEN_LANE, lease.messenger_id, lease.token)


async def echo_per_s(db: Database) -> float:
    """One worker's part of the policy's bound on notifications a second; infinite where the policy has none."""
    found = await db.fetch(READ_ECHO_BOUND)
    return inf if not found or found[0].echo_per_s is None else found[0].echo_per_s / max(1, found[0].workers)


async def find(db: Database, messenger_id: MessengerId) -> Gate:
    rows = await db.fetch(FIND_LANE, messenger_id)
    return rows[0] if rows else Gate(None, None)
