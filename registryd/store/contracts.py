"""Contracts as billing's events change them. A call of any size is written by short statements, each for some hundreds of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from registryd.domain.contract import END_REASONS, Contract, Event, Known, Lack
from registryd.domain.events import Decided, PastEvent
from registryd.domain.identifiers import Msisdn
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Nothing, Query, Row

FOUND_AT_ONCE = 250
WRITTEN_AT_ONCE = 250
"""How many rows one statement of a call reads or writes. To encode or read ten thousand at once would hold the event loop. And a processor
of the server leaves a statement only where it ends: queries' p99 beside calls of ten thousand was 8.1 ms with 2,500 rows and is 6.7 ms with
250, which apply as many events.
"""

Item = TypeVar("Item")


class Locked(NamedTuple):
    locked: bool


class Opened(NamedTuple):
    """The database's clock and how many contracts may end, in every row; and an event of the call that was recorded before, if any was."""

    now: datetime
    ends_left: int
    event_id: str | None
    content: bytes | None
    outcome: str | None
    reason: str | None


class KnownRow(NamedTuple):
    msisdn: int
    generation: int
    status: str
    holder: str
    end_user: str
    started_at: datetime
    ended_at: datetime | None
    end_reason: str | None
    snapshot_at: datetime | None
    newest_status: str | None
    status_at: datetime | None
    newest_end_user: str | None
    end_user_at: datetime | None


class Turned(NamedTuple):
    absent: int


class Written(NamedTuple):
    msisdn: int


OPEN_CALL = Query("contracts", "open_call", Opened, list[str], int)
RECORD_EVENTS = Query("contracts", "record_events", Nothing, list[str], list[str], list[bytes], list[str], list[datetime])
NOTE_WAITING = Query("contracts", "note_waiting", Nothing, list[str], list[str], list[str], list[datetime])
LOCK_FEED = Query("contracts", "lock_feed", Locked)
FIND_KNOWN = Query("contracts", "find_known", KnownRow, list[int])
UPDATE_CONTRACTS = Query(
    "contracts", "update_contracts", Written, list[int], list[int], list[str], list[str], list[str], list[datetime], list[str]
)
INSERT_CONTRACTS = Query(
    "contracts",
    "insert_contracts",
    Written,
    *(list[int], list[int], list[str], list[str], list[str], list[datetime], list[datetime], list[str]),
)
COUNT_TURNED = Query("contracts", "count_turned", Turned, list[str], list[bool], list[str], list[bool])
WRITE_STATES = Query("contracts", "write_states", Nothing, list[int], list[str], list[datetime], list[str], list[datetime])


class OpenCall(NamedTuple):
    """What a call begins with: the database's clock, how many contracts may end (at least as many as the call ends, or all that
    may), and which of its events were recorded before.
    """

    now: datetime
    ends_left: int
    past: dict[str, PastEvent]


async def lock_feed(connection: Connection) -> None:
    """Waits until no call of the feed is applied; other calls then wait for the end of this transaction."""
    await fetch(connection, LOCK_FEED)


async def open_call(connection: Connection, events: Sequence[Event]) -> OpenCall:
    """Waits for the feed's lock as `lock_feed` does, and looks only then."""
    ending = sum(event.type in END_REASONS for event in events)
    rows = await fetch(connection, OPEN_CALL, [event.event_id for event in events], ending)
    past = {
        row.event_id: PastEvent(row.event_id, row.content, row.outcome, row.reason)
        for row in rows
        if row.event_id is not None and row.content is not None and row.outcome is not None
    }
    return OpenCall(rows[0].now, rows[0].ends_left, past)


async def find_known(connection: Connection, msisdns: Sequence[Msisdn]) -> dict[Msisdn, Known]:
    """What is known of each number that has or had a contract. The contract of the highest generation is locked."""
    known = await _find(connection, msisdns)
    # The first look may have waited for another writer's lock while a number got its next holder. A second look sees that one.
    return known | await _find(connection, [msisdn for msisdn, one in known.items() if one.live is None])


async def _find(connection: Connection, msisdns: Sequence[Msisdn]) -> dict[Msisdn, Known]:
    known: dict[Msisdn, Known] = {}
    for start in range(0, len(msisdns), FOUND_AT_ONCE):
        known |= _known(await fetch(connection, FIND_KNOWN, msisdns[start : start + FOUND_AT_ONCE]))
    return known


def _known(rows: Sequence[KnownRow]) -> dict[Msisdn, Known]:
    known = {}
    for row in rows:
        latest = Contract(
            msisdn=Msisdn(row.msisdn),
            generation=row.generation,
            status=row.status,  # type: ignore[arg-type] # an enum of the database, as the three below
            holder=row.holder,  # type: ignore[arg-type]
            end_user=row.end_user,  # type: ignore[arg-type]
            started_at=row.started_at,
            ended_at=row.ended_at,
            end_reason=row.end_reason,  # type: ignore[arg-type]
        )
        known[latest.msisdn] = Known(
            latest=latest,
            snapshot_at=row.snapshot_at,
            status=row.newest_status,  # type: ignore[arg-type] # the table's CHECK
            status_at=row.status_at,
            end_user=row.newest_end_user,  # type: ignore[arg-type] # the table's CHECK
            end_user_at=row.end_user_at,
        )
    return known


async def count_absent(connection: Connection, changed: Sequence[tuple[Contract, Contract | None]]) -> int:
    """How many of these numbers turn from present to absent, by what is live under them before and afterwards."""
    turned = await _in_portions(
        connection,
        COUNT_TURNED,
        changed,
        lambda c: (c[0].status, _unverified(c[0]), c[1].status if c[1] else None, _unverified(c[1]) if c[1] else None),
    )
    return sum(row.absent for row in turned)


def _unverified(contract: Contract) -> bool:
    return contract.end_user == "unregistered"


async def write(connection: Connection, decided: Decided) -> None:
    """Writes what a call does. Updates come before inserts: a number's live contract must have ended before its next generation starts."""
    await _record(connection, decided.applied, decided.refused, list(decided.waiting.values()))
    updated = await _in_portions(
        connection,
        UPDATE_CONTRACTS,
        decided.updated,
        lambda c: (c.msisdn, c.generation, c.status, c.holder, c.end_user, c.ended_at, c.end_reason),
    )
    if len(updated) != len(decided.updated):
        raise AssertionError("a contract that was locked and live is not there to be updated")
    await _in_portions(
        connection,
        INSERT_CONTRACTS,
        decided.inserted,
        lambda c: (c.msisdn, c.generation, c.status, c.holder, c.end_user, c.started_at, c.ended_at, c.end_reason),
    )
    states = list(decided.states.items())
    await _in_portions(connection, WRITE_STATES, states, lambda s: (s[0], s[1].status, s[1].status_at, s[1].end_user, s[1].end_user_at))


async def _record(
    connection: Connection,
    applied: Sequence[tuple[Event, bytes]],
    refused: Sequence[tuple[Event, bytes, str]],
    waiting: Sequence[tuple[Event, Lack]],
) -> None:
    """Records what became of a call's new events, and which of them wait."""
    await _in_portions(connection, RECORD_EVENTS, applied, lambda a: (a[0].event_id, a[0].type, a[1], None, a[0].occurred_at))
    await _in_portions(connection, RECORD_EVENTS, refused, lambda r: (r[0].event_id, r[0].type, r[1], r[2], r[0].occurred_at))
    await note_waiting(connection, waiting)


async def note_waiting(connection: Connection, waiting: Sequence[tuple[Event, Lack]]) -> None:
    """Keeps that these events wait, and for what."""
    await _in_portions(connection, NOTE_WAITING, waiting, lambda w: (w[0].event_id, w[0].type, w[1], w[0].occurred_at))


async def _in_portions(
    connection: Connection, query: Query[Row], items: Sequence[Item], row: Callable[[Item], tuple[Any, ...]]
) -> list[Row]:
    """Runs a statement that takes its rows as columns, for a portion of the items at a time."""
    written: list[Row] = []
    for start in range(0, len(items), WRITTEN_AT_ONCE):
        rows = map(row, items[start : start + WRITTEN_AT_ONCE])
        written += await fetch(connection, query, *[list(column) for column in zip(*rows, strict=True)])
    return written
