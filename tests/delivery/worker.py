"""One worker's delivery in a process of its own, that kills itself (-9) at a named point: the daemon's code, and nothing of the daemon's
around it. `python -m tests.delivery.worker DSN SECRETS_KEY OWNER POINT PASSAGES` says "ready", and before it dies how many notifications
it had pushed, or was pushing, whose receipts were not written."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from registryd import observe
from registryd.delivery import lane, settling
from registryd.delivery.dispatcher import Dispatcher
from registryd.delivery.push import Channel, Pusher
from registryd.domain.lane import Lease, Settlement
from registryd.store import lanes
from registryd.store.pool import Database
from registryd.store.secretbox import SecretBox
from tests.delivery.conftest import LOOPBACK

POINTS = ("after lease", "after POST", "before settle")

out: set[UUID] = set()
"""Pushed or being pushed, and not yet written."""


class Death:
    def __init__(self, point: str, passages: int) -> None:
        self._point, self._left = point, passages

    def passes(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left <= 0:
                sys.stdout.write(f"{len(out)}\n")
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)


def watch(death: Death) -> None:
    """The named points, put around the daemon's own functions."""
    lease, push, write = lanes.lease, Channel.push, settling.write

    @functools.wraps(lease)
    async def leasing(*args: Any) -> Any:
        leased = await lease(*args)
        if leased:
            death.passes("after lease")
        return leased

    async def pushing(self: Channel, signer: Any, notifications: Any, **options: Any) -> Any:
        out.update(n.notification_id for n in notifications)
        outcome = await push(self, signer, notifications, **options)
        death.passes("after POST")
        return outcome

    async def writing(db: Database, lease: Lease, settlement: Settlement, clock: Callable[[], float]) -> int:
        death.passes("before settle")
        settled = await write(db, lease, settlement, clock)
        out.difference_update(settlement.delivered, (d.notification_id for d in settlement.deferred))
        return settled

    replace: Callable[[Any, str, Callable[..., Awaitable[Any]]], None] = setattr
    replace(lanes, "lease", leasing)
    replace(Channel, "push", pushing)
    replace(lane, "write", writing)


async def main(dsn: str, secrets_key: str, owner: str, point: str, passages: str) -> None:
    observe.configure("error")
    watch(Death(point, int(passages)))
    db = Database(dsn, size=4, connect_timeout_s=3, command_timeout_s=30)
    async with db, Pusher(db, SecretBox(bytes.fromhex(secrets_key)), LOOPBACK) as pusher:
        dispatcher = Dispatcher(db, pusher, owner, 8)
        loop = asyncio.get_running_loop()
        stopping: list[asyncio.Task[None]] = []
        loop.add_signal_handler(signal.SIGTERM, lambda: stopping.append(loop.create_task(dispatcher.stop())))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await dispatcher.run()
        await asyncio.gather(*stopping)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
