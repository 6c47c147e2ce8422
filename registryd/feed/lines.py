"""Billing's lines, checked on their way to COPY.

One pattern takes a block of plainly good lines at once, millions a second, so that the check costs nothing beside PostgreSQL's work; a
line that it does not take is looked at on its own, and is bad only if something wrong with it can be named. Nothing of a line is ever
quoted. What passes is plain: no quotes, no carriage returns, so that COPY's text format splits it at its commas.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime

from registryd.domain.contract import CLOCK_SKEW_MAX
from registryd.store.imports import BAD_LINES_TOLD, BadLine, ImportRefused, told

HISTORY_COLUMNS = ("msisdn", "generation", "status", "holder", "end_user", "started_at", "ended_at", "end_reason")
"""Contracts as the registry keeps them, ended ones too."""
SNAPSHOT_COLUMNS = ("msisdn", "holder", "end_user", "status", "started_at")
"""Live contracts as billing has them."""

MSISDN = re.compile(r"[1-9][0-9]{4,14}")
FIELD_TOO_LONG = f"has a field of more than {csv.field_size_limit():,} characters: is a quote left open?"
BAD_LINES_MAX_MORE = 1_000
"""How far beyond the tolerated number bad lines are collected, to be told: a file of another kind is not read to its end."""

_TIME = re.compile(
    r"(?:19|2[0-9])[0-9]{2}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-](?:0[0-9]|1[0-5]):[0-5][0-9])"
)
_RFC3339 = "an RFC 3339 time such as 2026-01-02T03:04:05Z"
_QUOTED = re.compile(rb'(?<![^,\n])"([^",\r\n]*)"(?=[,\r\n])')


class Lines:
    """The lines of one file after its header. `latest` is the time after which nothing in it can have happened."""

    def __init__(self, columns: Sequence[str], latest: datetime, rejects_max: int = 0) -> None:
        self.good = 0
        self.bad: list[BadLine] = []
        self.unread: list[int] = []
        """The numbers of bad lines: what billing has of them is not known."""
        self.columns = columns
        self._unreadable: list[BadLine] = []
        self._latest = latest + CLOCK_SKEW_MAX
        self._rejects_max = rejects_max
        self._fault = _history_fault if "generation" in columns else _snapshot_fault
        self._plain = _plain_lines(columns, latest.date())

    def take(self, block: bytes) -> bytes:
        """A block of whole lines without the bad ones."""
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
        """The line in the file, header included, of the good line that was let through as number `position`, from 1."""
        line = position + 1
        for bad in self.bad:
            line += bad.line <= line
        return line

    def _is_bad(self, text: str) -> bool:
        fields = text.split(",")
        row = dict(zip(self.columns, fields, strict=False))
        if len(fields) != len(self.columns):
            fault: str | None = f"does not have the header's {len(self.columns)} fields, or leaves a quote open"
        else:
            fault = self._fault(row, self._latest)
        if fault is None:
            return False
        self.bad.append(BadLine(self.good + len(self.bad) + 2, fault))
        if len(fields) == len(self.columns) and MSISDN.fullmatch(row["msisdn"]):
            self.unread.append(int(row["msisdn"]))
        else:
            self._unreadable.append(self.bad[-1])
        return True

    @property
    def is_hopeless(self) -> bool:
        return len(self.bad) > self._rejects_max + BAD_LINES_MAX_MORE

    def refuse_bad(self) -> None:
        """Raises: ImportRefused, where there are more bad lines than are tolerated, or one that a snapshot cannot do without."""
        if len(self.bad) > self._rejects_max:
            more = len(self.bad) - BAD_LINES_TOLD
            raise ImportRefused(told(self.bad) + (f"\nand {more:,} more" if more > 0 else ""))
        if self._unreadable and "generation" not in self.columns:
            raise ImportRefused(
                f"{told(self._unreadable)}\na snapshot says what is gone by what it does not name, so each line's number must be readable: "
                "--max-rejects is for the others"
            )


def read_header(line: str, wanted: tuple[str, ...]) -> list[str]:
    """The columns that a header names, in its order: exactly those wanted. Raises: ImportRefused, naming the column."""
    found = split(line)
    if isinstance(found, str):
        raise ImportRefused(told([BadLine(1, found)]))
    columns = [name.strip() for name in found]
    if sorted(columns) == sorted(wanted):
        return columns
    missing = [f"{name} is missing" for name in wanted if name not in columns]
    twice = [f"{name} stands there twice" for name in wanted if columns.count(name) > 1]
    # What is no plausible name may be a line of data, and is not repeated.
    unknown = [f"{name} is unknown" for name in columns if name not in wanted and re.fullmatch("[a-z_]{1,30}", name)]
    what = "; ".join(missing + twice + unknown) or "there are others"
    hint = "; is it a snapshot? then say --snapshot" if sorted(columns) == sorted(SNAPSHOT_COLUMNS) else ""
    raise ImportRefused(f"line 1: the header must name the columns {','.join(wanted)}: {what}{hint}")


def split(line: str) -> list[str] | str:
    """A line's fields, or what is wrong with it."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        if "\r" in line:
            return "holds a carriage return that ends no line: write LF, or CR and LF, at the end of each line and nowhere else"
        return FIELD_TOO_LONG


def _snapshot_fault(row: Mapping[str, str], latest: datetime) -> str | None:
    """What is wanted of a line and not so, in the order in which one would mend it."""
    if MSISDN.fullmatch(row["msisdn"]) is None:
        return "msisdn: 5 to 15 digits without the plus, the first not 0"
    if row["status"] not in ("active", "suspended"):
        return "status: active or suspended"
    return _holder_fault(row) or _time_fault(row, "started_at", latest, "lies after the snapshot was taken (--as-of)")


def _history_fault(row: Mapping[str, str], latest: datetime) -> str | None:
    is_ended = row["status"] == "ended"
    if MSISDN.fullmatch(row["msisdn"]) is None:
        return "msisdn: 5 to 15 digits without the plus, the first not 0"
    if re.fullmatch(r"[1-9][0-9]{0,3}", row["generation"], re.ASCII) is None:
        return "generation: 1 to 9999"
    if row["status"] not in ("active", "suspended", "ended"):
        return "status: active, suspended or ended"
    fault = _holder_fault(row) or _time_fault(row, "started_at", latest)
    if fault is not None:
        return fault
    for column in ("ended_at", "end_reason"):
        if is_ended != bool(row[column]):
            return f"{column}: given where status is ended, and only there"
    if not is_ended:
        return None
    fault = _time_fault(row, "ended_at", latest)
    if fault is not None:
        return fault
    if datetime.fromisoformat(row["ended_at"]) < datetime.fromisoformat(row["started_at"]):
        return "ended_at: lies before started_at"
    return (
        None
        if row["end_reason"] in ("terminated", "ported_out", "holder_changed")
        else "end_reason: terminated, ported_out or holder_changed"
    )


def _holder_fault(row: Mapping[str, str]) -> str | None:
    if row["holder"] not in ("individual", "sole_trader", "organisation"):
        return "holder: individual, sole_trader or organisation"
    if row["end_user"] not in ("not_required", "registered", "unregistered"):
        return "end_user: not_required, registered or unregistered"
    if (row["holder"] == "individual") != (row["end_user"] == "not_required"):
        return "end_user: not_required for an individual, and for nobody else"
    return None


def _time_fault(row: Mapping[str, str], column: str, latest: datetime, late: str = "lies in the future") -> str | None:
    moment = parse_time(row[column])
    if moment is None:
        return f"{column}: {_RFC3339}"
    return f"{column}: {late}" if moment > latest else None


def parse_time(text: str) -> datetime | None:
    """An RFC 3339 time to the microsecond, of 1900 to 2999, as PostgreSQL takes it too."""
    if _TIME.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _plain_lines(columns: Sequence[str], today: date) -> re.Pattern[bytes]:
    """Any number of lines of live contracts that started before this month: nearly all, without arithmetic on times.

    Every quantifier is possessive: the pattern never goes back, so it takes no memory and no time but the line's.
    """
    clock = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6}+)?+"
    values = {
        "msisdn": "[1-9][0-9]{4,14}+",
        "generation": "[1-9][0-9]{0,3}+",
        "status": "(?:active|suspended)",
        "started_at": rf"(?:{_days_before_month(today)})T{clock}(?:Z|\+(?:0[0-9]|1[0-5]):[0-5][0-9])",
        "ended_at": "",
        "end_reason": "",
    }
    individuals = values | {"holder": "individual", "end_user": "not_required"}
    others = values | {"holder": "(?:sole_trader|organisation)", "end_user": "(?:un)?+registered"}
    line = "|".join(",".join(kind[column] for column in columns) for kind in (individuals, others))
    return re.compile(f"(?>(?:{line})\n)*+".encode())


def _days_before_month(today: date) -> str:
    """The days of 1900 to the end of the month before `today`, but 29 February, which takes arithmetic."""
    year = f"{today.year:04}"
    every = [f"{month:02}" for month in range(1, 13)]
    tens = f"{year[:2]}[0-{int(year[2]) - 1}][0-9]|" if year[2] != "0" else ""
    ones = f"{year[:3]}[0-{int(year[3]) - 1}]|" if year[3] != "0" else ""
    days = f"(?:{tens}{ones}19[0-9][0-9])-(?:{_days(every)})"
    return days if today.month == 1 else f"{days}|{year}-(?:{_days(every[: today.month - 1])})"


def _days(months: Sequence[str]) -> str:
    short = [month for month in months if month in ("04", "06", "09", "11")]
    long = [month for month in months if month not in ("02", *short)]
    days = [(months, "0[1-9]|1[0-9]|2[0-8]"), (short + long, "29|30"), (long, "31")]
    return "|".join(f"(?:{'|'.join(which)})-(?:{day})" for which, day in days if which)
