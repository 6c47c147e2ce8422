"""Pushes daily digests and test pushes. They do not go through the lanes, and their failures close no lane.

Both are rows that one process claims. A digest is pushed until the endpoint acknowledges it, with the same `webhook-id` and body on every
retry. A test push is made once, and whoever asked for it waits for the row.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import TypeVar

import orjson

from registryd import observe
from registryd.delivery.push import Pusher
from registryd.domain.digest import digest_event
from registryd.domain.errors import Unavailable
from registryd.domain.notification import Acknowledged, Failed, Outcome, PushTest, Rejected
from registryd.domain.times import rfc3339
from registryd.store import digests, test_pushes
from registryd.store.pool import Database
from registryd.store.secretbox import WrongSecretsKey

POLL_S = 1.0
"""How often a process looks for what is due. A NOTIFY only makes it look sooner."""
TEST_TIMEOUT_S = 12.0
assert TEST_TIMEOUT_S + POLL_S < test_pushes.WAIT_S, "who waits for a test is told its result"


Result = TypeVar("Result")


class Announcer:
    """Pushes until it is cancelled. `wake()` says that a test push was asked for."""

    def __init__(self, db: Database, pusher: Pusher) -> None:
        self._db = db
        self._pusher = pusher
        self._wake = asyncio.Event()
        self._repeats = observe.repeats()

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled, through every failure. Each push is a task, so that an endpoint that hangs delays no other."""
        async with asyncio.TaskGroup() as pushes:
            while True:
                self._wake.clear()
                for claim in (self._claim_tests(), self._claim_digests()):  # what one cannot claim does not hold up the other
                    for push in await self._told(claim) or ():
                        pushes.create_task(self._told(push))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_S)

    async def _told(self, work: Coroutine[None, None, Result]) -> Result | None:
        """The result of `work`; None where it failed. The row is then claimed again. That the database is away is logged elsewhere."""
        try:
            return await work
        except Unavailable:
            return None
        except Exception as error:
            kind = type(error).__name__
            self._repeats.tell("background_failed", "error", kind=kind, facts={"where": "announcer", "kind": kind})
            return None

    async def push_due(self) -> None:
        """Pushes what is due now, and returns when all of it has ended. Raises: Unavailable."""
        await asyncio.gather(*await self._claim_tests(), *await self._claim_digests())

    async def _claim_tests(self) -> list[Coroutine[None, None, None]]:
        return [self._test(claimed) for claimed in await test_pushes.claim(self._db)]

    async def _claim_digests(self) -> list[Coroutine[None, None, None]]:
        return [self._digest(claimed) for claimed in await digests.claim(self._db)]

    async def _test(self, claimed: test_pushes.Claimed) -> None:
        body = orjson.dumps({"type": "endpoint.test", "timestamp": rfc3339(datetime.now(UTC)), "data": {}})
        began = time.perf_counter()
        try:
            async with asyncio.timeout(TEST_TIMEOUT_S):
                outcome = await self._push(claimed, "test", f"msg_test_{claimed.test_id}", body)
        except TimeoutError:
            outcome = Failed("timeout")
        latency_ms = int((time.perf_counter() - began) * 1000)
        delivered = isinstance(outcome, Acknowledged)
        await test_pushes.end(self._db, claimed, PushTest(delivered, outcome.http_status, latency_ms, _error(outcome)))

    async def _digest(self, claimed: digests.Claimed) -> None:
        body = orjson.dumps(digest_event(claimed.day, claimed.digest, claimed.made_at))
        outcome = await self._push(claimed, "digest", f"msg_digest_{claimed.messenger_id}_{claimed.day:%Y%m%d}", body)
        await digests.settle(self._db, claimed, _error(outcome))

    async def _push(self, claimed: test_pushes.Claimed | digests.Claimed, kind: str, message_id: str, body: bytes) -> Outcome:
        try:
            signer = await self._pusher.signer(claimed.messenger_id)
        except (WrongSecretsKey, ValueError):
            observe.event("secrets_unreadable", "error", messenger=claimed.name)
            return Failed("signing secrets cannot be used")
        if isinstance(claimed, test_pushes.Claimed) and claimed.elsewhere:
            async with self._pusher.channel_once(claimed.name, claimed.endpoint_url) as channel:
                outcome = await channel.post(signer, message_id, int(time.time()), body)
        else:
            outcome = await self._pusher.channel(claimed.name, claimed.endpoint_url).post(signer, message_id, int(time.time()), body)
        observe.pushes.labels(claimed.name, kind).inc()
        return outcome


def _error(outcome: Outcome) -> str | None:
    match outcome:
        case Acknowledged():
            return None
        case Rejected(status):
            return f"status {status}"
        case Failed(error):
            return error
