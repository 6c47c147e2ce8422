"""The base of all shapes, and their JSON: camelCase, times in RFC 3339 with milliseconds, durations as numbers of seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec
import orjson

from registryd.domain.errors import Refusal
from registryd.domain.times import rfc3339
from registryd.store import server
from registryd.store.pool import Database
from registryd.store.reading import LONGEST_S, Reading, reading

Time: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A view, or a part of one."""


class NothingThere(Refusal):
    """Nothing is known by that name."""


def builtins(shape: Shape) -> Any:
    """As JSON has it, in dicts and lists."""
    return orjson.loads(encode(shape))


def encode(shape: Shape) -> bytes:
    """A view as JSON."""
    plain = msgspec.to_builtins(shape, builtin_types=(datetime,))
    return orjson.dumps(plain, default=_written, option=orjson.OPT_PASSTHROUGH_DATETIME)


@asynccontextmanager
async def looking(db: Database, longest_s: float = LONGEST_S, settings: str = "") -> AsyncIterator[tuple[Reading, datetime]]:
    """One moment of the database, and when that is by its clock. Raises: Unavailable; TooLong."""
    async with reading(db, longest_s, settings) as moment:
        yield moment, await server.read_clock(moment.connection)


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    raise TypeError(type(value).__name__)
