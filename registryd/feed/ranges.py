"""Imports the operator's numbering capacity, from its own CSV or from the register that the regulator publishes.

The register of the Russian numbering plan has a line for each range of every operator: АВС/ DEF;От;До;Емкость;Оператор;Регион;ИНН. It
comes in UTF-8 or windows-1251, in some editions with further columns. One operator's lines replace what a register brought before and leave
ranges made by hand; the operator's own CSV is the whole capacity and replaces both.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from registryd.domain.files import BadLine, ImportRefused, told
from registryd.domain.identifiers import MSISDN, MSISDN_WANTED
from registryd.feed.lines import FIELD_TOO_LONG
from registryd.store import ranges as store
from registryd.store.migrations import connect
from registryd.store.ranges import Counted, Range

COLUMNS = ("first_msisdn", "last_msisdn", "region", "note")
CODE, FIRST, LAST, CAPACITY, OPERATOR, REGION, INN = PUBLISHED = ("АВС/DEF", "От", "До", "Емкость", "Оператор", "Регион", "ИНН")
COUNTRY_CODE = "7"
NATIONAL_DIGITS = 10
FILE_MAX_BYTES = 256 << 20
_LOOKALIKES = str.maketrans("ABCEHKMOPTX", "АВСЕНКМОРТХ")  # published headers mix the alphabets


class Whose(NamedTuple):
    """Selects an operator's lines of the register, by name, by taxpayer number, or by both."""

    operator: str | None = None
    inn: str | None = None


NOBODY = Whose()


async def import_ranges(
    dsn: str, password: str | None, path: Path, whose: Whose, *, absent_max: Callable[[int], int], dry_run: bool = False
) -> tuple[Sequence[Range], Counted]:
    """Makes a file's ranges the numbering capacity, in one transaction. Returns them in order, and what they do to the live contracts.

    Raises: TooManyAbsent, ImportRefused, SchemaMismatch, Unavailable.
    """
    ranges = sorted(_read(path, whose), key=lambda found: found.first)
    if not ranges:
        raise ImportRefused(
            "the file has no ranges: importing it would leave every number unchecked; delete the ranges by SQL if that is wanted"
        )
    clashes = [
        BadLine(max(one.line, two.line), f"overlaps the range of line {min(one.line, two.line)}: a number belongs to one range")
        for one, two in pairwise(ranges)
        if two.first <= one.last
    ]
    if clashes:
        raise ImportRefused(told(sorted(clashes)))
    connection = await connect(dsn, password=password)
    try:
        origin: store.RangeSource = "hand" if whose == NOBODY else "register"
        return ranges, await store.replace(connection, ranges, origin, absent_max=absent_max, dry_run=dry_run)
    finally:
        await connection.close()


def _read(path: Path, whose: Whose) -> list[Range]:
    if path.stat().st_size > FILE_MAX_BYTES:
        raise ImportRefused(f"the file is larger than {FILE_MAX_BYTES >> 20} MiB: the whole register has a tenth of that")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("windows-1251", "replace")
    header = text.partition("\n")[0]
    rows = _rows(text, ";" if header.count(";") > header.count(",") else ",")
    names = [name.strip() for name in next(rows, [])]
    published = [re.sub(r"\s", "", name).translate(_LOOKALIKES) for name in names]
    if CODE.translate(_LOOKALIKES) in published:
        return list(_published(_columns(published, PUBLISHED), rows, whose))
    if whose != NOBODY:
        raise ImportRefused("--operator and --inn are for the regulator's register; this file's header is not the register's")
    return list(_own(_columns(names, COLUMNS), rows))


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """Raises: ImportRefused."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from reader
    except csv.Error:
        raise _bad(reader.line_num, FIELD_TOO_LONG) from None


def _columns(names: list[str], wanted: tuple[str, ...]) -> dict[str, int]:
    """The position of each wanted column. Raises: ImportRefused."""
    keys = {name: name if name in names else name.translate(_LOOKALIKES) for name in wanted}
    missing = [name for name, key in keys.items() if key not in names]
    if missing:
        raise ImportRefused(f"line 1: the header must name the columns {', '.join(wanted)}: {', '.join(missing)} is missing")
    return {name: names.index(key) for name, key in keys.items()}


def _own(place: dict[str, int], rows: Iterator[list[str]]) -> Iterator[Range]:
    for line, row in _filled(place, rows):
        first, last = row["first_msisdn"], row["last_msisdn"]
        if not MSISDN.fullmatch(first) or not MSISDN.fullmatch(last):
            raise _bad(line, f"first_msisdn and last_msisdn: {MSISDN_WANTED}")
        if int(last) < int(first):
            raise _bad(line, "last_msisdn: not smaller than first_msisdn")
        yield Range(line, int(first), int(last), row["region"], row["note"])


def _published(place: dict[str, int], rows: Iterator[list[str]], whose: Whose) -> Iterator[Range]:
    if whose == NOBODY:
        raise ImportRefused("the register has every operator's ranges: say whose with --inn 7740000076 or --operator 'ПАО \"МТС\"'")
    wanted = _name(whose.operator or "")
    operators: set[str] = set()
    found = 0
    for line, row in _filled(place, rows):
        operators.add(row[OPERATOR])
        if (whose.inn and row[INN] != whose.inn) or (whose.operator and _name(row[OPERATOR]) != wanted):
            continue
        # A national number has ten digits. Some editions lost the leading zeros of От and До, so they are put back below.
        width = NATIONAL_DIGITS - len(row[CODE])
        if not re.fullmatch("[1-9][0-9]{2,4}", row[CODE]) or not all(
            re.fullmatch(f"[0-9]{{1,{width}}}", row[end]) for end in (FIRST, LAST)
        ):
            raise _bad(line, f"{CODE}, {FIRST}, {LAST}: a code of 3 to 5 digits and two numbers that fill it up to {NATIONAL_DIGITS}")
        first, last = (int(f"{COUNTRY_CODE}{row[CODE]}{row[end]:0>{width}}") for end in (FIRST, LAST))
        if last < first or row[CAPACITY] != str(last - first + 1):
            raise _bad(line, f"{CAPACITY}: is not how many numbers {FIRST} to {LAST} holds; the file is damaged, fetch it again")
        found += 1
        yield Range(line, first, last, row[REGION], f"{row[OPERATOR]}, ИНН {row[INN]}")
    if not found:
        near = [name for name in sorted(operators) if wanted and wanted in _name(name)] or difflib.get_close_matches(
            whose.operator or "", operators, 5, 0.4
        )
        hint = f"; there are: {'; '.join(near[:5])}" if near else ""
        raise ImportRefused(f"no line of the register is of {whose.operator or f'ИНН {whose.inn}'}{hint}")


def _filled(place: dict[str, int], rows: Iterator[list[str]]) -> Iterator[tuple[int, dict[str, str]]]:
    for line, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) <= max(place.values()):
            raise _bad(line, "has fewer fields than the header")
        yield line, {name: row[index].strip() for name, index in place.items()}


def _name(operator: str) -> str:
    """An operator's name in the form that is compared: without what differs between editions, which is case, quotes and spaces."""
    return re.sub(r"[\s\"«»„“”']+", " ", operator).strip().casefold()


def _bad(line: int, reason: str) -> ImportRefused:
    return ImportRefused(told([BadLine(line, reason)]))
