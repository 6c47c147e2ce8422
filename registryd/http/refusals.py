"""Counts a messenger API's refusals by messenger and reason, and adds them to the database about every ten seconds.

What was refused while the database was away is added when it is back, on the day when it was refused. Only what a process refused in the
seconds before it was killed is lost.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from registryd.domain.errors import Reason
from registryd.domain.identifiers import MessengerId
from registryd.store import commits
from registryd.store import refusals as store
from registryd.store.messengers import Messenger
from registryd.store.pool import Database
from registryd.store.refusals import Refused

FLUSH_S = 10.0
SLOT_S = 300.0
"""How exactly it is kept when something was refused. A day of refusals is then 288 counts a messenger and reason."""


class Refusals:
    """`clock()`: a monotonic one, in seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._counts: Counter[tuple[MessengerId, str, int]] = Counter()
        """By messenger, reason and slot."""
        self._unsure: tuple[str, Counter[tuple[MessengerId, str, int]]] | None = None
        """A transaction whose answer was lost, and what it was to add."""

    def count(self, messenger: Messenger, reason: Reason) -> None:
        self._counts[messenger.messenger_id, reason, int(self._clock() // SLOT_S)] += 1

    async def flush(self) -> None:
        """Adds what was counted since the last time. Raises: Unavailable; nothing is then lost or added twice."""
        if self._unsure is not None:
            transaction_id, lost = self._unsure
            if not await commits.was_committed(self._db, transaction_id):
                self._counts += lost
            self._unsure = None
        sent, self._counts = self._counts, Counter()
        if not sent:
            return
        try:
            async with self._db.transaction() as connection:
                transaction_id = await commits.transaction_id(connection)
                self._unsure = transaction_id, sent
                now = self._clock()
                await store.add(connection, [Refused(who, why, max(now - slot * SLOT_S, 0), n) for (who, why, slot), n in sent.items()])
            self._unsure = None
        except BaseException:
            if self._unsure is None:
                self._counts += sent
            raise
