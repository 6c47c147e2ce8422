"""When to try again: pure functions of now, the deadline and the past, with the caller's jitter.

A notification is never given up. The gap before its next attempt is drawn from a whole span (full jitter). The span doubles with each
failure, from 2 s, up to a cap: 15 minutes, or a twentieth of the time left to an internal deadline one hour before the legal one. So
attempts grow denser as the deadline comes near. After the internal deadline the cap is 30 s.

A failing endpoint is probed with one push at least every minute, however much it is owed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

INTERNAL_MARGIN = timedelta(hours=1)
GAP_MIN = timedelta(seconds=2)
"""The shortest gap between two attempts of one notification. It bounds how many there can be."""
GAP_MAX = timedelta(minutes=15)
GAP_OVERDUE = timedelta(seconds=30)
PROBE_MIN = timedelta(seconds=0.5)
PROBE_FIRST = timedelta(seconds=1)
PROBE_MAX = timedelta(seconds=59)
"""The dispatcher's poll comes on top, which makes it a minute."""


def next_attempt(now: datetime, deadline_at: datetime, attempts: int, jitter: float, retry_after: timedelta | None = None) -> datetime:
    """When a refused notification is tried again.

    `attempts`: failures so far, with this one. `jitter`: 0 to 1. `retry_after`: what the messenger asked for, honoured up to the cap.
    """
    slack = deadline_at - INTERNAL_MARGIN - now
    cap = min(GAP_MAX, max(slack / 20, GAP_MIN)) if slack > timedelta(0) else GAP_OVERDUE
    gap = min(cap, GAP_MIN * (1 << min(attempts, 20)))
    return now + min(max(gap * jitter, GAP_MIN, retry_after or GAP_MIN), cap)


def next_probe(began_at: datetime, failures: int, jitter: float, retry_after: timedelta | None = None) -> datetime:
    """When a failing endpoint is probed again. Counted from the beginning of its last push, so that a probe that hangs delays nothing.

    The span is 1 s, 2 s, 4 s … up to a minute, with full jitter. A longer `Retry-After` does not lengthen it.
    """
    span = min(PROBE_MAX, PROBE_FIRST * (1 << min(max(failures - 1, 0), 10)))
    return began_at + min(max(span * jitter, PROBE_MIN, retry_after or PROBE_MIN), PROBE_MAX)


def presses(now: datetime, terminated_at: datetime, deadline_at: datetime) -> bool:
    """Whether half of the notice period is gone. Then a notification is no longer held back to spare the registry the queries it causes."""
    return now - terminated_at > (deadline_at - terminated_at) / 2
