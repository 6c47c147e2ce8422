"""Replaces the operator's numbering capacity in one transaction, unless too many live contracts would turn absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import asyncpg

from registryd.domain.files import BAD_LINES_TOLD, BadLine, ImportRefused, told
from registryd.store.pool import fetch
from registryd.store.queries import Nothing, Query
from registryd.store.staging import importing

RangeSource = Literal["register", "hand"]


class Range(NamedTuple):
    line: int
    first: int
    last: int
    region: str
    note: str


class Counted(NamedTuple):
    live: int
    """Live contracts."""
    absent: int
    """How many of them were in the capacity before and are not after. While there are no ranges, every number is in the capacity."""
    kept: int
    """How many ranges made by hand stay."""


class TooManyAbsent(ImportRefused):
    """The ranges would turn more live contracts absent than they may."""

    def __init__(self, ranges: Sequence[Range], would: Counted) -> None:
        super().__init__(
            f"the ranges would turn {would.absent:,} of {would.live:,} live contracts ({would.absent / would.live:.2%}) absent, more than "
            f"--max-absent allows, and nothing was changed. Look whose ranges they are; if it is right, import again with "
            f"--max-absent {would.absent}"
        )
        self.ranges = ranges
        self.would = would


LOCK_RANGES = Query("ranges", "lock_ranges", Nothing)
COUNT_ABSENT = Query("ranges", "count_absent", Counted, list[int], list[int], bool)
FIND_OVERLAPPING = Query("ranges", "find_overlapping", BadLine, list[int], list[int], list[int], int)
DELETE_RANGES = Query("ranges", "delete_ranges", Nothing, bool)
INSERT_RANGES = Query("ranges", "insert_ranges", Nothing, list[int], list[int], list[str], list[str], str)


async def replace(
    connection: asyncpg.Connection[asyncpg.Record],
    ranges: Sequence[Range],
    origin: RangeSource,
    *,
    absent_max: Callable[[int], int],
    dry_run: bool,
) -> Counted:
    """Makes these ranges, which do not overlap each other, the capacity. Those of a register leave ranges made by hand as they are.

    `absent_max(live)` says how many live contracts may turn absent. Raises: TooManyAbsent, ImportRefused, Unavailable; nothing was
    changed then.
    """
    lines, firsts, lasts, regions, notes = (list(column) for column in zip(*ranges, strict=True))
    keeps_hand = origin == "register"
    async with importing(connection, dry_run=dry_run):
        await fetch(connection, LOCK_RANGES)
        if keeps_hand and (bad := await fetch(connection, FIND_OVERLAPPING, firsts, lasts, lines, BAD_LINES_TOLD)):
            raise ImportRefused(told(bad))
        # The planner cannot know how many numbers lie between two ranges, and would read the whole table.
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off")
        (would,) = await fetch(connection, COUNT_ABSENT, firsts, lasts, keeps_hand)
        if would.absent > absent_max(would.live):
            raise TooManyAbsent(ranges, would)
        await fetch(connection, DELETE_RANGES, keeps_hand)
        await fetch(connection, INSERT_RANGES, firsts, lasts, regions, notes, origin)
        return would
