"""Lanes: leases with fencing tokens, the mark from which a lane is read, and the gate of a failing endpoint.

free -> leased -> free ;  open <-> gated

Every time here is the database's. A process sends waits, as intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import inf
from typing import NamedTuple
from uuid import UUID

from registryd.domain.identifiers import MessengerId
from registryd.domain.lane import Lease
from registryd.domain.schedule import PROBE_MAX
from registryd.store.pool import Connection, Database, fetch, first
from registryd.store.queries import Query
from registryd.store.reading import Reader

LEASE = timedelta(seconds=45)
GATE_MAX = timedelta(minutes=1)
"""A gate that lies further ahead keeps no lane shut."""
assert GATE_MAX > PROBE_MAX


class Token(NamedTuple):
    token: int


class Failures(NamedTuple):
    failures: int


class Probed(NamedTuple):
    was_failing: bool


class EndpointHealth(NamedTuple):
    """Whether a messenger's endpoint fails: when it is probed next, and what the last failure was."""

    gate_until: datetime | None
    last_error: str | None


class LaneRow(NamedTuple):
    """A lane as people look at it. `state` and `process`: as report.endpoint_health has them."""

    messenger: str
    endpoint: str | None
    """Without its query, which may hold a secret."""
    state: str
    is_held: bool
    failures: int
    last_error: str | None
    gate_until: datetime | None
    last_success_at: datetime | None
    process: str | None
    push_p50_s: float | None
    """Of the last 100 pushes of a day."""
    push_p99_s: float | None
    failed_share: float | None


class EchoBound(NamedTuple):
    echo_per_s: int | None
    processes: int


class Progress(NamedTuple):
    """What a lease leaves to the next one: up to where all that was due is settled, and when to look from the beginning."""

    low_water: UUID
    look_back_in: timedelta


LEASE_LANES = Query("lanes", "lease_lanes", Lease, str, timedelta, int, list[int], list[int], timedelta)
RENEW_LEASE = Query("lanes", "renew_lease", Token, int, int, UUID, timedelta, timedelta)
RELEASE_LANE = Query("lanes", "release_lane", Token, int, int, UUID, timedelta, bool)
GATE_LANE = Query("lanes", "gate_lane", Failures, int, int, timedelta, str)
OPEN_LANE = Query("lanes", "open_lane", Token, int, int)
PROBE_LANE = Query("lanes", "probe_lane", Probed, int)
READ_ECHO_BOUND = Query("lanes", "read_echo_bound", EchoBound)
READ_LANES = Query("lanes", "read_lanes", LaneRow, str)
FIND_LANE = Query("lanes", "find_lane", EndpointHealth, int)


async def lease(
    connection: Connection, owner: str, limit: int, working: Sequence[MessengerId], to_look_back: Sequence[MessengerId] | None = ()
) -> list[Lease]:
    """Takes up to `limit` free lanes: those with something due above their mark, those whose look back is due, and `to_look_back` (None:
    all). None of those that `owner` is working already. Raises: Unavailable.
    """
    return await fetch(connection, LEASE_LANES, owner, LEASE, limit, working, to_look_back, GATE_MAX)


async def renew(db: Database, lease: Lease, progress: Progress) -> bool:
    """Renews the lease for another 45 s. Returns whether the lane is still ours."""
    return bool(await db.fetch(RENEW_LEASE, lease.messenger_id, lease.token, *progress, LEASE))


async def release(db: Database, lease: Lease, progress: Progress, *, succeeded: bool) -> None:
    """Gives the lane back. `succeeded`: whether the endpoint has acknowledged something."""
    await db.fetch(RELEASE_LANE, lease.messenger_id, lease.token, *progress, succeeded)


async def gate(connection: Connection, lease: Lease, wait: timedelta, error: str) -> None:
    """Closes the lane until the next probe: one row, however many notifications wait behind it."""
    await first(connection, GATE_LANE, lease.messenger_id, lease.token, wait, error)


async def reopen(connection: Connection, lease: Lease) -> None:
    await first(connection, OPEN_LANE, lease.messenger_id, lease.token)


async def probe(db: Database, messenger_id: MessengerId) -> bool:
    """Has a failing endpoint probed now. Returns whether it was failing."""
    return (await db.fetch(PROBE_LANE, messenger_id))[0].was_failing


async def echo_per_s(db: Database) -> float:
    """This process's part of the policy's bound on notifications a second; infinite where there is no bound."""
    found = await db.fetch(READ_ECHO_BOUND)
    return inf if not found or found[0].echo_per_s is None else found[0].echo_per_s / max(1, found[0].processes)


async def find(db: Database, messenger_id: MessengerId) -> EndpointHealth:
    rows = await db.fetch(FIND_LANE, messenger_id)
    return rows[0] if rows else EndpointHealth(None, None)


async def read_all(db: Reader, messenger: str | None = None) -> list[LaneRow]:
    """Every lane, or one messenger's."""
    return await db.fetch(READ_LANES, messenger)
