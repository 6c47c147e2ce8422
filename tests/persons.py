"""Persons with database roles of their own, for what nobody may do alone."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from registryd.store import breakglass, pool
from tests.conftest import TestDatabase


@dataclass
class Persons:
    """Anna looks, Boris approves, Vera may do both."""

    database: TestDatabase
    anna: str
    boris: str
    vera: str

    @asynccontextmanager
    async def session(self, person: str) -> AsyncIterator[pool.Connection]:
        async with breakglass.session(self.database.dsn(person)) as connection:
            yield connection


@contextmanager
def acting(database: TestDatabase) -> Iterator[Persons]:
    made = Persons(database, *(f"{name}_{secrets.token_hex(4)}" for name in ("anna", "boris", "vera")))

    async def run(*statements: str) -> None:
        async with database.connect() as connection:
            for statement in statements:
                await connection.execute(statement)

    grants = (
        (made.anna, "registryd_breakglass"),
        (made.boris, "registryd_approver"),
        (made.vera, "registryd_breakglass, registryd_approver"),
    )
    asyncio.run(run(*(f"CREATE ROLE {person} LOGIN; GRANT {roles} TO {person}" for person, roles in grants)))
    yield made
    asyncio.run(run(*(f"DROP ROLE {person}" for person, _ in grants)))
