"""Bulk files from billing: contracts and numbering ranges, as CSV.

The header names the columns, in any order. Interrupted at any point, an import has changed nothing.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from registryd.store import imports
from registryd.store.imports import COLUMNS, Imported, ImportRefused
from registryd.store.pool import connect

CHUNK_BYTES = 1 << 20
RANGE_COLUMNS = ("first_msisdn", "last_msisdn", "region", "note")


async def import_contracts(
    dsn: str, password: str | None, path: Path, *, dry_run: bool = False, progress: Callable[[int], None] = lambda _: None
) -> Imported:
    """Imports a file of contracts; `progress(n)` after each n bytes sent. Raises: ImportRefused, Unavailable."""
    with path.open("rb") as file:
        header = file.readline()
        columns = _header(header, COLUMNS)
        progress(len(header))

        async def chunks() -> AsyncIterator[bytes]:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                progress(len(chunk))

        connection = await connect(dsn, password=password)
        try:
            return await imports.import_contracts(connection, columns, chunks(), dry_run=dry_run)
        finally:
            await connection.close()


async def import_ranges(dsn: str, password: str | None, path: Path) -> int:
    """Makes a file of ranges the operator's whole numbering capacity; returns how many there are. Raises: ImportRefused, Unavailable."""
    rows: list[tuple[int, int, str, str]] = []
    with path.open(encoding="utf-8", newline="") as file:
        columns = _header(file.readline().encode(), RANGE_COLUMNS)
        for number, line in enumerate(csv.DictReader(file, columns), 2):
            first, last = line["first_msisdn"] or "", line["last_msisdn"] or ""
            if not re.fullmatch(r"[1-9][0-9]{4,14}", first, re.ASCII) or not re.fullmatch(r"[1-9][0-9]{4,14}", last, re.ASCII):
                raise ImportRefused(f"line {number}: first_msisdn and last_msisdn: 5 to 15 digits without the plus")
            rows.append((int(first), int(last), line["region"] or "", line["note"] or ""))
    if not rows:
        raise ImportRefused(
            "the file has no ranges: importing it would leave every number unchecked; delete the ranges by SQL if that is wanted"
        )
    connection = await connect(dsn, password=password)
    try:
        await imports.replace_ranges(connection, rows)
    finally:
        await connection.close()
    return len(rows)


def _header(line: bytes, wanted: tuple[str, ...]) -> list[str]:
    try:
        names = next(csv.reader(io.StringIO(line.decode("utf-8-sig"))), [])
    except UnicodeDecodeError:
        names = []
    columns = [name.strip() for name in names]
    if sorted(columns) != sorted(wanted):
        raise ImportRefused(f"line 1: the header must name the columns {','.join(wanted)}")
    return columns
