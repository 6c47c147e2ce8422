"""The law as dated data. Rows of registry.policy are read and added, never changed, so they are their own history."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import orjson

from registryd.domain.errors import Refusal
from registryd.store.pool import Connection, fetch, first
from registryd.store.queries import Query


class PolicyRefused(Refusal):
    """The policy was not added; the message says why."""


class Columns(NamedTuple):
    columns: str


class Column(NamedTuple):
    name: str


class Change(NamedTuple):
    """The row that was added, and the one it follows. Each maps columns to values as PostgreSQL writes them in JSON."""

    before: dict[str, Any]
    after: dict[str, Any]


READ_POLICIES = Query("policy", "read_policies", Columns)
CHANGE_POLICY = Query("policy", "change_policy", Columns, str, datetime, str)
INTERVAL_COLUMNS = Query("policy", "interval_columns", Column)


async def read(connection: Connection) -> list[dict[str, Any]]:
    """Every policy, the oldest first, with `superseded_at` and `in_force`."""
    return [orjson.loads(row.columns) for row in await fetch(connection, READ_POLICIES)]


async def change(connection: Connection, changes: Mapping[str, str | None], since: datetime | None, note: str, *, dry_run: bool) -> Change:
    """Adds a policy in force from `since` (None: now) that changes these columns (None: NULL) and repeats the rest. A dry run undoes it.

    Raises: PolicyRefused.
    """
    for column in await fetch(connection, INTERVAL_COLUMNS):
        if _lacks_unit(changes.get(column.name) or ""):
            raise PolicyRefused(f"{column.name}: an interval says its unit, as in '12 hours' or '12:00:00'")
    transaction = connection.transaction()
    await transaction.start()
    try:
        added = await first(connection, CHANGE_POLICY, orjson.dumps(dict(changes)).decode(), since, note)
        if added is None:
            raise PolicyRefused("no policy is in force then, so there is none to change")
        rows = await read(connection)
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.UndefinedColumnError) as error:
        await transaction.rollback()
        raise PolicyRefused(_explain(error)) from None
    except BaseException:
        await transaction.rollback()
        raise
    await (transaction.rollback() if dry_run else transaction.commit())
    effective_from = orjson.loads(added.columns)["effective_from"]
    place = next(place for place, row in enumerate(rows) if row["effective_from"] == effective_from)
    return Change(rows[place - 1], rows[place])


def _lacks_unit(interval: str) -> bool:
    """Whether a number other than 0 has no unit after it, in an interval or an array of intervals."""
    return any(number.strip("+-0.") for number in re.findall(r'(?<![^\s{,"])([+-]?[0-9.]+)(?![\w.:-]|\s*[A-Za-z])', interval))


def _explain(error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.UniqueViolationError):
        return "a policy begins at that very time already; one that is planned may be deleted (sql/README.md)"
    hint = getattr(error, "hint", None)
    return f"{error.args[0]}. {hint}" if hint else str(error.args[0])
