"""Facts as JSON has them everywhere: names in camel case, times in RFC 3339 with milliseconds, durations in seconds under `…Seconds`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from registryd.domain.times import rfc3339


def camel(name: str) -> str:
    """`oldest_deadline_at` as `oldestDeadlineAt`."""
    return re.sub("_(.)", lambda after: after[1].upper(), name)


def wired(value: object) -> Any:
    """`value` as JSON has it. A row becomes an object; the names of a mapping are changed like a row's."""
    match value:
        case tuple() if hasattr(value, "_asdict"):
            return wired(value._asdict())
        case Mapping():
            return {_name(name, one): wired(one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [wired(one) for one in value]
        case datetime():
            return rfc3339(value)
        case timedelta():
            seconds = value.total_seconds()
            return int(seconds) if seconds.is_integer() else round(seconds, 3)
        case date():
            return value.isoformat()
        case bytes():
            return value.hex()
        case Enum():
            return value.value
        case UUID() | Decimal():
            return str(value)
        case _:
            return value


def _name(name: str, value: object) -> str:
    shown = camel(name)
    return f"{shown}Seconds" if isinstance(value, timedelta) and not shown.endswith("Seconds") else shown
