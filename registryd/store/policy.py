"""The law as dated data. Rows of registry.policy are read and added, never changed, so they are their own history."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import orjson

from registryd.domain.errors import Refusal
from registryd.domain.names import nearest
from registryd.store import bounds
from registryd.store.bounds import ContractsMax
from registryd.store.pool import Connection, Database, fetch, first
from registryd.store.queries import Query


class PolicyRefused(Refusal):
    """The policy was not added; the message says why."""


class NoSuchColumn(PolicyRefused):
    """The policy has no column of that name."""


class Columns(NamedTuple):
    columns: str


class Column(NamedTuple):
    name: str


class Turned(NamedTuple):
    """How many live contracts a change of the rule turns absent, and how many present."""

    absent: int
    present: int


class Law(NamedTuple):
    organisation_rule: str
    suspended_is_present: bool
    is_chosen: bool
    """Whether anybody but the first migration has written a policy."""
    lapses_at: datetime | None
    """When the law lapses without a successor that is planned by then; None: no such date is known."""
    lapses_s: float | None
    """The seconds until then, by the database's clock."""
    answer_within: timedelta
    notice_within: timedelta
    effective_from: datetime
    note: str
    next_from: datetime | None
    """When the next policy begins that is planned."""
    keeps_less_from: datetime | None
    """When the first one begins that is planned for the next two days and keeps something for less time."""


class Change(NamedTuple):
    """The row that was added, and the one it follows. Each maps columns to values as PostgreSQL writes them in JSON."""

    before: dict[str, Any]
    after: dict[str, Any]
    turned: Turned
    allowed: int
    """How many live contracts may turn absent now."""


LAPSES_SOON_S = 180 * 86_400.0
"""From then on people are warned: a decree takes its time."""

RULE = ("organisation_rule", "suspended_is_present")
"""The columns that decide who is present."""


READ_POLICIES = Query("policy", "read_policies", Columns)
CHANGE_POLICY = Query("policy", "change_policy", Columns, str, datetime, str)
COUNT_TURNED = Query("policy", "count_turned", Turned, str, bool, str, bool)
READ_LAW = Query("policy", "read_law", Law)
INTERVAL_COLUMNS = Query("policy", "interval_columns", Column)


async def read(connection: Connection) -> list[dict[str, Any]]:
    """Every policy, the oldest first, with `superseded_at` and `in_force`."""
    return [orjson.loads(row.columns) for row in await fetch(connection, READ_POLICIES)]


async def read_law(db: Database | Connection) -> Law:
    rows = await db.fetch(READ_LAW) if isinstance(db, Database) else await fetch(db, READ_LAW)
    if not rows:
        raise AssertionError("no policy is in force: registry.policy has no row that has begun")
    return rows[0]


async def change(
    connection: Connection,
    changes: Mapping[str, str | None],
    since: datetime | None,
    note: str,
    *,
    absent_max: ContractsMax | None,
    dry_run: bool,
) -> Change:
    """Adds a policy in force from `since` (None: now) that changes these columns (None: NULL) and repeats the rest. A dry run adds none.

    Where the rule of presence changes it first counts whom that turns, which takes a minute for 100 million contracts and locks nothing.
    Raises: PolicyRefused, also where more live contracts would turn absent than `absent_max` lets.
    """
    for column in await fetch(connection, INTERVAL_COLUMNS):
        if _lacks_unit(changes.get(column.name) or ""):
            raise PolicyRefused(f"{column.name}: an interval says its unit, as in '12 hours' or '12:00:00'")
    before, after = await _add(connection, changes, since, note, keep=False)
    live = await bounds.count_live(connection)
    allowed = (await bounds.bounds(connection, live, None, absent_max)).absent
    turned = Turned(0, 0)
    if any(before[column] != after[column] for column in RULE):
        (turned,) = await fetch(connection, COUNT_TURNED, *(row[column] for row in (before, after) for column in RULE))
        if turned.absent > allowed and not dry_run:
            raise PolicyRefused(
                f"this turns {turned.absent:,} of {live:,} live contracts absent ({turned.absent / max(live, 1):.2%}) and "
                f"{turned.present:,} present, where {allowed:,} may turn absent now; nothing was changed. If it is right, say "
                f"--max-absent {turned.absent}"
            )
    if not dry_run:
        counted = [before[column] for column in RULE]
        before, after = await _add(connection, changes, since, note, keep=True, rule=counted)
    return Change(before, after, turned, allowed)


async def _add(
    connection: Connection,
    changes: Mapping[str, str | None],
    since: datetime | None,
    note: str,
    *,
    keep: bool,
    rule: list[Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row before and the new one, which is undone unless `keep`. `rule`: by what rule was counted. Raises: PolicyRefused."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        added = await first(connection, CHANGE_POLICY, orjson.dumps(dict(changes)).decode(), since, note)
        if added is None:
            raise PolicyRefused("no policy is in force then, so there is none to change")
        rows = await read(connection)
        effective_from = orjson.loads(added.columns)["effective_from"]
        place = next(place for place, row in enumerate(rows) if row["effective_from"] == effective_from)
        before, after = rows[place - 1], rows[place]
        if rule is not None and rule != [before[column] for column in RULE]:
            raise PolicyRefused("somebody has changed the policy meanwhile, and nothing was changed here: run it again")
    except asyncpg.UndefinedColumnError as error:
        await transaction.rollback()
        known = str(getattr(error, "hint", "")).removeprefix("It has ").rstrip(".").split(", ")
        near = next((nearest(name, known) for name in sorted(changes) if name not in known), "")
        raise NoSuchColumn(f"{error.args[0]}{near or '.'} {getattr(error, 'hint', '')}") from None
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError) as error:
        await transaction.rollback()
        raise PolicyRefused(_explain(error)) from None
    except BaseException:
        await transaction.rollback()
        raise
    await (transaction.commit() if keep else transaction.rollback())
    return before, after


def _lacks_unit(interval: str) -> bool:
    """Whether a number other than 0 has no unit after it, in an interval or an array of intervals."""
    return any(number.strip("+-0.") for number in re.findall(r'(?<![^\s{,"])([+-]?[0-9.]+)(?![\w.:-]|\s*[A-Za-z])', interval))


def _explain(error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.UniqueViolationError):
        return "a policy begins at that very time already; one that is planned may be deleted (sql/README.md)"
    hint = getattr(error, "hint", None)
    return f"{error.args[0]}. {hint}" if hint else str(error.args[0])
