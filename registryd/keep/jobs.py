"""The table of jobs. Every operate process runs all of them. What must be done once takes its job's lock first (store/jobs.py)."""

from __future__ import annotations

from registryd.keep import breakglass, capacity, days, digests, erasure, feed, replays, seals, standing, waves
from registryd.keep.backlogs import BacklogWatch
from registryd.keep.law import LawWatch
from registryd.keep.timer import Job
from registryd.store import reports, test_pushes
from registryd.store.pool import Database
from registryd.store.secretbox import SecretBox

RETENTION_S = 600.0
REPORTS_S = 10.0
BREAKGLASS_S = 2.0
BACKLOGS_S = 15.0
ENDS_S = 15.0
WAVES_S = 2.0
REPLAYS_S = 1.0
DIGESTS_S = 30.0
SEALS_S = 10.0
FEED_S = 15.0
CAPACITY_S = 600.0
LAW_S = 600.0
STANDING_S = 30.0


def jobs(db: Database, journal_box: SecretBox) -> tuple[Job, ...]:
    """`journal_box` opens the journal's digest keys."""
    return (
        # First, and without a lock: a report session may hold what the next jobs need, the lock of a job among it.
        Job("reports", REPORTS_S, lambda: reports.end_long(db)),
        Job("seals", SEALS_S, lambda: seals.seal_windows(db)),
        Job("days", RETENTION_S, lambda: days.keep_days(db)),
        Job("ends", ENDS_S, lambda: days.fold_ends(db)),
        Job("backlogs", BACKLOGS_S, BacklogWatch(db).look),
        Job("waves", WAVES_S, lambda: waves.watch(db)),
        Job("feed", FEED_S, lambda: feed.watch(db)),
        Job("capacity", CAPACITY_S, lambda: capacity.watch(db)),
        Job("law", LAW_S, LawWatch(db).look),
        Job("standing", STANDING_S, lambda: standing.watch(db)),
        Job("replays", REPLAYS_S, lambda: replays.let_in(db)),
        Job("digests", DIGESTS_S, lambda: digests.make(db)),
        Job("test pushes", RETENTION_S, lambda: test_pushes.forget(db)),
        Job("erasure", RETENTION_S, lambda: erasure.erase(db)),
        Job("breakglass", BREAKGLASS_S, lambda: breakglass.prepare_requests(db, journal_box)),
    )
