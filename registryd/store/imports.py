"""Files into tables: COPY to a staging table, a check of the whole, one INSERT. One transaction: interrupted, it has changed nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import asyncpg

from registryd.store.pool import fetch
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
INSERT_RANGE = Query("imports", "insert_range", Nothing, list[int], list[int], list[str], list[str])
DELETE_RANGES = Query("imports", "delete_ranges", Nothing)


async def import_contracts(
    connection: asyncpg.Connection[asyncpg.Record], columns: Sequence[str], chunks: AsyncIterator[bytes], *, dry_run: bool
) -> Imported:
    """Imports CSV lines (`chunks`, the header left out) with `columns`. Contracts that are there already are left as they are.

    Raises: ImportRefused.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(CREATE_STAGING.sql)
        copied = await connection.copy_to_table("import_line", source=chunks, columns=columns, format="csv")
        bad = await fetch(connection, FIND_BAD_LINES, BAD_LINES_TOLD)
        if bad:
            raise ImportRefused("\n".join(f"line {line.line}: {line.reason}" for line in bad))
        await fetch(connection, SKIP_FRIENDLY_REFUSAL)
        inserted = await connection.execute(INSERT_STAGED.sql)
        imported = Imported(_count(copied), _count(inserted))
    except asyncpg.PostgresError as error:
        await transaction.rollback()
        raise _refusal(error) from None
    except BaseException:
        await transaction.rollback()
        raise
    if dry_run:
        await transaction.rollback()
    else:
        await transaction.commit()
    return imported


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
        return ImportRefused(
            "a number would have two live contracts: the file and the registry (or two lines of the file) disagree on its holder; "
            "end the former contract first, by a contract event"
        )
    if isinstance(error, asyncpg.CheckViolationError):
        return ImportRefused(f"a contract breaks the rule {error.constraint_name}")
    line = re.search(r"line (\d+)", error.context or "")
    where = f"line {int(line[1]) + 1}: " if line else ""
    if isinstance(error, asyncpg.BadCopyFileFormatError):
        return ImportRefused(f"{where}does not have the header's {len(COLUMNS)} fields")
    if isinstance(error, asyncpg.DataError):
        return ImportRefused(f"{where}a time or number is out of range")
    return ImportRefused(f"{where}PostgreSQL refused it ({type(error).__name__})")
