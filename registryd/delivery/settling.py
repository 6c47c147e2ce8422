"""Writes what pushes came to, and lets the lanes of a process take turns at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta

from registryd.domain.lane import Lease, Settlement
from registryd.store import lanes, notifications
from registryd.store.pool import Database

TURN_MAX_S = 1.0


class Turns:
    """Shared by the process's lanes: those with a backlog write one after the other, because their commits are large, and the commits of
    queries wait for them. Receipts gather meanwhile.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for the turn. It is over after `TURN_MAX_S` though the write goes on: one that waits for a lock holds up no other lane."""
        await self._lock.acquire()
        with ExitStack() as turn:
            turn.callback(self._lock.release)
            over = asyncio.get_running_loop().call_later(TURN_MAX_S, turn.close)
            turn.callback(over.cancel)
            yield


async def write(db: Database, lease: Lease, settlement: Settlement, clock: Callable[[], float]) -> int:
    """Writes a settlement in one transaction. Returns how many notifications it settled. Raises: Unavailable."""
    delivered, deferred, attempts, gate, reopens = settlement
    if not (deferred or gate or reopens):
        return await notifications.settle_receipts(db, lease.messenger_id, delivered, attempts)
    async with db.transaction() as connection:
        now_s = clock()  # one for all, so that what is deferred to the gate's end is due then
        waits = [(d.notification_id, _wait(now_s, d.due_s), d.error) for d in deferred]
        settled = await notifications.settle_push(connection, lease.messenger_id, lease.token, delivered, waits, attempts)
        if reopens:
            await lanes.reopen(connection, lease)
        if gate is not None:
            await lanes.gate(connection, lease, _wait(now_s, gate.until_s), gate.error)
    return settled


def _wait(now_s: float, until_s: float) -> timedelta:
    return timedelta(seconds=max(0.0, until_s - now_s))
