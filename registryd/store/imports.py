"""Imports contracts with their history: staged by COPY, then inserted by one statement. Contracts that are there stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import asyncpg

from registryd.domain.files import BadLine
from registryd.store import contracts, ranges
from registryd.store.pool import fetch
from registryd.store.queries import Nothing, Query
from registryd.store.staging import Staged, count_of, importing, refuse_lines, stage


class IsEmpty(NamedTuple):
    empty: bool


class Inserted(NamedTuple):
    inserted: int


class Imported(NamedTuple):
    lines: int
    inserted: int
    is_complete: bool = False
    """Whether the file declares the registry complete: it is said to be whole, it was applied, and no line of it was bad."""
    outside: int | None = None
    """How many live contracts lie outside the numbering capacity now; None where nothing was applied."""


class Declared(NamedTuple):
    declared: bool


IS_EMPTY = Query("imports", "is_empty", IsEmpty)
LOAD_FIRST = Query("imports", "load_first", Inserted, datetime)
FIND_BURIED = Query("imports", "find_buried", BadLine, int)
INSERT_STAGED = Query("imports", "insert_staged", Nothing)
FIND_OVERTAKEN = Query("imports", "find_overtaken", BadLine, int)
FIND_REPEATED_LINES = Query("imports", "find_repeated_lines", BadLine, int)
FIND_SECOND_LIVE = Query("imports", "find_second_live", BadLine, int)
DECLARE_COMPLETE = Query("imports", "declare_complete", Declared, str)


async def import_contracts(
    connection: asyncpg.Connection[asyncpg.Record], file: Staged, *, dry_run: bool, is_whole: Callable[[], bool] = lambda: False
) -> Imported:
    """Imports the whole file, or nothing of it. Once the file is read, `is_whole()` says whether it holds every live contract there is.

    A history only adds contracts. The database refuses a contract above a live one, so nobody ends or turns absent by it.
    Raises: ImportRefused, Unavailable.
    """
    async with importing(connection, dry_run=dry_run):
        lines = await stage(connection, file)
        if (await fetch(connection, IS_EMPTY))[0].empty:
            inserted = await load_first(connection, file)
        else:
            inserted = await _insert_staged(connection, file, lines)
        is_complete = not dry_run and lines > 0 and is_whole()
        if is_complete:
            await fetch(connection, DECLARE_COMPLETE, f"a whole history of {lines} lines")
        return Imported(lines, inserted, is_complete, None if dry_run else await ranges.count_outside(connection))


async def _insert_staged(connection: asyncpg.Connection[asyncpg.Record], file: Staged, lines: int) -> int:
    try:
        # In a savepoint: after a refusal the staged lines are still there to be searched.
        async with connection.transaction():
            inserted = count_of(await connection.execute(INSERT_STAGED.sql))
    except asyncpg.UniqueViolationError:
        await refuse_lines(connection, FIND_SECOND_LIVE, file)
        raise
    except asyncpg.RestrictViolationError:
        await refuse_lines(connection, FIND_BURIED, file)
        raise
    if inserted < lines:
        await refuse_lines(connection, FIND_REPEATED_LINES, file)
    # Until here events went on being applied. From here on they wait for this transaction, and see it.
    await contracts.lock_feed(connection)
    await refuse_lines(connection, FIND_OVERTAKEN, file)
    return inserted


async def load_first(connection: asyncpg.Connection[asyncpg.Record], file: Staged, as_of: datetime | None = None) -> int:
    """Moves the staged lines into the empty registry. `as_of`: when a snapshot was taken; None: the file is a history."""
    try:
        async with connection.transaction():
            return (await fetch(connection, LOAD_FIRST, as_of))[0].inserted
    except (asyncpg.UniqueViolationError, asyncpg.RestrictViolationError):
        for query in (FIND_REPEATED_LINES, FIND_SECOND_LIVE, FIND_BURIED):
            await refuse_lines(connection, query, file)
        raise
