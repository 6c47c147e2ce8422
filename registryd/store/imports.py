"""Files into tables: COPY to a staging table, then one INSERT. One transaction: interrupted, it has changed nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import NamedTuple

import asyncpg

from registryd.domain.errors import Unavailable
from registryd.store.pool import TRANSIENT, Connection, fetch
from registryd.store.queries import Nothing, Query

BAD_LINES_TOLD = 20


class ImportRefused(Exception):
    """The file cannot be imported; the message names its lines and the mend. Nothing was changed."""


class BadLine(NamedTuple):
    line: int
    reason: str


class Prepared(NamedTuple):
    work_mem: str
    temp_buffers: str
    jit: str
    bulk_load: str


class Made(NamedTuple):
    made: bool


class Empty(NamedTuple):
    empty: bool


class Buried(NamedTuple):
    buried: bool


class Inserted(NamedTuple):
    inserted: int


class Imported(NamedTuple):
    lines: int
    inserted: int


class Staged(NamedTuple):
    """A file on its way: its columns, its good lines, and which line of the file one of these was, from 1."""

    columns: Sequence[str]
    blocks: AsyncIterator[bytes]
    line_of: Callable[[int], int] = lambda position: position + 1


PREPARE_IMPORT = Query("imports", "prepare_import", Prepared)
CREATE_STAGING = Query("imports", "create_staging", Made)
IS_EMPTY = Query("imports", "is_empty", Empty)
LOAD_FIRST = Query("imports", "load_first", Inserted, datetime)
IS_ANY_BURIED = Query("imports", "is_any_buried", Buried)
FIND_BURIED = Query("imports", "find_buried", BadLine, int)
INSERT_STAGED = Query("imports", "insert_staged", Nothing)
FIND_REPEATED_LINES = Query("imports", "find_repeated_lines", BadLine, int)
FIND_SECOND_LIVE = Query("imports", "find_second_live", BadLine, int)


async def import_contracts(connection: asyncpg.Connection[asyncpg.Record], file: Staged, *, dry_run: bool) -> Imported:
    """Contracts with their history. Those that are there already are left as they are.

    Raises: ImportRefused, Unavailable; nothing was changed then.
    """
    async with importing(connection, dry_run=dry_run):
        lines = await stage(connection, file)
        if (await fetch(connection, IS_EMPTY))[0].empty:
            inserted = await load_first(connection, file)
        else:
            inserted = await _insert_staged(connection, file, lines)
        if (await fetch(connection, IS_ANY_BURIED))[0].buried:
            await refuse_lines(connection, FIND_BURIED, file)
        return Imported(lines, inserted)


async def _insert_staged(connection: asyncpg.Connection[asyncpg.Record], file: Staged, lines: int) -> int:
    try:
        # A savepoint, so that the staged lines are still there to be searched.
        async with connection.transaction():
            inserted = count_of(await connection.execute(INSERT_STAGED.sql))
    except asyncpg.UniqueViolationError:
        await refuse_lines(connection, FIND_SECOND_LIVE, file)
        raise
    if inserted < lines:
        await refuse_lines(connection, FIND_REPEATED_LINES, file)
    return inserted


@asynccontextmanager
async def importing(connection: asyncpg.Connection[asyncpg.Record], *, dry_run: bool) -> AsyncIterator[None]:
    """The one transaction of an import; a dry run's is rolled back. Raises: ImportRefused, Unavailable."""
    transaction = connection.transaction()
    try:
        await transaction.start()
        try:
            yield
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if dry_run else transaction.commit())
    except TRANSIENT as error:
        raise Unavailable from error
    except asyncpg.PostgresError as error:
        raise _refusal(error) from None


async def stage(connection: asyncpg.Connection[asyncpg.Record], file: Staged) -> int:
    """Fills import_contract; returns how many lines it holds."""
    await fetch(connection, PREPARE_IMPORT)
    await fetch(connection, CREATE_STAGING)
    copied = await connection.copy_to_table(
        "import_contract", source=file.blocks, columns=file.columns, format="text", delimiter=",", null=""
    )
    return count_of(copied)


async def load_first(connection: asyncpg.Connection[asyncpg.Record], file: Staged, learned_at: datetime | None = None) -> int:
    """Moves what was staged into the empty registry; `learned_at`: when a snapshot was taken."""
    try:
        async with connection.transaction():
            return (await fetch(connection, LOAD_FIRST, learned_at))[0].inserted
    except asyncpg.UniqueViolationError:
        await refuse_lines(connection, FIND_REPEATED_LINES, file)
        await refuse_lines(connection, FIND_SECOND_LIVE, file)
        raise


async def refuse_lines(connection: Connection, query: Query[BadLine], file: Staged) -> None:
    """Raises: ImportRefused, where `query` finds lines that it names."""
    bad = await fetch(connection, query, BAD_LINES_TOLD)
    if bad:
        raise ImportRefused(told(BadLine(file.line_of(place), reason) for place, reason in bad))


def told(bad: Iterable[BadLine]) -> str:
    """The first bad lines, a line each."""
    return "\n".join(f"line {line.line}: {line.reason}" for line in islice(bad, BAD_LINES_TOLD))


def count_of(status: str) -> int:
    """How many rows a command's tag counts."""
    return int(status.rsplit(" ", 1)[-1])


def _refusal(error: asyncpg.PostgresError) -> ImportRefused:
    """PostgreSQL's error in words that quote nothing of the file."""
    match error:
        case asyncpg.UniqueViolationError():
            return ImportRefused("a number would have two live contracts: the registry changed meanwhile; import the file again")
        case asyncpg.RestrictViolationError():
            return ImportRefused("the registry changed meanwhile: import the file again")
        case asyncpg.CheckViolationError():
            return ImportRefused(f"a row breaks the rule {error.constraint_name}")
    return ImportRefused(f"PostgreSQL refused it ({type(error).__name__})")
