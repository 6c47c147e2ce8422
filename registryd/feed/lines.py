"""Billing's files of contracts, checked line by line on their way to COPY.

One pattern takes a whole block of good lines at once, millions a second, so that the check costs nothing beside PostgreSQL's work. Where
the pattern stops, the next line is looked at on its own; it is bad only if `faults.py` can name what is wrong. What passes holds no quotes
and no carriage returns, so that COPY's text format splits it at its commas. No line is ever quoted in a message.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from registryd.domain.contract import CLOCK_SKEW_MAX
from registryd.domain.files import BAD_LINES_TOLD, BadLine, ImportRefused, told
from registryd.domain.identifiers import MSISDN
from registryd.feed.faults import history_fault, plain_lines, snapshot_fault

HISTORY_COLUMNS = ("msisdn", "generation", "status", "holder", "end_user", "started_at", "ended_at", "end_reason")
"""Contracts as the registry keeps them, ended ones too."""
SNAPSHOT_COLUMNS = ("msisdn", "holder", "end_user", "status", "started_at")
"""Live contracts as billing has them."""

FIELD_TOO_LONG = f"has a field of more than {csv.field_size_limit():,} characters: is a quote left open?"
BAD_LINES_MAX_MORE = 1_000
"""Bad lines beyond the tolerated number after which reading stops: the file is of another kind."""

SEPARATORS = (",", ";", "\t")
TRAILER = re.compile(r"# ?(?:lines ?[:=]? ?)?([0-9]{1,12}),*", re.ASCII)
"""A last line that tells how many there are before it, the header left out: `# lines: 1000`."""

_QUOTED = re.compile(rb'(?<![^,\n])"([^",\r\n]*)"(?=[,\r\n])')


class Header(NamedTuple):
    """The columns in the file's order, and what separates fields."""

    columns: list[str]
    separator: str


class Lines:
    """The lines of one file after its header. Nothing in it can have happened after `latest`."""

    def __init__(self, columns: Sequence[str], latest: datetime, rejects_max: int = 0, separator: str = ",") -> None:
        self.good = 0
        self.bad: list[BadLine] = []
        self.unread: list[int] = []
        """The numbers on bad lines. What billing says of their contracts is not known, so these are left as they are."""
        self.columns = columns
        self._separator = separator.encode()
        self._trailer: BadLine | None = None
        self._told_lines: int | None = None
        """How many lines there are by the trailer."""
        self._unreadable: list[BadLine] = []
        """Bad lines whose very number cannot be read."""
        self._latest = latest + CLOCK_SKEW_MAX
        self._rejects_max = rejects_max
        self._fault = history_fault if "generation" in columns else snapshot_fault
        self._plain = plain_lines(columns, latest.date())

    def take(self, block: bytes) -> bytes:
        """Removes the bad lines from a block of whole lines, and counts both kinds."""
        if self._separator != b",":
            block = block.replace(b",", b"\x1f").replace(self._separator, b",")  # a comma is then no part of any good field
        if b'"' in block:
            block = _QUOTED.sub(rb"\1", block)
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n")
        kept: list[bytes] = []
        start = position = 0
        while (stop := self._plain.match(block, position).end()) < len(block):  # type: ignore[union-attr] # it matches the empty string
            end = block.index(b"\n", stop)
            self.good += block.count(b"\n", position, stop)
            if self._is_bad(block[stop:end].decode("ascii", "replace")):
                kept.append(block[start:stop])
                start = end + 1
            else:
                self.good += 1
            position = end + 1
        self.good += block.count(b"\n", position)
        return b"".join((*kept, block[start:])) if kept or start else block

    def line_of(self, position: int) -> int:
        """Where a good line stands in the file. `position` counts the good lines from 1; the header is the file's line 1."""
        line = position + 1
        for bad in self.bad:
            line += bad.line <= line
        return line

    def _is_bad(self, text: str) -> bool:
        """Whether a line is to be left out: a bad one, or the trailer."""
        if trailer := TRAILER.fullmatch(text):
            self._trailer = BadLine(self.lines + 2, "tells how many lines there are, and more follow: it must be the last")
            self._told_lines = int(trailer[1])
            return True
        fields = text.split(",")
        row = dict(zip(self.columns, fields, strict=False))
        if len(fields) != len(self.columns):
            fault: str | None = f"does not have the header's {len(self.columns)} fields, or leaves a quote open"
        else:
            fault = self._fault(row, self._latest)
        if fault is None:
            return False
        self.bad.append(BadLine(self.lines + 2, fault))
        if len(fields) == len(self.columns) and MSISDN.fullmatch(row["msisdn"]):
            self.unread.append(int(row["msisdn"]))
        else:
            self._unreadable.append(self.bad[-1])
        return True

    @property
    def is_snapshot(self) -> bool:
        return "generation" not in self.columns

    @property
    def lines(self) -> int:
        """How many lines were read, the header and the trailer left out."""
        return self.good + len(self.bad)

    def refuse_short(self, lines: int | None, *, is_cut: bool, needs_count: bool) -> None:
        """Raises: ImportRefused, where the file is not known to be whole. `lines`: how many there must be, where a person said so."""
        if self._trailer is not None and self._trailer.line != self.lines + 2:
            raise ImportRefused(told([self._trailer]))
        for wanted in (lines, self._told_lines):
            if wanted is not None and wanted != self.lines:
                raise ImportRefused(
                    f"the file has {self.lines:,} lines after its header, and must have {wanted:,}: it was cut short, or another was "
                    "meant; nothing was changed"
                )
        if lines is None and self._told_lines is None:
            how = "say how many lines there must be after the header, --lines N, or end the file with a line `# lines: N`"
            if is_cut:
                raise ImportRefused(f"the last line has no line end, so the file may have been cut within it: {how}")
            if needs_count:
                raise ImportRefused(f"a pipe does not tell whether who wrote it came to the end: {how}, or import a file")

    @property
    def is_hopeless(self) -> bool:
        """Whether there are so many bad lines that reading on would tell nothing new."""
        return len(self.bad) > self._rejects_max + BAD_LINES_MAX_MORE

    def refuse_bad(self) -> None:
        """Raises: ImportRefused, where there are more bad lines than are tolerated, or a snapshot's line whose number cannot be read."""
        if len(self.bad) > self._rejects_max:
            more = len(self.bad) - BAD_LINES_TOLD
            raise ImportRefused(told(self.bad) + (f"\nand {more:,} more" if more > 0 else ""))
        if self._unreadable and self.is_snapshot:
            raise ImportRefused(
                f"{told(self._unreadable)}\na contract without a line in the snapshot is ended, so each line's number must be readable; "
                "--max-rejects is for other faults"
            )


def read_header(line: str, wanted: tuple[str, ...]) -> Header:
    """The columns, which must be exactly those wanted, and their separator. Raises: ImportRefused, which names the column."""
    if re.fullmatch('"?sep=."?', line):
        raise ImportRefused("line 1: is a word to Excel alone: remove it, the header is the first line")
    separator = max(SEPARATORS, key=line.count)
    found = split(line, separator)
    if isinstance(found, str):
        raise ImportRefused(told([BadLine(1, found)]))
    columns = [name.strip() for name in found]
    if sorted(columns) == sorted(wanted):
        return Header(columns, separator)
    missing = [f"{name} is missing" for name in wanted if name not in columns]
    twice = [f"{name} stands there twice" for name in wanted if columns.count(name) > 1]
    # Only what looks like a column's name is repeated: the file may have no header, and then this is a line of data.
    unknown = [f"{name} is unknown" for name in columns if name not in wanted and re.fullmatch("[a-z_]{1,30}", name)]
    what = "; ".join(missing + twice + unknown) or "it names others too"
    hint = "; is it a snapshot? then say --snapshot" if sorted(columns) == sorted(SNAPSHOT_COLUMNS) else ""
    raise ImportRefused(f"line 1: the header must name the columns {','.join(wanted)}: {what}{hint}")


def split(line: str, separator: str = ",") -> list[str] | str:
    """The fields of a line, or a text that says what is wrong with it."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        if "\r" in line:
            return "holds a carriage return that ends no line: write LF, or CR and LF, at the end of each line and nowhere else"
        return FIELD_TOO_LONG
