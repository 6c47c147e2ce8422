"""What is wrong with one line of a file of contracts, and a pattern that takes lines without a fault in bulk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime

from registryd.domain.contract import EARLIEST, END_REASONS, END_USERS, HOLDERS, STATUSES
from registryd.domain.files import one_of
from registryd.domain.identifiers import MSISDN, MSISDN_WANTED
from registryd.domain.testnumbers import COUNTRY_CODE
from registryd.domain.times import parse_file_time

LIVE_STATUSES = tuple(status for status in STATUSES if status != "ended")
RFC3339_WANTED = "an RFC 3339 time such as 2026-01-02T03:04:05Z"
_TRUNK_8 = re.compile("89[0-9]{9}", re.ASCII)
"""No country code begins with 89. A number in this form is a Russian one as it is dialled within Russia."""
_GENERATION = re.compile("[1-9][0-9]{0,3}+", re.ASCII)


def snapshot_fault(row: Mapping[str, str], latest: datetime) -> str | None:
    """The first thing wrong with a snapshot's line, in the order in which one would mend it. Nothing happened after `latest`."""
    if fault := msisdn_fault(row["msisdn"]):
        return fault
    if row["status"] not in LIVE_STATUSES:
        return f"status: {one_of(LIVE_STATUSES)}"
    return _holder_fault(row) or _time_fault(row, "started_at", latest, "lies after the snapshot was taken (--as-of)")


def history_fault(row: Mapping[str, str], latest: datetime) -> str | None:
    """The first thing wrong with a line of contracts with their history."""
    if fault := msisdn_fault(row["msisdn"]):
        return fault
    if _GENERATION.fullmatch(row["generation"]) is None:
        return "generation: 1 to 9999"
    if row["status"] not in STATUSES:
        return f"status: {one_of(STATUSES)}"
    return _holder_fault(row) or _time_fault(row, "started_at", latest) or _end_fault(row, latest)


def msisdn_fault(text: str) -> str | None:
    if _TRUNK_8.fullmatch(text):
        return "msisdn: begins with 8 for 7, as it is dialled within Russia: write the country code, 79…"
    if MSISDN.fullmatch(text) and text.startswith(COUNTRY_CODE):
        return f"msisdn: {COUNTRY_CODE} is the code of test numbers, under which nobody has a contract"
    return None if MSISDN.fullmatch(text) else f"msisdn: {MSISDN_WANTED}"


def _holder_fault(row: Mapping[str, str]) -> str | None:
    if row["holder"] not in HOLDERS:
        return f"holder: {one_of(HOLDERS)}"
    if row["end_user"] not in END_USERS:
        return f"end_user: {one_of(END_USERS)}"
    if (row["holder"] == "individual") != (row["end_user"] == "not_required"):
        return "end_user: not_required for an individual, and for nobody else"
    return None


def _end_fault(row: Mapping[str, str], latest: datetime) -> str | None:
    is_ended = row["status"] == "ended"
    for column in ("ended_at", "end_reason"):
        if is_ended != bool(row[column]):
            return f"{column}: given where status is ended, and only there"
    if not is_ended:
        return None
    if fault := _time_fault(row, "ended_at", latest):
        return fault
    ended_at = datetime.fromisoformat(row["ended_at"])
    if ended_at < EARLIEST:
        return "ended_at: lies before 1970"
    if ended_at < datetime.fromisoformat(row["started_at"]):
        return "ended_at: lies before started_at"
    return None if row["end_reason"] in END_REASONS else f"end_reason: {one_of(END_REASONS)}"


def _time_fault(row: Mapping[str, str], column: str, latest: datetime, late: str = "lies in the future") -> str | None:
    moment = parse_file_time(row[column])
    if moment is None:
        return f"{column}: {RFC3339_WANTED}"
    return f"{column}: {late}" if moment > latest else None


def plain_lines(columns: Sequence[str], today: date) -> re.Pattern[bytes]:
    """Takes any number of lines of live contracts that started before this month: nearly all lines, without arithmetic on times.

    Every quantifier is possessive: the pattern never goes back, so a block costs no memory and no more time than its length.
    """
    clock = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9}+)?+"
    values = {
        "msisdn": rf"(?!{_TRUNK_8.pattern}[,\n]|{COUNTRY_CODE}){MSISDN.pattern}",
        "generation": _GENERATION.pattern,
        "status": f"(?:{'|'.join(LIVE_STATUSES)})",
        "started_at": rf"(?:{_days_before_month(today)})[T ]{clock}(?:Z|\+(?:0[0-9]|1[0-5])(?::?+[0-5][0-9])?+)",
        "ended_at": "",
        "end_reason": "",
    }
    individuals = values | {"holder": "individual", "end_user": "not_required"}
    others = values | {"holder": "(?:sole_trader|organisation)", "end_user": "(?:un)?+registered"}
    line = "|".join(",".join(kind[column] for column in columns) for kind in (individuals, others))
    return re.compile(f"(?>(?:{line})\n)*+".encode())


def _days_before_month(today: date) -> str:
    """The days from 1900 to the end of the month before `today`. 29 February is left out: whether it is a day takes arithmetic."""
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
