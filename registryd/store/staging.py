"""The one transaction of an import: a file goes by COPY into a staging table, and whatever goes wrong leaves the registry as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from registryd.domain.errors import Unavailable
from registryd.domain.files import BAD_LINES_TOLD, BadLine, ImportRefused, told
from registryd.store.failures import CLIENT_ERRORS, TRANSIENT
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query


class Prepared(NamedTuple):
    work_mem: str
    temp_buffers: str
    jit: str


class StagingMade(NamedTuple):
    made: bool


class Staged(NamedTuple):
    """A file on its way into the staging table. `line_of(n)` is the line in the file of its n-th good line, from 1."""

    columns: Sequence[str]
    blocks: AsyncIterator[bytes]
    line_of: Callable[[int], int] = lambda position: position + 1


PREPARE_IMPORT = Query("imports", "prepare_import", Prepared)
CREATE_STAGING = Query("imports", "create_staging", StagingMade)


@asynccontextmanager
async def importing(connection: asyncpg.Connection[asyncpg.Record], *, dry_run: bool) -> AsyncIterator[None]:
    """Opens the import's transaction and commits it at the end; a dry run is rolled back. Raises: ImportRefused, Unavailable."""
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
    except CLIENT_ERRORS as error:
        if connection.is_closed():
            raise Unavailable from error
        raise
    except asyncpg.PostgresError as error:
        raise _refusal(error) from None


async def stage(connection: asyncpg.Connection[asyncpg.Record], file: Staged) -> int:
    """Fills the temporary table import_contract; returns how many lines it holds."""
    await fetch(connection, PREPARE_IMPORT)
    await fetch(connection, CREATE_STAGING)
    copied = await connection.copy_to_table(
        "import_contract", source=file.blocks, columns=file.columns, format="text", delimiter=",", null=""
    )
    return count_of(copied)


async def refuse_lines(connection: Connection, query: Query[BadLine], file: Staged) -> None:
    """Raises: ImportRefused with the lines that `query` finds, if it finds any."""
    bad = await fetch(connection, query, BAD_LINES_TOLD)
    if bad:
        raise ImportRefused(told(BadLine(file.line_of(place), reason) for place, reason in bad))


def count_of(status: str) -> int:
    """The number of rows in a command's tag, such as `COPY 17`."""
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
