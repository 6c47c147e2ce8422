"""Files into tables: COPY to a staging table, a check of the whole, one INSERT. One transaction: interrupted, it has changed nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import asyncpg

from registryd.domain.errors import Unavailable
from registryd.store.pool import TRANSIENT, fetch
from registryd.store.queries import Nothing, Query

COLUMNS = ("msisdn", "generation", "status", "holder", "end_user", "started_at", "ended_at", "end_reason")
BAD_LINES_TOLD = 20


class ImportRefused(Exception):
    """The file cannot be imported; the message names its lines and the mend. Nothing was changed."""


class BadLine(NamedTuple):
    line: int
    reason: str


class BulkLoad(NamedTuple):
    bulk_load: str


class Imported(NamedTuple):
    lines: int
    inserted: int


CREATE_STAGING = Query("imports", "create_staging", Nothing)
FIND_BAD_LINES = Query("imports", "find_bad_lines", BadLine, int)
SKIP_FRIENDLY_REFUSAL = Query("imports", "skip_friendly_refusal", BulkLoad)
INSERT_STAGED = Query("imports", "insert_staged", Nothing)
FIND_REPEATED_LINES = Query("imports", "find_repeated_lines", BadLine, int)
FIND_SECOND_LIVE = Query("imports", "find_second_live", BadLine, int)
INSERT_RANGE = Query("imports", "insert_range", Nothing, list[int], list[int], list[str], list[str])
DELETE_RANGES = Query("imports", "delete_ranges", Nothing)


async def import_contracts(
    connection: asyncpg.Connection[asyncpg.Record], columns: Sequence[str], chunks: AsyncIterator[bytes], *, dry_run: bool
) -> Imported:
    """Imports CSV lines (`chunks`, the header left out) with `columns`. Contracts that are there already are left as they are.

    Raises: ImportRefused, Unavailable; nothing was changed then.
    """
    transaction = connection.transaction()
    try:
        await transaction.start()
        try:
            imported = await _load(connection, columns, chunks)
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if dry_run else transaction.commit())
    except TRANSIENT as error:
        raise Unavailable from error
    except asyncpg.PostgresError as error:
        raise _refusal(error) from None
    return imported


async def _load(connection: asyncpg.Connection[asyncpg.Record], columns: Sequence[str], chunks: AsyncIterator[bytes]) -> Imported:
    await connection.execute(CREATE_STAGING.sql)
    lines = _count(await connection.copy_to_table("import_line", source=chunks, columns=columns, format="csv"))
    await _refuse_lines(connection, FIND_BAD_LINES)
    await fetch(connection, SKIP_FRIENDLY_REFUSAL)
    try:
        # A savepoint, so that the staged lines are still there to be searched.
        async with connection.transaction():
            inserted = _count(await connection.execute(INSERT_STAGED.sql))
    except asyncpg.UniqueViolationError:
        await _refuse_lines(connection, FIND_SECOND_LIVE)
        raise
    if inserted < lines:
        await _refuse_lines(connection, FIND_REPEATED_LINES)
    return Imported(lines, inserted)


async def _refuse_lines(connection: asyncpg.Connection[asyncpg.Record], query: Query[BadLine]) -> None:
    """Raises: ImportRefused, where `query` finds lines that it names."""
    bad = await fetch(connection, query, BAD_LINES_TOLD)
    if bad:
        raise ImportRefused("\n".join(f"line {line.line}: {line.reason}" for line in bad))


async def replace_ranges(connection: asyncpg.Connection[asyncpg.Record], ranges: Sequence[tuple[int, int, str, str]]) -> None:
    """Makes (first, last, region, note) the operator's numbering capacity. Raises: ImportRefused where they overlap."""
    try:
        async with connection.transaction():
            await connection.execute(DELETE_RANGES.sql)
            await fetch(connection, INSERT_RANGE, *map(list, zip(*ranges, strict=True)))
    except asyncpg.ExclusionViolationError:
        raise ImportRefused("two ranges overlap: a number belongs to one range") from None
    except asyncpg.CheckViolationError:
        raise ImportRefused("a range must run from its first number to a last one that is not smaller, of 5 to 15 digits each") from None


def _count(status: str) -> int:
    return int(status.rsplit(" ", 1)[-1])


def _refusal(error: asyncpg.PostgresError) -> ImportRefused:
    """PostgreSQL's error in words that quote nothing of the file."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return ImportRefused("a number would have two live contracts: the registry changed meanwhile; import the file again")
    if isinstance(error, asyncpg.CheckViolationError):
        return ImportRefused(f"a contract breaks the rule {error.constraint_name}")
    line = re.search(r"line (\d+)", error.context or "")
    where = f"line {int(line[1]) + 1}: " if line else ""
    if isinstance(error, asyncpg.BadCopyFileFormatError):
        return ImportRefused(f"{where}does not have the header's {len(COLUMNS)} fields, or leaves a quote open")
    if isinstance(error, asyncpg.CharacterNotInRepertoireError):
        return ImportRefused(f"{where}is not UTF-8 text")
    return ImportRefused(f"{where}PostgreSQL refused it ({type(error).__name__})")
