"""Imports billing's files of contracts: contracts with their history, and snapshots of the live ones.

The header names the columns, in any order. An import that is interrupted has changed nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from registryd.domain.contract import CLOCK_SKEW_MAX, EARLIEST
from registryd.domain.files import BadLine, ImportRefused
from registryd.feed.lines import HISTORY_COLUMNS, SNAPSHOT_COLUMNS, Lines, read_header
from registryd.feed.source import Source, opened
from registryd.store import imports, snapshots
from registryd.store.bounds import ContractsMax
from registryd.store.imports import Imported
from registryd.store.migrations import connect
from registryd.store.snapshots import Reconciled, Snapshot
from registryd.store.staging import Staged


@dataclass
class FileImport:
    """A file to import. `progress(bytes, lines)` is called as the file is read, `step(name)` before each step that follows."""

    path: Path
    rejects_max: int = 0
    dry_run: bool = False
    lines: int | None = None
    """How many lines there must be after the header; None: nobody said so."""
    is_whole: bool = False
    """Of a history: it holds every live contract there is."""
    progress: Callable[[int, int], None] = lambda *_: None
    step: Callable[[str], None] = lambda _: None
    bad: list[BadLine] = field(default_factory=list)
    """The lines that were not imported, whether or not the import was refused for them."""


async def import_contracts(dsn: str, password: str | None, job: FileImport) -> Imported:
    """Imports contracts with their history. Raises: ImportRefused, Unavailable."""
    with opened(job.path) as source:
        header = read_header(source.first_line(), HISTORY_COLUMNS)
        lines = Lines(header.columns, datetime.now(UTC), job.rejects_max, header.separator)
        connection = await connect(dsn, password=password)
        try:
            staged = _staged(job, source, lines)
            return await imports.import_contracts(connection, staged, dry_run=job.dry_run, is_whole=lambda: job.is_whole and not lines.bad)
        finally:
            job.bad.extend(lines.bad)
            await connection.close()


async def reconcile(
    dsn: str,
    password: str | None,
    job: FileImport,
    as_of: datetime | None,
    ends_max: ContractsMax | None = None,
    absent_max: ContractsMax | None = None,
) -> Reconciled:
    """Makes the registry's live contracts those of a snapshot that was true at `as_of`.

    `as_of` None means when the file was last written. That is refused where events are applied too: the file was true when billing began to
    write it, and a later `as_of` would undo events of the meantime.

    Raises: TooManyEnds, ImportRefused, Unavailable.
    """
    with opened(job.path) as source:
        is_said = as_of is not None
        as_of = as_of or source.written_at
        if as_of is None:
            raise ImportRefused("a pipe does not say when its snapshot was taken: give --as-of TIME")
        if as_of < EARLIEST:
            raise ImportRefused("--as-of lies before 1970: correct the year")
        if as_of > datetime.now(UTC) + CLOCK_SKEW_MAX:
            raise ImportRefused("--as-of lies in the future: a snapshot says what was")
        header = read_header(source.first_line(), SNAPSHOT_COLUMNS)
        lines = Lines(header.columns, as_of, job.rejects_max, header.separator)
        connection = await connect(dsn, password=password)
        try:
            if not is_said and await snapshots.is_fed(connection, as_of):
                raise ImportRefused(
                    f"the file was last written at {as_of.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}, but was true when billing began to write "
                    "it, and events of that day were applied, which it must not undo: give that time with --as-of"
                )
            snapshot = Snapshot(_staged(job, source, lines), as_of, lambda: lines.unread, lambda: len(lines.bad))
            return await snapshots.reconcile(
                connection, snapshot, ends_max=ends_max, absent_max=absent_max, dry_run=job.dry_run, progress=job.step
            )
        finally:
            job.bad.extend(lines.bad)
            await connection.close()


def _staged(job: FileImport, source: Source, lines: Lines) -> Staged:
    return Staged(lines.columns, _blocks(job, source, lines), lines.line_of)


async def _blocks(job: FileImport, source: Source, lines: Lines) -> AsyncIterator[bytes]:
    """The good lines, in blocks. The next block is read and checked while PostgreSQL takes in the one before. Raises: ImportRefused."""

    def read() -> bytes | None:
        block = source.block()
        return lines.take(block) if block else None

    ahead = asyncio.ensure_future(asyncio.to_thread(read))
    try:
        while (block := await ahead) is not None and not lines.is_hopeless:
            ahead = asyncio.ensure_future(asyncio.to_thread(read))
            yield block
            job.progress(source.position, lines.good)
    finally:
        # The file must not be closed while the thread reads it, also where the import was cancelled or refused.
        with suppress(Exception):
            await asyncio.shield(ahead)
    if not lines.is_hopeless:
        needs_count = source.is_pipe and (job.is_whole or lines.is_snapshot)
        lines.refuse_short(job.lines, is_cut=source.is_cut, needs_count=needs_count)
    lines.refuse_bad()
