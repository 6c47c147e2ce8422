"""When to try again: pure functions of now, the deadline and the past, with the caller's jitter.

A notification is never given up. Its gaps grow from seconds, but never beyond a twentieth of the slack that is left, so that attempts
grow denser as the deadline nears; an overdue one goes on at the shortest steady gap. A failing endpoint is probed by one canary at
least every minute, whatever it owes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

INTERNAL_MARGIN = timedelta(hours=1)
GAP_MIN = timedelta(seconds=2)
GAP_MAX = timedelta(minutes=15)
GAP_OVERDUE = timedelta(seconds=30)
PROBE_FIRST = timedelta(seconds=1)
PROBE_MAX = timedelta(seconds=60)


def next_attempt(now: datetime, deadline_at: datetime, attempts: int, jitter: float, retry_after: timedelta | None = None) -> datetime:
    """When a refused notification is tried again.

    `attempts`: failures so far, this one included. `jitter`: 0 to 1, full jitter over the upper half of the gap. `retry_after`: what the
    messenger asked for, honoured up to the same cap.
    """
    slack = deadline_at - INTERNAL_MARGIN - now
    cap = min(GAP_MAX, max(slack / 20, GAP_MIN)) if slack > timedelta(0) else GAP_OVERDUE
    gap = min(cap, GAP_MIN * (1 << min(attempts, 20)))
    wanted = gap * (0.5 + 0.5 * jitter)
    if retry_after is not None:
        wanted = min(max(wanted, retry_after), cap)
    return now + wanted


def next_probe(now: datetime, failures: int, jitter: float, retry_after: timedelta | None = None) -> datetime:
    """When a failing endpoint is probed again: 1 s, 2 s, 4 s … at most 60 s, whatever `Retry-After` says beyond that."""
    gap = min(PROBE_MAX, PROBE_FIRST * (1 << min(max(failures - 1, 0), 10)))
    wanted = gap * (0.5 + 0.5 * jitter)
    if retry_after is not None:
        wanted = min(max(wanted, retry_after), PROBE_MAX)
    return now + wanted
