"""Clones of the template for a whole module, contracts and bindings in bulk, and the plans of what really ran."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from registryd.demo import embedded
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.domain.lane import Lease
from registryd.store import lanes, presence
from registryd.store.pool import Database
from tests.conftest import TestDatabase, cloned, eventually, time_ordered_id
from tests.persons import Persons, acting

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

FIRST = 79_160_000_000
"""Numbers of the tests begin here."""


@pytest.fixture(scope="module")
def shared(server: embedded.Server, template: str) -> Iterator[TestDatabase]:
    """One database for a module whose tests undo what they do, or keep to numbers of their own."""
    with cloned(server, template) as database:
        yield database


@pytest.fixture
def persons(database: TestDatabase) -> Iterator[Persons]:
    with acting(database) as made:
        yield made


async def add_messengers(connection: Connection, count: int, endpoint: str | None = None) -> list[int]:
    rows = await connection.fetch(
        "INSERT INTO registry.messenger (name, endpoint_url) SELECT $2 || i, $3 FROM generate_series(1, $1) AS i RETURNING messenger_id",
        count,
        f"m{secrets.token_hex(4)}-",
        endpoint,
    )
    return [row["messenger_id"] for row in rows]


async def add_contracts(connection: Connection, count: int, first: int = FIRST) -> None:
    """Live contracts of individuals on `count` numbers from `first` on."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
            "SELECT $1::bigint + i, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series(0, $2::integer - 1) AS i",
            first,
            count,
        )


async def bind(connection: Connection, messenger_id: int, count: int, first: int = FIRST) -> None:
    """Binds `count` numbers from `first` on to one messenger, as a DBA would. A number's code is `u-<number>`."""
    await connection.execute(
        "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) "
        "SELECT c.msisdn, c.generation, $1, 'u-' || c.msisdn FROM registry.contract AS c "
        "WHERE c.ended_at IS NULL AND c.msisdn BETWEEN $2::bigint AND $2::bigint + $3::integer - 1",
        messenger_id,
        first,
        count,
    )


async def ask(db: Database, messenger_id: int, *queries: tuple[int, str | None], again: bool = True) -> tuple[list[str | None], str]:
    """One group of a messenger's queries, each a number and perhaps a code: what became of the codes, and the answers as bits.

    A group without any code goes by the statement that binds nothing, as the daemon sends it.
    """
    runs = presence.Runs([MessengerId(messenger_id)], [len(queries)], [3])
    codes = [IdentificationCode(code) if code else None for _, code in queries]
    digests = b"".join(number.to_bytes(16, "big") for number, _ in queries)
    numbers = [Msisdn(number) for number, _ in queries]
    answered = await presence.answer(db, runs, numbers, codes if any(codes) else None, digests, 1, again=again)
    return answered.outcomes if isinstance(answered, presence.AnsweredAndBound) else [None] * len(queries), answered.bits


async def write_page(connection: Connection, at: datetime, messenger_id: int = 1, waited: timedelta = timedelta(milliseconds=1)) -> UUID:
    """A page of three queries, two of them present, as only the owner can write one: at a time of his own."""
    page_id = time_ordered_id(int(at.timestamp() * 1000), secrets.token_bytes(10))
    await connection.execute(
        "INSERT INTO registry.journal_page "
        "(page_id, answered_at, queries, digest_key, messenger_ids, query_counts, waited_ms, digests, present) "
        "VALUES ($1, $2, 3, 2, ARRAY[$3::integer], '{3}', ARRAY[$4::integer], $5, B'110')",
        page_id,
        at,
        messenger_id,
        int(waited.total_seconds() * 1000),
        secrets.token_bytes(48),
    )
    return page_id


async def begin_chain(connection: Connection, at: datetime) -> None:
    """As if the registry had been made at that time: partitions since then, and a chain of seals that begins there."""
    at = at.replace(second=0, microsecond=0)
    await connection.execute("DELETE FROM registry.seal")
    await connection.execute("SELECT registry.append_seal('begin', $1, 0, 0, sha256(''), 'a test')", at)
    await connection.execute("SELECT setval('registry.sealed_until_ms', $1)", int(at.timestamp()) * 1000)
    await connection.execute("SELECT registry.make_partitions($1, $2)", at.date(), (datetime.now(UTC).date() - at.date()).days + 1)


async def seal_all(connection: Connection, before: datetime | None = None) -> int:
    """Seals what is over before a time, or by the clock; returns how many seals that made."""
    made = 0
    while await connection.fetchrow("SELECT * FROM registry.seal_windows_before($1)", before or datetime.now(UTC)):
        made += 1
    return made


async def change_policy(connection: Connection, **changes: str) -> None:
    """A new row of the policy, in force from now on: the one before it, but for `changes`."""
    change = "SELECT registry.change_policy($1::text::jsonb, now(), 'a test')"
    if not any(column.endswith("_kept") for column in changes):
        await connection.execute(change, json.dumps(changes))
        return
    # As if it had been planned a day ago: one that keeps less cannot begin at once.
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = 'replica'")
        await connection.execute(change, json.dumps(changes))
        await connection.execute("UPDATE registry.policy SET recorded_at = now() WHERE effective_from = now()")


async def take_lanes(db: Database, owner: str, limit: int, working: Sequence[MessengerId] = ()) -> list[Lease]:
    async with db.connection() as connection:
        return await lanes.lease(connection, owner, limit, working)


async def waits(connection: Connection, pid: int) -> None:
    """Returns once the backend `pid` waits for a lock."""
    await eventually(lambda: connection.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid))


@dataclass
class Plan:
    """One statement as PostgreSQL ran it, the statements inside functions and triggers included."""

    statement: str
    nodes: list[dict[str, Any]]

    def scans(self, relation: str) -> list[dict[str, Any]]:
        """The nodes that read a table of schema registry."""
        return [node for node in self.nodes if node.get("Relation Name") == relation and "Scan" in node["Node Type"]]

    def indexes(self, relation: str) -> set[str]:
        """By which indexes a table was reached; the node's type where it was by none."""
        return {str(node.get("Index Name", node["Node Type"])) for node in self.scans(relation)}

    def conditions(self, index: str) -> list[str]:
        return [str(node.get("Index Cond", "")) for node in self.nodes if node.get("Index Name") == index]

    def rows_touched(self) -> int:
        """All rows that all nodes gave or threw away: the work done, whatever the machine's speed."""
        removed = ("Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")
        return sum(round(node["Actual Loops"] * (node["Actual Rows"] + sum(node.get(key, 0) for key in removed))) for node in self.nodes)


@dataclass
class Explained:
    """A connection that tells the plan of everything it runs."""

    connection: Connection
    told: list[Plan] = field(default_factory=list)

    async def plans(self, words: str) -> list[Plan]:
        """The plans so far of statements that hold `words`."""
        await asyncio.sleep(0)  # log listeners are called on the loop's next turn
        return [plan for plan in self.told if words in plan.statement]


@asynccontextmanager
async def explaining(database: TestDatabase, planner: Mapping[str, str] | None = None) -> AsyncIterator[Explained]:
    """Inside a transaction that is undone. The plans are PostgreSQL's own record (auto_explain), not what EXPLAIN would guess."""
    connection = await asyncpg.connect(database.dsn(), server_settings={"jit": "off", "timezone": "UTC", **(planner or {})})
    explained = Explained(connection)

    def note(_: object, message: asyncpg.PostgresLogMessage) -> None:
        text = str(message.message)
        if " plan:\n{" in text:
            said = json.loads(text[text.index("{") :])
            explained.told.append(Plan(said["Query Text"], list(_walk(said["Plan"]))))

    try:
        await connection.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; "
            "SET auto_explain.log_format = json; SET auto_explain.log_analyze = on; SET auto_explain.log_timing = off; "
            "SET client_min_messages = log"
        )
        connection.add_log_listener(note)
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield explained
        finally:
            await transaction.rollback()
    finally:
        connection.remove_log_listener(note)
        await connection.close()


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _walk(child)
