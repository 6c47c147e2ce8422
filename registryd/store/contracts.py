"""Contracts as billing's events change them: one transaction a call, two set-based statements for whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from registryd.domain.contract import Contract
from registryd.domain.identifiers import Msisdn
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Nothing, Query


class Recorded(NamedTuple):
    event_id: str


class PastEvent(NamedTuple):
    event_id: str
    content: bytes
    outcome: str
    reason: str | None


class Locked(NamedTuple):
    locked: bool


class ContractRow(NamedTuple):
    msisdn: int
    generation: int
    status: str
    holder: str
    end_user: str
    started_at: datetime
    ended_at: datetime | None
    end_reason: str | None


class Written(NamedTuple):
    msisdn: int


class EventRow(NamedTuple):
    event_id: str
    type: str
    content: bytes
    occurred_at: datetime


class RefusedRow(NamedTuple):
    event_id: str
    type: str
    content: bytes
    reason: str
    occurred_at: datetime


RECORD_EVENTS = Query("contracts", "record_events", Recorded, list[str], list[str], list[bytes], list[datetime])
REFUSE_EVENTS = Query("contracts", "refuse_events", Nothing, list[str], list[str], list[bytes], list[str], list[datetime])
FIND_EVENTS = Query("contracts", "find_events", PastEvent, list[str])
LOCK_FEED = Query("contracts", "lock_feed", Locked)
FIND_LATEST = Query("contracts", "find_latest_contracts", ContractRow, list[int])
UPDATE_CONTRACTS = Query(
    "contracts", "update_contracts", Written, list[int], list[int], list[str], list[str], list[str], list[datetime], list[str]
)
INSERT_CONTRACTS = Query(
    "contracts",
    "insert_contracts",
    Written,
    *(list[int], list[int], list[str], list[str], list[str], list[datetime], list[datetime], list[str]),
)


async def lock_feed(connection: Connection) -> None:
    """Takes turns with other calls of the feed, until the transaction ends."""
    await fetch(connection, LOCK_FEED)


async def find_events(connection: Connection, event_ids: Sequence[str]) -> dict[str, PastEvent]:
    return {event.event_id: event for event in await fetch(connection, FIND_EVENTS, event_ids)}


async def record_events(connection: Connection, applied: Sequence[EventRow], refused: Sequence[RefusedRow]) -> int:
    """Writes what became of a call's events; returns how many applied ones were new: fewer than given means that another call was first."""
    recorded = await fetch(connection, RECORD_EVENTS, *_columns(applied, 4)) if applied else []
    if refused:
        await fetch(connection, REFUSE_EVENTS, *_columns(refused, 5))
    return len(recorded)


async def find_latest(connection: Connection, msisdns: Sequence[Msisdn]) -> dict[Msisdn, Contract]:
    """Each number's contract of the highest generation, locked."""
    rows = await fetch(connection, FIND_LATEST, msisdns)
    return {Msisdn(row.msisdn): Contract(**row._asdict()) for row in rows}


async def write(connection: Connection, updated: Sequence[Contract], inserted: Sequence[Contract]) -> None:
    """Updates first, so that a number's live contract has ended before its next generation starts."""
    if updated:
        rows = [(c.msisdn, c.generation, c.status, c.holder, c.end_user, c.ended_at, c.end_reason) for c in updated]
        written = await fetch(connection, UPDATE_CONTRACTS, *_columns(rows, 7))
        if len(written) != len(updated):
            raise AssertionError("a contract that was locked and live is not there to be updated")
    if inserted:
        new = [(c.msisdn, c.generation, c.status, c.holder, c.end_user, c.started_at, c.ended_at, c.end_reason) for c in inserted]
        await fetch(connection, INSERT_CONTRACTS, *_columns(new, 8))


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(width)]
