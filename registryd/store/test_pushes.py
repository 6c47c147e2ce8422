"""Test pushes. Whoever wants to try an endpoint writes a row; a deliver process claims it and writes the result into it.

asked -> claimed -> ended
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from registryd.domain.errors import NotPushed, TooManyTests
from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import PushTest
from registryd.store.pool import Connection, Database, fetch
from registryd.store.queries import Nothing, Query

WAIT_S = 15.0
LOOK_S = 0.1
A_MINUTE_MAX = 10
"""How many tests a messenger gets a minute, one at a time."""


class Asked(NamedTuple):
    test_id: int


class Claimed(NamedTuple):
    test_id: int
    messenger_id: MessengerId
    name: str
    endpoint_url: str
    elsewhere: bool
    """It goes to an endpoint that is not the messenger's yet."""


class Ended(NamedTuple):
    """`delivered` is None until the push has ended."""

    delivered: bool | None
    http_status: int | None
    latency_ms: int | None
    error: str | None


GIVE_UP_TESTS = Query("test_pushes", "give_up_tests", Nothing, int)
ASK_TEST = Query("test_pushes", "ask_test", Asked, int, int, str)
FIND_TEST = Query("test_pushes", "find_test", Ended, int)
CLAIM_TESTS = Query("test_pushes", "claim_tests", Claimed)
END_TEST = Query("test_pushes", "end_test", Nothing, int, bool, int, int, str)
FORGET_TESTS = Query("test_pushes", "forget_tests", Nothing)


async def run(db: Database, messenger_id: MessengerId, endpoint_url: str | None = None) -> PushTest:
    """Asks for a test push and waits for its result. `endpoint_url`: the one that a person is about to confirm, instead of the messenger's.

    Raises: TooManyTests, NotPushed, Unavailable.
    """
    async with db.transaction() as connection:
        test_id = await ask(connection, messenger_id, endpoint_url)
    return await result(db, test_id)


async def ask(connection: Connection, messenger_id: MessengerId, endpoint_url: str | None = None) -> int:
    """Asks for a test push; returns its number. As `run`. Raises: TooManyTests."""
    await fetch(connection, GIVE_UP_TESTS, messenger_id)
    asked = await fetch(connection, ASK_TEST, messenger_id, A_MINUTE_MAX, endpoint_url)
    if not asked:
        raise TooManyTests(int(WAIT_S))
    return asked[0].test_id


async def result(db: Database, test_id: int) -> PushTest:
    """Waits for a test push's result. Raises: NotPushed, Unavailable."""
    ends = time.monotonic() + WAIT_S
    while time.monotonic() < ends:
        ended = (await db.fetch(FIND_TEST, test_id))[0]
        if ended.delivered is not None:
            return PushTest(ended.delivered, ended.http_status, ended.latency_ms or 0, ended.error)
        await asyncio.sleep(LOOK_S)
    raise NotPushed


async def claim(db: Database) -> list[Claimed]:
    """The tests that nobody has claimed yet; they are this process's now."""
    return await db.fetch(CLAIM_TESTS)


async def end(db: Database, claimed: Claimed, result: PushTest) -> None:
    await db.fetch(END_TEST, claimed.test_id, result.delivered, result.status, result.latency_ms, result.error)


async def forget(db: Database) -> None:
    """Deletes tests of more than a day ago."""
    await db.fetch(FORGET_TESTS)
