"""Workers' guards on one clock, and messengers that ask honestly or search."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from registryd.domain.errors import Throttled
from registryd.domain.identifiers import MessengerId
from registryd.presence.quota import QuotaGuard
from registryd.store.messengers import Messenger
from registryd.store.pool import Database
from tests.conftest import Site, rewrite_policy
from tests.presence.scans import SPACE

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
UNTIL_ALARM = 11
"""Absent answers in a row."""
PER_MINUTE = 60
draw = random.Random(1801)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now.timestamp()


class World:
    """A registry with some workers' guards on one clock."""

    def __init__(self, site: Site, db: Database, dba: Any) -> None:
        self.site = site
        self.db = db
        self.dba = dba
        self.clock = Clock()

    async def messenger(self, name: str = "one") -> MessengerId:
        return MessengerId((await self.site.add_messenger(name)).messenger_id)

    async def worker(self) -> QuotaGuard:
        """One that has just started, as the daemon starts it."""
        guard = QuotaGuard(self.db, self.clock, self.clock)
        await guard.exchange()
        return guard

    async def policy(self, **columns: object) -> None:
        for column, value in columns.items():
            await rewrite_policy(self.dba, f"{column} = '{value}'")

    async def alarms(self) -> list[tuple[Any, ...]]:
        rows = await self.dba.fetch("SELECT messenger, kind, in_force, signs FROM report.enumeration_alarm ORDER BY raised_at, kind")
        return [tuple(row) for row in rows]


def in_world(site: Site, story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            db = await stack.enter_async_context(site.database.pool())
            dba = await stack.enter_async_context(site.database.connect())
            await story(World(site, db, dba))

    asyncio.run(run())


def unlimited(messenger_id: MessengerId) -> Messenger:
    return Messenger(messenger_id, "one", "active", None, 1, False, None, [])


def ask(guard: QuotaGuard, messenger_id: MessengerId, *numbers: int, present: bool = True) -> None:
    guard.reserve(unlimited(messenger_id), len(numbers)).record(numbers, [present] * len(numbers))


def scan(guard: QuotaGuard, messenger_id: MessengerId) -> int:
    """Asks for absent numbers until it is slowed down; how many were answered."""
    for answered in range(100):
        try:
            ask(guard, messenger_id, draw.choice(SPACE), present=False)
        except Throttled:
            return answered
    raise AssertionError("a hundred absent answers in a row are no alarm")


def is_throttled(guard: QuotaGuard, messenger_id: MessengerId) -> bool:
    """Whether more than a trickle is refused: a batch of a minute's and one."""
    try:
        guard.reserve(unlimited(messenger_id), PER_MINUTE + 1).close()
    except Throttled:
        return True
    return False
