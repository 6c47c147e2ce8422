"""An answerer over a small registry, and what may be in its way: another transaction, a lock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg

from registryd.domain.errors import CodeInUse
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.domain.presence import Answer, PresenceQuery, by_columns
from registryd.presence.answerer import Answerer, BatchAnswer
from registryd.store.digest_keys import DigestKey
from registryd.store.pool import Database
from tests.conftest import PATIENCE_S, Site, TestDatabase, eventually

KEY = bytes(range(32))
FIRST = 79_160_000_000


def query(number: int, code: str | None = None) -> PresenceQuery:
    return PresenceQuery(Msisdn(FIRST + number), IdentificationCode(code) if code is not None else None)


class Registry(NamedTuple):
    """An answerer, two messengers and 20 live contracts, numbers 0 to 19; 20 and up are absent."""

    database: TestDatabase
    answerer: Answerer
    one: MessengerId
    two: MessengerId
    db: Database
    """The answerer's connections."""

    async def answer(self, number: int, code: str | None = None, messenger: MessengerId | None = None) -> Answer:
        return await self.answerer.answer(messenger or self.one, query(number, code), time.monotonic())

    async def outcome(self, number: int, code: str | None = None, messenger: MessengerId | None = None) -> tuple[bool, str | None]:
        """As a batch tells it."""
        try:
            answer = await self.answer(number, code, messenger)
        except CodeInUse:
            return True, "code_in_use"
        return answer.present, answer.bound.outcome if answer.bound else None

    async def batch(self, queries: Sequence[PresenceQuery], messenger: MessengerId | None = None) -> BatchAnswer:
        return await self.answerer.answer_batch(messenger or self.one, by_columns(queries), time.monotonic())

    async def together(self, lane: str, queries: Sequence[tuple[int, str | None]]) -> list[tuple[bool, str | None]]:
        """Asks at once, as a batch or as single queries."""
        if lane == "single":
            return list(await asyncio.gather(*(self.outcome(number, code) for number, code in queries)))
        answers = (await self.batch([query(number, code) for number, code in queries])).answers
        return [(present, bound.outcome if bound else None) for present, bound in answers]

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.database.connect() as connection:
            return await connection.fetch(statement, *arguments)

    async def pages(self) -> list[int]:
        """How many queries each page of the journal holds, in the order of their commits."""
        return [row["queries"] for row in await self.fetch("SELECT queries FROM registry.journal_page ORDER BY answered_at")]

    async def live(self, messenger: MessengerId | None = None) -> dict[int, str]:
        rows = await self.fetch(
            "SELECT msisdn, identification_code FROM registry.binding WHERE messenger_id = $1 AND ended_at IS NULL", messenger or self.one
        )
        return {row["msisdn"] - FIRST: row["identification_code"] for row in rows}


@asynccontextmanager
async def registry(
    site: Site, *, in_flight: int = 2, group_max: int = 256, queue_max: int = 20_000, connections: int = 8
) -> AsyncIterator[Registry]:
    one, two = [MessengerId((await site.add_messenger(name)).messenger_id) for name in ("one", "two")]
    await site.add_contracts(*range(FIRST, FIRST + 20))
    async with site.database.pool(size=connections) as db:
        answerer = Answerer(db, DigestKey(1, KEY), statements_in_flight=in_flight, group_max=group_max, queue_max=queue_max)
        yield Registry(site.database, answerer, one, two, db)
        await answerer.drain()


@asynccontextmanager
async def binding_uncommitted(of: Registry, number: int, code: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Another transaction has bound the code and is not yet over: whoever binds it waits for its end. It is then rolled back."""
    async with of.database.connect() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, 1, $2, $3)",
            FIRST + number,
            of.one,
            code,
        )
        yield connection
        await transaction.rollback()


async def waits_for_a_lock(of: Registry, statements: int = 1) -> None:
    """Until so many statements of the answerer's stand still."""

    async def look() -> bool:
        rows = await of.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = $1 AND usename = 'registryd_app' AND wait_event_type = 'Lock'", of.database.name
        )
        return len(rows) >= statements

    await eventually(look)


async def in_time(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, PATIENCE_S)
