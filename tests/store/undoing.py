"""Mistaken ends, and two persons who undo them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from registryd.feed import snapshot
from registryd.feed.snapshot import FileImport
from registryd.store import breakglass
from registryd.store.breakglass import Ends, Undone
from registryd.store.snapshots import Reconciled
from tests.persons import Persons
from tests.store.conftest import FIRST, Connection

REASON = "billing ended them by mistake"
LATER = FIRST + 1_000_000


async def end(connection: Connection, *numbers: int, reason: str = "terminated") -> None:
    await connection.execute(
        "UPDATE registry.contract SET ended_at = now(), end_reason = $2::registry.end_reason WHERE msisdn = ANY ($1) AND ended_at IS NULL",
        list(numbers),
        reason,
    )


async def start(connection: Connection, number: int, generation: int = 2) -> None:
    await connection.execute(
        "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
        "VALUES ($1, $2, 'active', 'individual', 'not_required', now())",
        number,
        generation,
    )


async def ask(persons: Persons, ends: Ends) -> int:
    async with persons.session(persons.anna) as session:
        return await breakglass.request_reinstate(session, ends, REASON)


async def approve(persons: Persons, request: int) -> None:
    async with persons.session(persons.boris) as session:
        await breakglass.approve(session, request)


async def undo(persons: Persons, ends: Ends, *, with_list: bool = False) -> list[Undone]:
    request = await ask(persons, ends)
    await approve(persons, request)
    async with persons.session(persons.anna) as session:
        return await breakglass.reinstate(session, request, with_list=with_list)


def outcomes(rows: Sequence[Undone]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.number is None:
            found[row.what, row.outcome] = found.get((row.what, row.outcome), 0) + row.quantity
    return found


def listed(rows: Sequence[Undone]) -> set[tuple[str, str, int]]:
    return {(row.what, row.outcome, row.number) for row in rows if row.number is not None}


def recently() -> Ends:
    return Ends(recorded_from=datetime.now(UTC) - timedelta(hours=1))


async def live_bindings(connection: Connection) -> list[tuple[int, int, str]]:
    rows = await connection.fetch(
        "SELECT b.messenger_id, b.msisdn, b.identification_code FROM registry.binding AS b "
        "JOIN registry.contract AS c ON c.msisdn = b.msisdn AND c.generation = b.generation AND c.ended_at IS NULL "
        "WHERE b.ended_at IS NULL ORDER BY 1, 2"
    )
    return [tuple(row) for row in rows]


async def take(persons: Persons, directory: Path, numbers: Sequence[int], as_of: datetime) -> Reconciled:
    """Imports a snapshot in which these numbers alone are live."""
    path = directory / "contracts.csv"
    lines = [f"{number},individual,not_required,active,2020-01-01T00:00:00Z" for number in numbers]
    path.write_text("msisdn,holder,end_user,status,started_at\n" + "\n".join(lines) + "\n")
    return await snapshot.reconcile(persons.database.dsn("registryd_app"), None, FileImport(path), as_of, lambda live: live)


async def bound_ends(connection: Connection, ends_max: int) -> None:
    await connection.execute(
        "SELECT registry.change_policy(jsonb_build_object('ends_max', $1::integer, 'ends_max_share', 0), now(), 'a test')", ends_max
    )
