"""Times on the wire and in files: RFC 3339."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import orjson

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})", re.ASCII)


def rfc3339(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, truncated: `2026-01-02T03:04:05.678Z`."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    # orjson takes a third of isoformat's time. It writes quotes, and a fraction unless that is zero.
    text = orjson.dumps(at).decode()
    return text[1:24] + "Z" if at.microsecond else text[1:20] + ".000Z"


def parse_rfc3339(text: str) -> datetime | None:
    """The time in UTC, to the microsecond; None where the text is not RFC 3339 or leads out of the calendar."""
    if _RFC3339.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # an offset may lead out of the calendar
        return None
