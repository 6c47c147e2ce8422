"""Watches what is owed: shows every messenger's backlog in metrics, and raises an alarm where the duty is in danger.

Every operate process looks and shows. An alarm is told once for all processes and restarts: which ones were raised stands in the database.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from registryd import observe
from registryd.domain.backlog import GRAVE, Alarms, Backlog
from registryd.exposition import Known
from registryd.store import backlogs
from registryd.store.pool import Database

REST = 10
"""A look is followed by a rest of so many times its own time: beside one statement that owes millions a look may take seconds."""


class BacklogWatch:
    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._rests_until = -math.inf
        self._known = Known("operate")

    async def look(self) -> None:
        """Shows each backlog and raises the alarms that are new, unless the last look was slow and it rests. Raises: Unavailable."""
        began = self._clock()
        if began < self._rests_until:
            return
        try:
            thresholds = await backlogs.read_thresholds(self._db)
            found = await backlogs.read(self._db)
            self._known.keep(backlog.name for backlog in found)
            for backlog in found:
                _show(backlog)
                alarms = backlog.alarms(thresholds)
                if alarms != backlog.raised:
                    await self._raise(backlog, alarms)
        finally:
            self._rests_until = self._clock() + REST * (self._clock() - began)

    async def _raise(self, backlog: Backlog, alarms: Alarms) -> None:
        """Tells what was crossed since the last look. An alarm comes again only after it was over."""
        async with self._db.transaction() as connection:
            if not await backlogs.note_alarms(connection, backlog, alarms):
                return  # another process has told it
            slack = backlog.slack
            for threshold in alarms.below:
                if slack is not None and threshold not in backlog.raised.below:
                    observe.event(
                        "slack_low",
                        "error" if threshold <= GRAVE else "warning",
                        messenger=backlog.name,
                        below_h=threshold.total_seconds() / 3600,
                        slack_s=round(slack.total_seconds()),
                        pending=backlog.pending,
                        overdue=backlog.overdue,
                    )
            if alarms.second_channel and not backlog.raised.second_channel:
                observe.event("second_channel_due", "error", messenger=backlog.name, pending=backlog.pending, error=backlog.last_error)
            if alarms.refused and not backlog.raised.refused:
                observe.event("content_refused", "error", messenger=backlog.name, notifications=backlog.refused)


def _show(backlog: Backlog) -> None:
    slack, age, eta = backlog.slack, backlog.age, backlog.eta
    observe.pending.labels(backlog.name).set(backlog.pending)
    observe.notifications_held.labels(backlog.name).set(backlog.held)
    observe.lane_held.labels(backlog.name).set(backlog.is_held)
    observe.overdue.labels(backlog.name).set(backlog.overdue)
    observe.refused.labels(backlog.name).set(backlog.refused)
    observe.slack_seconds.labels(backlog.name).set(math.inf if slack is None else slack.total_seconds())
    observe.oldest_age_seconds.labels(backlog.name).set(0 if age is None else age.total_seconds())
    unknown = math.inf if backlog.has_endpoint else math.nan  # which no alert's comparison holds for
    observe.eta_seconds.labels(backlog.name).set(unknown if eta is None else eta.total_seconds())
    observe.lane_gated.labels(backlog.name).set(backlog.is_gated)
