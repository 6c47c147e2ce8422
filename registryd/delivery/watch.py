"""The watch over what is owed: one worker at a time looks at every backlog, tells it in metrics, alarms, and lets replays in.

Never does: a delivery. A worker that is not on watch shows no backlog at all, so that the metrics of several workers add up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from registryd import observe
from registryd.domain.backlog import Backlog, alarms
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.store import replays, watch
from registryd.store.pool import Database

LOOK_S = 15.0
LOOK_SHARE = 0.1
"""Of its time at most the watch spends looking: beside one statement that owes millions, and until it commits, a look may take seconds."""
GRAVE = timedelta(hours=1)
"""From this slack on an alarm is an error, and not a warning."""


class Watch:
    """`worker` names this worker in the lease. Call `tick` about once a second, and `leave` at the end."""

    def __init__(self, db: Database, worker: str) -> None:
        self._db = db
        self._worker = worker
        self._next_look = -math.inf
        self._alarmed: dict[MessengerId, list[timedelta]] = {}
        self._handed: set[MessengerId] = set()
        self.is_held = False

    async def tick(self) -> None:
        """Takes the watch or keeps it, lets replays in, and looks when it is time. Raises: Unavailable."""
        try:
            self._hold(await watch.take(self._db, self._worker))
            if not self.is_held:
                return
            await replays.let_in(self._db)
            if (began := time.monotonic()) >= self._next_look:
                try:
                    await self.look()
                finally:
                    self._next_look = began + max(LOOK_S, (time.monotonic() - began) / LOOK_SHARE)
        except Unavailable:
            self._hold(False)
            raise

    async def look(self) -> None:
        """Tells every backlog in metrics and raises the alarms that are new. Raises: Unavailable."""
        thresholds = await watch.read_thresholds(self._db)
        now = datetime.now(UTC)
        for backlog in await watch.read_backlogs(self._db):
            _show(backlog, now)
            self._alarm(backlog, thresholds, now)

    async def leave(self) -> None:
        """Lets another worker have the watch. Raises: Unavailable."""
        if self.is_held:
            self._hold(False)
            await watch.leave(self._db, self._worker)

    def _hold(self, is_held: bool) -> None:
        if self.is_held and not is_held:
            for gauge in observe.BACKLOG:
                gauge.clear()
        self.is_held = is_held
        observe.on_watch.set(is_held)

    def _alarm(self, backlog: Backlog, thresholds: Sequence[timedelta], now: datetime) -> None:
        """Once for each threshold that was crossed since the last look; again only after the slack has been above it."""
        slack = backlog.slack(now)
        crossed = alarms(slack, thresholds)
        for threshold in crossed:
            if slack is not None and threshold not in self._alarmed.get(backlog.messenger_id, ()):
                observe.event(
                    "slack_low",
                    "error" if threshold <= GRAVE else "warning",
                    messenger=backlog.name,
                    below_h=threshold / timedelta(hours=1),
                    slack_s=round(slack.total_seconds()),
                    pending=backlog.pending,
                    overdue=backlog.overdue,
                )
        self._alarmed[backlog.messenger_id] = crossed
        if not backlog.needs_second_channel(now):
            self._handed.discard(backlog.messenger_id)
        elif backlog.messenger_id not in self._handed:
            self._handed.add(backlog.messenger_id)
            observe.event("second_channel_due", "error", messenger=backlog.name, pending=backlog.pending, error=backlog.last_error)


def _show(backlog: Backlog, now: datetime) -> None:
    slack, age, eta = backlog.slack(now), backlog.age(now), backlog.eta
    observe.pending.labels(backlog.name).set(backlog.pending)
    observe.overdue.labels(backlog.name).set(backlog.overdue)
    observe.slack_seconds.labels(backlog.name).set(math.inf if slack is None else slack.total_seconds())
    observe.oldest_age_seconds.labels(backlog.name).set(0 if age is None else age.total_seconds())
    unknown = math.inf if backlog.has_endpoint else math.nan  # which no alert's comparison holds for
    observe.eta_seconds.labels(backlog.name).set(unknown if eta is None else eta.total_seconds())
    observe.lane_gated.labels(backlog.name).set(backlog.is_gated)
