"""Reads the register of the Russian numbering plan, which the regulator publishes, and takes one operator's lines of it.

It has a line for each range of every operator: АВС/ DEF;От;До;Емкость;Оператор;Регион;ИНН. It comes in four files, in UTF-8 or
windows-1251, in some editions with further columns, in older ones without ИНН. An operator may stand there under several names of one
taxpayer number (ИНН), and under several numbers.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from registryd.domain.files import ImportRefused
from registryd.feed.tables import Table, columns_of, refused
from registryd.store.ranges import Range

CODE, FIRST, LAST, CAPACITY, OPERATOR, REGION, INN = PUBLISHED = ("АВС/DEF", "От", "До", "Емкость", "Оператор", "Регион", "ИНН")
OLDER = PUBLISHED[:-1]
COUNTRY_CODE = "7"
NATIONAL_DIGITS = 10
INN_DIGITS = (10, 12)
_LOOKALIKES = str.maketrans("ABCEHKMOPTX", "АВСЕНКМОРТХ")  # published headers mix the alphabets
_CODE = CODE.translate(_LOOKALIKES)


class Whose(NamedTuple):
    """Selects an operator's lines of the register, by names, by taxpayer numbers, or by both. A name leads to its taxpayer number."""

    operators: Sequence[str] = ()
    inns: Sequence[str] = ()


class Row(NamedTuple):
    """A line of the register. `inn` is empty in an older edition."""

    place: str
    code: str
    first: str
    last: str
    capacity: str
    operator: str
    region: str
    inn: str


def is_header(names: Sequence[str]) -> bool:
    return _CODE in map(_heading, names)


def rows_of(table: Table, file: str) -> Iterator[Row]:
    """The lines of one file. Where files were joined, the next one's header stands among them. `file` begins each line's place.

    Raises: ImportRefused.
    """
    place: dict[str, int] = {}
    cells: list[str] = []
    line = 1
    for line, cells in table.rows:
        if line == 1 or (not cells[0].strip().isdigit() and is_header(cells)):
            names = [_heading(name) for name in cells]
            wanted = PUBLISHED if INN in names else OLDER
            place = columns_of(names, {name: name.translate(_LOOKALIKES) if name == CODE else name for name in wanted})
            continue
        if len(cells) <= max(place.values()):
            raise refused(line, "has fewer fields than the header")
        # Names, regions and codes repeat: half a million lines would hold as many copies.
        yield Row(f"{file}line {line}", *(sys.intern(cells[place[name]].strip()) if name in place else "" for name in PUBLISHED))
    if table.is_cut and INN in place and len(cells[place[INN]].strip()) not in INN_DIGITS:
        raise refused(line, f"{INN}: has neither {INN_DIGITS[0]} nor {INN_DIGITS[1]} digits, and no line end: the file was cut short")


def ranges_of(rows: Sequence[Row], whose: Whose) -> tuple[list[Range], list[str]]:
    """The operator's ranges, and what a person should know of how they were chosen. Raises: ImportRefused."""
    if not whose.operators and not whose.inns:
        raise ImportRefused("the register has every operator's ranges: say whose with --inn 7740000076 or --operator 'ПАО \"МТС\"'")
    if whose.inns and not any(row.inn for row in rows):
        raise ImportRefused("this edition of the register has no ИНН: say whose ranges are meant with --operator and its name")
    asked = {_name(operator) for operator in whose.operators}
    inns = {*whose.inns, *(row.inn for row in rows if row.inn and _name(row.operator) in asked)}
    # Lines of an older edition have a name alone. It means who has that name in a newer one.
    names = asked | {_name(row.operator) for row in rows if row.inn in inns}
    taken = [row for row in rows if (row.inn in inns if row.inn else _name(row.operator) in names)]
    for operator in whose.operators:
        if _name(operator) not in {_name(row.operator) for row in taken}:
            raise ImportRefused(f"no line of the register is of {operator}{_near(operator, rows)}")
    for inn in whose.inns:
        if inn not in {row.inn for row in taken}:
            raise ImportRefused(f"no line of the register is of ИНН {inn}")
    return [_range(row) for row in taken], _notes(taken)


def _notes(taken: Sequence[Row]) -> list[str]:
    ranges = Counter((row.inn, row.operator) for row in taken)
    notes = []
    for inn in sorted({inn for inn, _ in ranges if inn}):
        named = [f"{name} ({count:,} ranges)" for (its, name), count in ranges.most_common() if its == inn]
        if len({_name(name) for its, name in ranges if its == inn}) > 1:
            notes.append(f"ИНН {inn} stands in the register under several names, and all of them are taken: {'; '.join(named)}")
    return notes


def _near(operator: str, rows: Sequence[Row]) -> str:
    operators = sorted({row.operator for row in rows})
    near = [name for name in operators if _name(operator) in _name(name)] or difflib.get_close_matches(operator, operators, 5, 0.4)
    return f"; there are: {'; '.join(near[:5])}" if near else ""


def _range(row: Row) -> Range:
    """Raises: ImportRefused."""
    # A national number has ten digits. Some editions lost the leading zeros of От and До, so they are put back below.
    width = NATIONAL_DIGITS - len(row.code)
    if not re.fullmatch("[1-9][0-9]{2,4}", row.code) or not all(re.fullmatch(f"[0-9]{{1,{width}}}", end) for end in (row.first, row.last)):
        raise ImportRefused(
            f"{row.place}: {CODE}, {FIRST}, {LAST}: a code of 3 to 5 digits and two numbers that fill it up to {NATIONAL_DIGITS}"
        )
    first, last = (int(f"{COUNTRY_CODE}{row.code}{end:0>{width}}") for end in (row.first, row.last))
    if last < first or row.capacity != str(last - first + 1):
        raise ImportRefused(
            f"{row.place}: {CAPACITY}: is not how many numbers {FIRST} to {LAST} holds; the file is damaged, fetch it again"
        )
    return Range(row.place, first, last, row.region, row.operator + (f", ИНН {row.inn}" if row.inn else ""))


def _heading(name: str) -> str:
    """A heading as it is compared: without blanks, and in Cyrillic letters where it is the first one."""
    plain = re.sub(r"\s", "", name)
    turned = plain.translate(_LOOKALIKES)
    return turned if turned == _CODE else plain if plain in PUBLISHED else turned


@cache
def _name(operator: str) -> str:
    """An operator's name in the form that is compared: without what differs between editions, which is case, quotes and spaces."""
    return re.sub(r"[\s\"«»„“”']+", " ", operator).strip().casefold()
