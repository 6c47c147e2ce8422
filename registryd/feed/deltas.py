"""Imports a file of billing's contract events. They are applied in order, each once, as calls of POST /operator/v1/contract-events are.

Each portion of events is one transaction. After an interruption the whole file is imported again: what was applied comes back as a
duplicate. A line that is no event stops the file: the events before it are applied, those after it are not looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from registryd.domain.contract import EVENT_ID, EVENT_ID_WANTED, EVENT_TYPES, HOLDERS, STATED_END_USERS, Event, Result
from registryd.domain.errors import Unavailable
from registryd.domain.files import BadLine, ImportRefused, one_of, told
from registryd.domain.identifiers import MSISDN, MSISDN_WANTED, Msisdn
from registryd.domain.times import parse_file_time, parse_rfc3339
from registryd.feed.events import ContractFeed, Limits, Rehearsal
from registryd.feed.faults import RFC3339_WANTED
from registryd.feed.lines import Header, read_header, split
from registryd.feed.source import Source, opened
from registryd.store import bounds
from registryd.store.bounds import ContractsMax

COLUMNS = ("event_id", "type", "msisdn", "occurred_at", "holder", "end_user")
PORTION_EVENTS = 10_000


class AppliedEvents(NamedTuple):
    """What became of a file's events. `refused` and `waiting` (not_yet) have the line and the reason of each such event."""

    applied: int
    duplicates: int
    refused: list[BadLine]
    waiting: list[BadLine]
    ends: int = 0
    """How many contracts ended that were there before their portion of the file; of a dry run, before the file."""
    absent: int = 0
    """How many numbers turned from present to absent."""

    @property
    def lines(self) -> int:
        return self.applied + self.duplicates + len(self.refused) + len(self.waiting)


class NoEvent(ImportRefused):
    """A line is no event."""

    def __init__(self, bad: BadLine) -> None:
        super().__init__(f"{told([bad])}\nthe events before it are done: mend the line and import the whole file again")
        self.bad = bad


class FileStopped(Exception):
    """The file was stopped by `why`. `done` counts the events before that; the rest was not looked at."""

    def __init__(self, why: ImportRefused | Unavailable, done: AppliedEvents) -> None:
        super().__init__(str(why))
        self.why = why
        self.done = done


class TooMuch(ImportRefused):
    """A dry run found that a file would end, or turn absent, more contracts than it may."""


async def apply_file(
    feed: ContractFeed,
    path: Path,
    ends_max: ContractsMax | None = None,
    absent_max: ContractsMax | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    lines: int | None = None,
) -> AppliedEvents:
    """Applies a file's events up to the bounds that a person gave, else up to the policy's. An end beyond it waits; a portion that would
    turn too many numbers absent stops the file.

    Raises: as `apply_events`.
    """
    async with feed.db.connection() as connection:
        allowed = await bounds.bounds(connection, await bounds.count_live(connection), ends_max, absent_max)
    limits = Limits(None if ends_max is None else allowed.ends, allowed.absent)
    try:
        done = await apply_events(partial(feed.apply, limits=limits), path, progress, lines)
    except FileStopped as stopped:
        raise FileStopped(stopped.why, stopped.done._replace(ends=limits.ended, absent=limits.turned_absent)) from stopped.why
    return done._replace(ends=limits.ended, absent=limits.turned_absent)


async def rehearse(
    feed: ContractFeed,
    path: Path,
    ends_max: ContractsMax | None = None,
    absent_max: ContractsMax | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    lines: int | None = None,
) -> AppliedEvents:
    """Tells what a file's events would do, and changes nothing. Raises: as `apply_events`; FileStopped of TooMuch, where they would do too
    much.
    """
    rehearsal = Rehearsal(feed)
    done = await apply_events(rehearsal.apply, path, progress, lines)
    ends, absent = await rehearsal.count()
    done = done._replace(ends=ends, absent=absent)
    async with feed.db.connection() as connection:
        live = await bounds.count_live(connection)
        allowed = await bounds.bounds(connection, live, ends_max, absent_max)
    if ends > allowed.ends or absent > allowed.absent:
        raise FileStopped(TooMuch(bounds.too_many("the file's events", ends, absent, live, allowed)), done)
    return done


async def apply_events(
    apply: Callable[[Sequence[Event]], Awaitable[list[Result]]],
    path: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
    lines: int | None = None,
) -> AppliedEvents:
    """Hands a file's events to `apply` in portions; `progress(bytes, events)` is called after each. `lines`: how many there must be.

    Raises: ImportRefused for the header; FileStopped at a line that is no event, where too many numbers would turn absent, or where the
    file is damaged or the database is away.
    """
    applied = duplicates = 0
    refused: list[BadLine] = []
    waiting: list[BadLine] = []
    with opened(path) as source:
        header = read_header(source.first_line(), COLUMNS)
        try:
            for portion in _portions(_events(source, header, lines)):
                results = await apply([event for _, event in portion])
                for (line, _), result in zip(portion, results, strict=True):
                    match result.outcome:
                        case "applied":
                            applied += 1
                        case "duplicate":
                            duplicates += 1
                        case "refused":
                            refused.append(BadLine(line, result.reason or ""))
                        case "not_yet":
                            waiting.append(BadLine(line, result.reason or ""))
                progress(source.position, applied + duplicates + len(refused) + len(waiting))
        except (ImportRefused, Unavailable) as error:
            raise FileStopped(error, AppliedEvents(applied, duplicates, refused, waiting)) from error
    return AppliedEvents(applied, duplicates, refused, waiting)


def _portions(events: Iterator[tuple[int, Event]]) -> Iterator[list[tuple[int, Event]]]:
    """The events in portions of PORTION_EVENTS.

    Raises: NoEvent, after the events before it; ImportRefused, where the file is damaged: events since the last portion are then dropped.
    """
    portion: list[tuple[int, Event]] = []
    try:
        for numbered in events:
            portion.append(numbered)
            if len(portion) == PORTION_EVENTS:
                yield portion
                portion = []
    except NoEvent:
        if portion:
            yield portion
        raise
    if portion:
        yield portion


def _events(source: Source, header: Header, lines: int | None) -> Iterator[tuple[int, Event]]:
    """Each event with the number of its line. Raises: NoEvent, ImportRefused."""
    columns, number = header.columns, 1
    while block := source.block():
        # The values of an event hold no line feed, so the lines of a block are its rows.
        texts = block.decode("utf-8", "replace").split("\n")[:-1]
        for place, text in enumerate(texts, 1):
            number += 1
            if source.is_cut and place == len(texts) and number - 1 != lines:
                raise NoEvent(
                    BadLine(number, "has no line end, so it may have been cut short: say how many lines there must be with --lines N")
                )
            fields = split(text.rstrip("\r"), header.separator)
            if isinstance(fields, str):
                raise NoEvent(BadLine(number, fields))
            if len(fields) != len(columns):
                raise NoEvent(BadLine(number, f"does not have the header's {len(columns)} fields, or leaves a quote open"))
            event = _event(dict(zip(columns, fields, strict=True)))
            if isinstance(event, str):
                raise NoEvent(BadLine(number, event))
            yield number, event
    if lines is not None and number - 1 != lines:
        raise NoEvent(
            BadLine(number, f"is the last, and the file must have {lines:,} lines after its header: it was cut short, or another was meant")
        )


def _event(row: dict[str, str]) -> Event | str:
    """The event, or a text that says what is wrong with its line."""
    occurred_at = parse_rfc3339(row["occurred_at"]) or parse_file_time(row["occurred_at"])
    if EVENT_ID.fullmatch(row["event_id"]) is None:
        return f"event_id: {EVENT_ID_WANTED}"
    if row["type"] not in EVENT_TYPES:
        return f"type: {one_of(EVENT_TYPES)}"
    if MSISDN.fullmatch(row["msisdn"]) is None:
        return f"msisdn: {MSISDN_WANTED}"
    if occurred_at is None:
        return f"occurred_at: {RFC3339_WANTED}"
    if row["holder"] not in ("", *HOLDERS):
        return f"holder: {one_of((*HOLDERS, 'nothing'))}"
    if row["end_user"] not in ("", *STATED_END_USERS):
        return f"end_user: {one_of((*STATED_END_USERS, 'nothing'))}"
    return Event(
        event_id=row["event_id"],
        type=row["type"],  # type: ignore[arg-type] # one of EVENT_TYPES
        msisdn=Msisdn(int(row["msisdn"])),
        occurred_at=occurred_at,
        holder=row["holder"] or None,  # type: ignore[arg-type]
        end_user=row["end_user"] or None,  # type: ignore[arg-type]
    )
