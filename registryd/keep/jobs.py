"""The table of jobs. Every operate process runs all of them; each transaction of a job begins with the job's lock (store/jobs.py)."""

from __future__ import annotations

from registryd.keep import breakglass, days, erasure
from registryd.keep.timer import Job
from registryd.store import reports
from registryd.store.pool import Database
from registryd.store.secretbox import SecretBox

RETENTION_S = 600.0
REPORTS_S = 10.0
BREAKGLASS_S = 2.0


def jobs(db: Database, journal_box: SecretBox) -> tuple[Job, ...]:
    """`journal_box` opens the journal's digest keys."""
    return (
        # First, and without a lock: a report session may hold what the next jobs need, the lock of a job among it.
        Job("reports", REPORTS_S, lambda: reports.end_long(db)),
        Job("days", RETENTION_S, lambda: days.keep_days(db)),
        Job("erasure", RETENTION_S, lambda: erasure.erase(db)),
        Job("breakglass", BREAKGLASS_S, lambda: breakglass.prepare_requests(db, journal_box)),
    )
