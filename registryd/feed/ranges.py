"""Imports the operator's numbering capacity, from its own CSV or from the register that the regulator publishes (`register.py`).

Several files are one capacity. One operator's lines of the register replace what a register brought before and leave ranges made by hand;
the operator's own CSV is the whole capacity and replaces both. The capacity advises: it decides no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from registryd.domain.files import BAD_LINES_TOLD, ImportRefused
from registryd.domain.identifiers import MSISDN, MSISDN_WANTED, Msisdn
from registryd.domain.testnumbers import is_under_code
from registryd.feed import register, tables
from registryd.feed.register import Whose
from registryd.feed.tables import Table, columns_of, refused
from registryd.store import ranges as store
from registryd.store.migrations import connect
from registryd.store.ranges import Counted, Range

COLUMNS = ("first_msisdn", "last_msisdn", "region", "note")
NOBODY = Whose((), ())


class Imported(NamedTuple):
    """The ranges in order, what a person should know of how they were chosen, and what they mean for the live contracts and the numbers."""

    ranges: Sequence[Range]
    notes: Sequence[str]
    counted: Counted
    dropped: int


async def import_ranges(dsn: str, password: str | None, paths: Sequence[Path], whose: Whose, *, dry_run: bool = False) -> Imported:
    """Makes the files' ranges the numbering capacity, in one transaction. Raises: ImportRefused, SchemaMismatch, Unavailable."""
    found, notes = _read(paths, whose)
    ranges = sorted(found, key=lambda one: one.first)  # of two that begin alike, the one that was read first comes first
    if not ranges:
        raise ImportRefused(
            "the file has no ranges: importing it would leave every number unchecked; delete the ranges by SQL if that is wanted"
        )
    clashes = [
        f"{two.place}: overlaps the range of {one.place}: a number belongs to one range"
        for one, two in pairwise(ranges)
        if two.first <= one.last
    ]
    if clashes:
        raise ImportRefused("\n".join(clashes[:BAD_LINES_TOLD]))
    connection = await connect(dsn, password=password)
    try:
        origin: store.RangeSource = "hand" if whose == NOBODY else "register"
        return Imported(ranges, notes, *await store.replace(connection, ranges, origin, dry_run=dry_run))
    finally:
        await connection.close()


def _read(paths: Sequence[Path], whose: Whose) -> tuple[list[Range], list[str]]:
    """Raises: ImportRefused, which names the file where there are several."""
    rows: list[register.Row] = []
    ranges: list[Range] = []
    for path in paths:
        file = f"{path}: " if len(paths) > 1 else ""
        try:
            table = tables.read(path)
            header = next(table.rows)
            table = table._replace(rows=_again(header, table.rows))
            if register.is_header(header[1]):
                rows += register.rows_of(table, file)
            elif whose != NOBODY:
                raise ImportRefused("--operator and --inn are for the regulator's register; this file's header is not the register's")
            else:
                ranges += _own(table, file)
        except ImportRefused as error:
            raise ImportRefused(f"{file}{error}") from None
    if rows and ranges:
        raise ImportRefused("some files are of the regulator's register and others are lists of your own: import one kind")
    return register.ranges_of(rows, whose) if rows or whose != NOBODY else (ranges, [])


def _again(first: tuple[int, list[str]], rest: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _own(table: Table, file: str) -> Iterator[Range]:
    _, header = next(table.rows)
    place = columns_of([name.strip() for name in header], dict(zip(COLUMNS, COLUMNS, strict=True)))
    line = 1
    for line, cells in table.rows:
        if len(cells) <= max(place.values()):
            raise refused(line, "has fewer fields than the header")
        first, last, region, note = (cells[place[name]].strip() for name in COLUMNS)
        if not MSISDN.fullmatch(first) or not MSISDN.fullmatch(last):
            raise refused(line, f"first_msisdn and last_msisdn: {MSISDN_WANTED}")
        if int(last) < int(first):
            raise refused(line, "last_msisdn: not smaller than first_msisdn")
        if any(is_under_code(Msisdn(int(number))) for number in (first, last)):
            raise refused(line, "first_msisdn and last_msisdn: 999 is the code of test numbers, under which nobody has a number")
        yield Range(f"{file}line {line}", int(first), int(last), region, note)
    if table.is_cut and place["last_msisdn"] == max(place.values()):
        raise refused(line, "has no line end, so the file may have been cut within it: end it with one")
