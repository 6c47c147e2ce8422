"""When to try again: pure functions of now, the deadline and the past, with the caller's jitter.

A notification is never given up. The gap between its attempts is drawn from the whole of a span (full jitter) that grows from seconds,
but never beyond 15 minutes nor beyond a twentieth of the slack that is left to an internal deadline, an hour before the legal one: so
attempts grow denser as it nears, and from there on, overdue or not, they go on at full effort, every 30 s at most. A failing endpoint is
probed by one canary at least every minute, whatever it owes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

INTERNAL_MARGIN = timedelta(hours=1)
GAP_MIN = timedelta(seconds=2)
"""Two attempts of one notification are never closer: it bounds their number."""
GAP_MAX = timedelta(minutes=15)
GAP_OVERDUE = timedelta(seconds=30)
PROBE_MIN = timedelta(seconds=0.5)
PROBE_FIRST = timedelta(seconds=1)
PROBE_MAX = timedelta(seconds=59)
"""With the dispatcher's poll, which comes on top, a minute."""


def next_attempt(now: datetime, deadline_at: datetime, attempts: int, jitter: float, retry_after: timedelta | None = None) -> datetime:
    """When a refused notification is tried again.

    `attempts`: failures so far, this one included. `jitter`: 0 to 1, full jitter. `retry_after`: what the messenger asked for, honoured
    up to the same cap.
    """
    slack = deadline_at - INTERNAL_MARGIN - now
    cap = min(GAP_MAX, max(slack / 20, GAP_MIN)) if slack > timedelta(0) else GAP_OVERDUE
    gap = min(cap, GAP_MIN * (1 << min(attempts, 20)))
    return now + min(max(gap * jitter, GAP_MIN, retry_after or GAP_MIN), cap)


def next_probe(began_at: datetime, failures: int, jitter: float, retry_after: timedelta | None = None) -> datetime:
    """When a failing endpoint is probed again, counted from when its last push began, so that a probe that hangs delays none.

    The span is 1 s, 2 s, 4 s … at most a minute, whatever `Retry-After` says beyond that; full jitter.
    """
    span = min(PROBE_MAX, PROBE_FIRST * (1 << min(max(failures - 1, 0), 10)))
    return began_at + min(max(span * jitter, PROBE_MIN, retry_after or PROBE_MIN), PROBE_MAX)


def presses(now: datetime, terminated_at: datetime, deadline_at: datetime) -> bool:
    """Whether so much of the notice period is gone that a notification goes out at full speed, whatever that brings back as queries."""
    return now - terminated_at > (deadline_at - terminated_at) / 2
