"""Warns of the day when the law lapses, from half a year ahead: a decree has an end, and its successor must be in its place by then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from registryd import observe
from registryd.store import policy
from registryd.store.pool import Database

TOLD_EVERY_S = 86_400.0


class LawWatch:
    """`clock()`: a monotonic one, in seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._told_at = -math.inf

    async def look(self) -> None:
        """Shows when the law lapses, and tells once a day when that is near. Raises: Unavailable."""
        law = await policy.read_law(self._db)
        observe.policy.clear()
        observe.policy.labels(law.organisation_rule, str(law.suspended_is_present).lower()).set(1)
        observe.answer_within.set(law.answer_within.total_seconds())
        observe.notice_within.set(law.notice_within.total_seconds())
        observe.policy_lapses.set(math.inf if law.lapses_s is None else law.lapses_s)
        if law.lapses_at is None or law.lapses_s is None or law.lapses_s > policy.LAPSES_SOON_S:
            return
        if self._clock() - self._told_at >= TOLD_EVERY_S:
            self._told_at = self._clock()
            observe.event("policy_lapses", "warning", lapses_at=law.lapses_at.isoformat(), days=math.floor(law.lapses_s / 86_400))
