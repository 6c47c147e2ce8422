"""The operator's numbering capacity: replaced in one transaction, and how many live contracts lie outside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import asyncpg

from registryd.domain.files import BAD_LINES_TOLD, ImportRefused
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Nothing, Query
from registryd.store.staging import importing

RangeSource = Literal["register", "hand"]


class Range(NamedTuple):
    place: str
    """Where it stands, such as `line 3`, with its file where there are several."""
    first: int
    last: int
    region: str
    note: str


class Counted(NamedTuple):
    live: int
    """Live contracts."""
    outside: int
    """How many of them lie outside the capacity: numbers that were ported in, or another operator's. 0 while there are no ranges."""
    kept: int
    """How many ranges made by hand stay."""


class BadRange(NamedTuple):
    place: str
    reason: str


class Dropped(NamedTuple):
    dropped: int


class Replaced(NamedTuple):
    counted: Counted
    dropped: int
    """How many numbers of the capacity before are not in the new one."""


class Outside(NamedTuple):
    contracts: int


LOCK_RANGES = Query("ranges", "lock_ranges", Nothing)
COUNT_CAPACITY = Query("ranges", "count_capacity", Counted, bool)
COUNT_DROPPED = Query("ranges", "count_dropped", Dropped, list[int], list[int], bool)
COUNT_OUTSIDE = Query("ranges", "count_outside", Outside)
FIND_OVERLAPPING = Query("ranges", "find_overlapping", BadRange, list[int], list[int], list[str], int)
DELETE_RANGES = Query("ranges", "delete_ranges", Nothing, bool)
INSERT_RANGES = Query("ranges", "insert_ranges", Nothing, list[int], list[int], list[str], list[str], str)


async def replace(
    connection: asyncpg.Connection[asyncpg.Record], ranges: Sequence[Range], origin: RangeSource, *, dry_run: bool
) -> Replaced:
    """Makes these ranges, which do not overlap each other, the capacity. Those of a register leave ranges made by hand as they are.

    Raises: ImportRefused, Unavailable; nothing was changed then.
    """
    places, firsts, lasts, regions, notes = (list(column) for column in zip(*ranges, strict=True))
    keeps_hand = origin == "register"
    async with importing(connection, dry_run=dry_run):
        await fetch(connection, LOCK_RANGES)
        if keeps_hand and (bad := await fetch(connection, FIND_OVERLAPPING, firsts, lasts, places, BAD_LINES_TOLD)):
            raise ImportRefused("\n".join(f"{place}: {reason}" for place, reason in bad))
        dropped = (await fetch(connection, COUNT_DROPPED, firsts, lasts, keeps_hand))[0].dropped
        await fetch(connection, DELETE_RANGES, keeps_hand)
        await fetch(connection, INSERT_RANGES, firsts, lasts, regions, notes, origin)
        return Replaced((await fetch(connection, COUNT_CAPACITY, keeps_hand))[0], dropped)


async def count_outside(connection: Connection) -> int:
    """How many live contracts lie outside the capacity."""
    return (await fetch(connection, COUNT_OUTSIDE))[0].contracts
