"""Contracts as billing's events change them. A call of any size is a handful of statements, each for all its rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from registryd.domain.contract import Contract, Event
from registryd.domain.events import PastEvent
from registryd.domain.identifiers import Msisdn
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Nothing, Query


class Recorded(NamedTuple):
    event_id: str


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
    """Waits until no other call of the feed is applied; other calls then wait for the end of this transaction."""
    await fetch(connection, LOCK_FEED)


async def find_events(connection: Connection, event_ids: Sequence[str]) -> dict[str, PastEvent]:
    return {event.event_id: event for event in await fetch(connection, FIND_EVENTS, event_ids)}


async def record_events(
    connection: Connection, applied: Sequence[tuple[Event, bytes]], refused: Sequence[tuple[Event, bytes, str]]
) -> None:
    """Records what became of a call's new events, with their contents and the reasons of refusals."""
    if applied:
        rows = [(event.event_id, event.type, content, event.occurred_at) for event, content in applied]
        await fetch(connection, RECORD_EVENTS, *_columns(rows, 4))
    if refused:
        told = [(event.event_id, event.type, content, reason, event.occurred_at) for event, content, reason in refused]
        await fetch(connection, REFUSE_EVENTS, *_columns(told, 5))


async def find_latest(connection: Connection, msisdns: Sequence[Msisdn]) -> dict[Msisdn, Contract]:
    """The contract of the highest generation of each number, locked."""
    rows = await fetch(connection, FIND_LATEST, msisdns)
    return {Msisdn(row.msisdn): Contract(**row._asdict()) for row in rows}


async def write(connection: Connection, updated: Sequence[Contract], inserted: Sequence[Contract]) -> None:
    """Updates come first: a number's live contract must have ended before its next generation starts."""
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
