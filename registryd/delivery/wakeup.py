"""Listens for the database's NOTIFY on a connection of its own, so that a deliver process looks at once and not at its next poll.

A NOTIFY that is missed costs nothing but the time to the next poll: the tables are the truth.
"""

from __future__ import annotations

import asyncio

from registryd.delivery.announcer import Announcer
from registryd.delivery.dispatcher import Dispatcher
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Database

CHANNEL = "registry_deliver"
RECONNECT_S = 1.0
RECONNECT_MAX_S = 30.0


async def listen(db: Database, dispatcher: Dispatcher, announcer: Announcer) -> None:
    """Listens until it is cancelled. While the database is away it tries again, at growing intervals."""

    def hear(payload: str) -> None:
        """ "test" for a test push; else the messenger to whom something is owed, and "below" where that lies below its lane's mark."""
        messenger_id, _, below = payload.partition(" ")
        if messenger_id == "test":
            announcer.wake()
        else:
            dispatcher.wake(MessengerId(int(messenger_id)), below_mark=bool(below))

    pause_s = RECONNECT_S
    while True:
        try:
            async with db.listening(CHANNEL, hear) as lost:
                dispatcher.look_back()  # a NOTIFY may have been missed before
                pause_s = RECONNECT_S
                await lost.wait()
        except Unavailable:
            pass
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RECONNECT_MAX_S)
