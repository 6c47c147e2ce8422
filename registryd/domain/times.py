"""Times on the wire: RFC 3339. In files also as PostgreSQL writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import orjson

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})", re.ASCII)

FILE_TIME = re.compile(
    r"(?:19|2[0-9])[0-9]{2}-[0-9]{2}-[0-9]{2}[T ](?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)"
)
"""RFC 3339, or as psql writes a timestamptz: 2026-03-02 12:14:00.25+00. PostgreSQL reads the text itself, and takes all of this."""


def rfc3339(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, truncated: `2026-01-02T03:04:05.678Z`."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    # orjson takes a third of isoformat's time. It writes quotes, and a fraction unless that is zero.
    text = orjson.dumps(at).decode()
    return text[1:24] + "Z" if at.microsecond else text[1:20] + ".000Z"


def parse_file_time(text: str) -> datetime | None:
    """The time of a file's field in UTC, to the microsecond; None where the text is not one."""
    if FILE_TIME.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_rfc3339(text: str) -> datetime | None:
    """The time in UTC, to the microsecond; None where the text is not RFC 3339 or leads out of the calendar."""
    if _RFC3339.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # an offset may lead out of the calendar
        return None


def seconds_until(retry_after: str, now: datetime) -> float | None:
    """The wait in a `Retry-After` header, which holds seconds or a date (RFC 9110 10.2.3); None where it holds neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after) if len(retry_after) <= 9 else None
    try:
        return max((parsedate_to_datetime(retry_after) - now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):  # no date, one without a zone, one beyond the calendar
        return None
