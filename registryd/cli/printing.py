"""How commands show records: tables for people, plain columns in pipes.

A terminal gets a table, in which long texts go over several lines, or a block for each record where it is too narrow for that. A pipe gets
plain columns: one line a record, nothing cut, no colour. No value is shown as Python writes it: see `words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum

import click
import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

NOTHING = "-"
GAP = "  "
WHOLE_MAX = 28
"""What is no wider than this is not broken into lines."""

_INTERVAL = re.compile(r"(?:(-?\d+) years? ?)?(?:(-?\d+) mons? ?)?(?:(-?\d+) days? ?)?(?:(-?)(\d+):(\d\d):(\d\d(?:\.\d+)?))?", re.ASCII)
_UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Table:
    """Records of the same columns. `add` takes values as they are: None, times, durations, lists."""

    def __init__(self, *columns: str, title: str = "") -> None:
        self.columns, self.title = columns, title
        self.rows: list[tuple[object, ...]] = []
        self.styles: list[str] = []

    def add(self, *values: object, style: str = "") -> None:
        assert len(values) == len(self.columns), self.columns
        self.rows.append(values)
        self.styles.append(style)


class Record:
    """One record, a line for each fact."""

    def __init__(self, facts: Mapping[str, object], title: str = "") -> None:
        self.facts, self.title = facts, title


Shown = str | Text | Table | Record


def show(console: Console, parts: Iterable[Shown]) -> None:
    """Shows the parts one below the other, with an empty line around tables and records."""
    before: Shown | None = None
    for part in parts:
        if before is not None and not (isinstance(part, str | Text) and isinstance(before, str | Text)):
            _write(console, [("", "")])
        match part:
            case Table():
                _table(console, part)
            case Record():
                _write(console, [*_title(part.title), *_block(console, part.facts.items(), "")])
            case _:
                console.print(part, markup=False, soft_wrap=True)
        before = part


def words(value: object, *, grouped: bool = True) -> str:
    """A value as people read it. `grouped`: 1,234 instead of 1234, which a program would not take for a number."""
    match value:
        case None | "" | [] | ():
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if grouped else str(value)
        case float():
            return f"{value:,.4g}" if grouped and abs(value) < 1_000 else f"{value:.10g}"
        case datetime():
            return "for ever" if value.year == MAXYEAR else "since ever" if value.year == MINYEAR else f"{value.astimezone(UTC):%F %T}Z"
        case date():
            return value.isoformat()
        case timedelta():
            return duration(value)
        case bytes():
            return value.hex()
        case Enum():
            return str(value.value)
        case list() | tuple() | set() | frozenset():
            return ", ".join(words(one, grouped=grouped) for one in value)
        case _:
            return _UNSHOWABLE.sub(lambda found: repr(found[0])[1:-1], str(value))


def duration(span: timedelta) -> str:
    """`1 d 2 h 3 min 4 s`, with a minus where it is over; below a second in milliseconds."""
    seconds = abs(span.total_seconds())
    if 0 < seconds < 1:
        text = f"{seconds * 1_000:.0f} ms"
    else:
        days, rest = divmod(round(seconds), 86_400)
        parts = ((days, "d"), (rest // 3_600, "h"), (rest // 60 % 60, "min"), (rest % 60, "s"))
        text = " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
    return f"-{text}" if span < timedelta(0) else text


def interval(text: str) -> str:
    """The same of an interval as PostgreSQL writes it: `3 years`, `1 day 02:00:00`. Years and months have no length in seconds and stay."""
    found = _INTERVAL.fullmatch(text)
    if found is None or not text:
        return text
    years, months, days, sign, hours, minutes, seconds = found.groups()
    calendar = [f"{number} {unit}{'' if abs(int(number)) == 1 else 's'}" for number, unit in ((years, "year"), (months, "month")) if number]
    clock = timedelta(hours=int(hours or 0), minutes=int(minutes or 0), seconds=float(seconds or 0))
    span = timedelta(days=int(days or 0)) + (-clock if sign else clock)
    return " ".join([*calendar, *([duration(span)] if span or not calendar else [])])


def _table(console: Console, table: Table) -> None:
    is_terminal = _is_terminal(console)
    shown = [[words(value, grouped=is_terminal) for value in row] for row in table.rows]
    columns = list(zip(table.columns, *shown, strict=True))
    right = [_are_numbers([row[place] for row in table.rows]) for place in range(len(columns))]
    if is_terminal:
        least = [max(_least(cell) for cell in column) for column in columns]
        _write(console, _title(table.title))
        if sum(least) + len(GAP) * (len(least) - 1) <= console.width:
            console.print(_grid(table, shown, least, right))
        else:
            _write(console, _blocks(console, table))
        return
    widths = [max(map(cell_len, column)) for column in columns]
    _write(console, [*_title(table.title), *((_aligned(row, widths, right), "") for row in (table.columns, *shown))])


def _grid(table: Table, shown: list[list[str]], least: Sequence[int], right: Sequence[bool]) -> rich.table.Table:
    grid = rich.table.Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    for name, width, is_right in zip(table.columns, least, right, strict=True):
        grid.add_column(Text(name), min_width=width, justify="right" if is_right else "left", overflow="fold")
    for row, style in zip(shown, table.styles, strict=True):
        grid.add_row(*map(Text, row), style=style)
    return grid


def _blocks(console: Console, table: Table) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for row, style in zip(table.rows, table.styles, strict=True):
        lines += [("", "")] if lines else []
        lines += _block(console, zip(table.columns, row, strict=True), style)
    return lines or [("none", "")]


def _least(cell: str) -> int:
    """How narrow a cell may become: its words stay whole, and what is short stays on one line."""
    return max(min(cell_len(cell), WHOLE_MAX), *map(cell_len, cell.split(" ")))


def _title(title: str) -> list[tuple[str, str]]:
    return [(f"{title}:", "bold")] if title else []


def _block(console: Console, facts: Iterable[tuple[str, object]], style: str) -> list[tuple[str, str]]:
    shown = [(label, words(value, grouped=_is_terminal(console))) for label, value in facts]
    width = max((cell_len(label) for label, _ in shown), default=0)
    return [(f"{_padded(label, width)}{GAP}{value}", style) for label, value in shown]


def _aligned(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (_padded(cell, width, right=is_right) for cell, width, is_right in zip(cells, widths, right, strict=True))
    return GAP.join(padded).rstrip(" ")


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _are_numbers(values: Sequence[object]) -> bool:
    there = [value for value in values if value is not None]
    return bool(there) and all(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in there)


def _is_terminal(console: Console) -> bool:
    return console.file.isatty()  # and not what FORCE_COLOR makes of it: colours are no reason to cut lines


def _write(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    if not _is_terminal(console):
        click.echo("\n".join(line for line, _ in lines), file=console.file)
        return
    for line, style in lines:
        console.print(Text(line, style), soft_wrap=True)
