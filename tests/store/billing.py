"""Billing's table, written to files and taken as snapshots, and what the registry holds then."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

from registryd.feed import snapshot
from registryd.feed.lines import SNAPSHOT_COLUMNS
from registryd.feed.snapshot import FileImport
from registryd.store.bounds import ContractsMax
from registryd.store.snapshots import Reconciled
from tests.conftest import TestDatabase
from tests.store.conftest import add_messengers, bind

FIRST = 79_160_000_000
STARTED = "2020-01-01T00:00:00Z"
KINDS = (("individual", "not_required"), ("organisation", "registered"), ("sole_trader", "unregistered"))

BAD = f"{FIRST + 1},individual,not_required,gone,{STARTED}"

Table = dict[int, tuple[str, str, str, str]]
"""Billing's table: (holder, end_user, status, started_at) by number."""


def billing(count: int, first: int = FIRST) -> Table:
    return {first + i: (*KINDS[i % 3], "suspended" if i % 31 == 0 else "active", STARTED) for i in range(count)}


def write(path: Path, table: Table, *more: str) -> Path:
    lines = [",".join(SNAPSHOT_COLUMNS), *(f"{number},{','.join(facts)}" for number, facts in table.items()), *more]
    path.write_text("\n".join(lines) + "\n")
    return path


def take(
    database: TestDatabase,
    path: Path,
    *,
    as_of: datetime | None = None,
    ends_max: ContractsMax | None = lambda live: live,
    absent_max: ContractsMax | None = None,
    **job: object,
) -> Reconciled:
    made = FileImport(path, **job)  # type: ignore[arg-type]
    return asyncio.run(snapshot.reconcile(database.dsn("registryd_app"), None, made, as_of or datetime.now(UTC), ends_max, absent_max))


def counts(found: Reconciled) -> Reconciled:
    """What became of contracts, without what it means for answers and notifications."""
    return found._replace(owed=[], absent=0, near=0, is_complete=False, outside=None)


def live(database: TestDatabase) -> Table:
    text = 'to_char(started_at, \'YYYY-MM-DD"T"HH24:MI:SS"Z"\')'
    words = "holder::text, end_user::text"
    query = f"SELECT msisdn, {words}, status, {text} FROM registry.contract WHERE ended_at IS NULL ORDER BY msisdn"
    rows = database.psql("-AtF", ",", "-c", f"SET timezone = 'UTC'; {query}").stdout.splitlines()
    return {int(number): (holder, user, status, at) for number, holder, user, status, at in (row.split(",") for row in rows)}


def everything(database: TestDatabase) -> str:
    """Every contract, binding and notification, as text to be compared."""
    tables = ("contract", "binding", "notification", "contract_movement", "feed_event")
    return "".join(database.psql("-Atc", f"SELECT t FROM registry.{table} AS t ORDER BY t::text").stdout for table in tables)


def history(database: TestDatabase, number: int) -> list[tuple[str, ...]]:
    columns = "generation, status, holder::text, end_reason"
    rows = database.psql("-AtF", ",", "-c", f"SELECT {columns} FROM registry.contract WHERE msisdn = {number} ORDER BY 1").stdout
    return [tuple(row.split(",")) for row in rows.splitlines()]


def add_bindings(database: TestDatabase, *counts: int) -> list[str]:
    """A messenger for each count, bound to so many numbers from FIRST on; their names."""

    async def run() -> list[str]:
        async with database.connect() as connection:
            ids = await add_messengers(connection, len(counts))
            for messenger_id, count in zip(ids, counts, strict=True):
                await bind(connection, messenger_id, count)
            rows = await connection.fetch("SELECT name FROM registry.messenger WHERE messenger_id = ANY ($1)", ids)
            return sorted(row["name"] for row in rows)

    return asyncio.run(run())


def changed(table: Table, share: float) -> tuple[Table, dict[str, list[int]]]:
    """Billing's table some days later: of `share` of it, each kind of change there is."""
    numbers = random.Random(1801).sample(sorted(table), int(len(table) * share))
    quarter = len(numbers) // 5
    gone, held, kind, updated, user = (numbers[i * quarter : (i + 1) * quarter] for i in range(5))
    after = {number: facts for number, facts in table.items() if number not in set(gone)}
    for number in held:
        after[number] = ("individual", "not_required", "active", "2025-05-05T05:05:05Z")
    for number in kind:
        others = [facts for facts in KINDS if facts[0] != table[number][0]]
        after[number] = (*others[0], *table[number][2:])
    for number in updated:
        holder, end_user, status, started = table[number]
        after[number] = (holder, end_user, "active" if status == "suspended" else "suspended", started)
    for number in user:
        holder, end_user, status, started = table[number]
        other = {"not_required": "not_required", "registered": "unregistered", "unregistered": "registered"}[end_user]
        after[number] = (holder, other, status, started)
    new = billing(quarter, max(table) + 1)
    user = [number for number in user if table[number][1] != "not_required"]
    return {**new, **after}, {"gone": gone, "held": held, "kind": kind, "updated": updated + user, "new": list(new)}
