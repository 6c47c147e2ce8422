"""A file of billing's contract events: ordered, each applied once, by the very path of POST /operator/v1/contract-events.

Events go in by the call, a transaction each. Interrupted, the file is imported again from its beginning: what was applied is a duplicate.
A line that is no event stops the file there: the events before it are applied, those after it are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

from registryd.domain import contract
from registryd.domain.contract import Event
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import Msisdn
from registryd.feed.events import ContractFeed
from registryd.feed.lines import MSISDN, parse_time, read_header, split
from registryd.feed.source import Source, opened
from registryd.store.imports import BadLine, ImportRefused, told

COLUMNS = ("event_id", "type", "msisdn", "occurred_at", "holder", "end_user")
CALL_EVENTS = 10_000
_TYPES = get_args(contract.EventType)


class Applied(NamedTuple):
    """What became of a file's events; `refused` by line, with why."""

    applied: int
    duplicates: int
    refused: list[BadLine]


class NoEvent(ImportRefused):
    """A line is no event."""

    def __init__(self, bad: BadLine) -> None:
        super().__init__(f"{told([bad])}\nthe events before it are done: mend the line and import the whole file again")
        self.bad = bad


class Stopped(Exception):
    """`why` stopped the file: what stands before it was taken, as `done` says, and the rest was not looked at."""

    def __init__(self, why: ImportRefused | Unavailable, done: Applied) -> None:
        super().__init__(str(why))
        self.why = why
        self.done = done


async def apply_events(feed: ContractFeed, path: Path, progress: Callable[[int, int], None] = lambda *_: None) -> Applied:
    """Raises: ImportRefused for the header; Stopped, at a line that is no event, where the file is damaged or the database is away."""
    applied = duplicates = 0
    refused: list[BadLine] = []
    with opened(path) as source:
        columns = read_header(source.first_line(), COLUMNS)
        try:
            for call in _calls(_events(source, columns)):
                results = await feed.apply([event for _, event in call])
                for (line, _), result in zip(call, results, strict=True):
                    match result.outcome:
                        case "applied":
                            applied += 1
                        case "duplicate":
                            duplicates += 1
                        case "refused":
                            refused.append(BadLine(line, result.reason or ""))
                progress(source.position, applied + duplicates + len(refused))
        except (ImportRefused, Unavailable) as error:
            raise Stopped(error, Applied(applied, duplicates, refused)) from error
    return Applied(applied, duplicates, refused)


def _calls(events: Iterator[tuple[int, Event]]) -> Iterator[list[tuple[int, Event]]]:
    """The events by the call. Raises: NoEvent, after the events before it; ImportRefused, where those since the last call are in doubt."""
    call: list[tuple[int, Event]] = []
    try:
        for numbered in events:
            call.append(numbered)
            if len(call) == CALL_EVENTS:
                yield call
                call = []
    except NoEvent:
        if call:
            yield call
        raise
    if call:
        yield call


def _events(source: Source, columns: list[str]) -> Iterator[tuple[int, Event]]:
    """Raises: NoEvent, ImportRefused."""
    number = 1
    while block := source.block():
        # An event's values hold no newline, so a block's lines are rows.
        for text in block.decode("utf-8", "replace").split("\n")[:-1]:
            number += 1
            fields = split(text.rstrip("\r"))
            if isinstance(fields, str):
                raise NoEvent(BadLine(number, fields))
            if len(fields) != len(columns):
                raise NoEvent(BadLine(number, f"does not have the header's {len(columns)} fields, or leaves a quote open"))
            event = _event(dict(zip(columns, fields, strict=True)))
            if isinstance(event, str):
                raise NoEvent(BadLine(number, event))
            yield number, event


def _event(row: dict[str, str]) -> Event | str:
    """The event, or what is wanted of its line and not so."""
    occurred_at = parse_time(row["occurred_at"])
    if re.fullmatch("[!-~]{1,128}", row["event_id"]) is None:
        return "event_id: 1 to 128 printable ASCII characters without spaces"
    if row["type"] not in _TYPES:
        return f"type: one of {', '.join(_TYPES)}"
    if MSISDN.fullmatch(row["msisdn"]) is None:
        return "msisdn: 5 to 15 digits without the plus, the first not 0"
    if occurred_at is None:
        return "occurred_at: an RFC 3339 time such as 2026-01-02T03:04:05Z"
    if row["holder"] not in ("", *get_args(contract.Holder)):
        return "holder: individual, sole_trader, organisation or nothing"
    if row["end_user"] not in ("", "registered", "unregistered"):
        return "end_user: registered, unregistered or nothing"
    return Event(
        event_id=row["event_id"],
        type=row["type"],  # type: ignore[arg-type] # one of _TYPES
        msisdn=Msisdn(int(row["msisdn"])),
        occurred_at=occurred_at,
        holder=row["holder"] or None,  # type: ignore[arg-type]
        end_user=row["end_user"] or None,  # type: ignore[arg-type]
    )
