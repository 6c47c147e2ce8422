"""How long to wait before trying again: pure functions of the slack, the failures so far and the caller's jitter.

A notification is never given up. The wait before its next attempt is drawn from the whole of a span (full jitter). The span grows from
seconds, but never beyond 15 minutes, nor beyond a twentieth of the slack that is left to an internal deadline an hour before the legal
one. So attempts grow denser as that deadline nears; after it they go on every 30 s at most. Content that the messenger still refuses once
it is overdue is tried every hour: the endpoint works, and only people can mend what it refuses. A failing endpoint is probed by one
notification at least every minute, whatever it is owed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

INTERNAL_MARGIN = timedelta(hours=1)
GAP_MIN = timedelta(seconds=2)
"""The shortest gap between two attempts of one notification. It bounds how many there can be."""
GAP_MAX = timedelta(minutes=15)
GAP_OVERDUE = timedelta(seconds=30)
REFUSED_MAX_GAP = timedelta(minutes=5)
REFUSED_OVERDUE_GAP = timedelta(hours=1)
PROBE_MIN = timedelta(seconds=0.5)
PROBE_FIRST = timedelta(seconds=1)
PROBE_MAX = timedelta(seconds=59)
"""The dispatcher's poll comes on top, which makes it a minute."""


def next_attempt(slack: timedelta, attempts: int, jitter: float, retry_after: timedelta | None = None) -> timedelta:
    """The wait before a notification that failed is tried again.

    `slack`: what is left to its deadline. `attempts`: failures so far, this one included. `jitter`: 0 to 1. `retry_after`: what the
    messenger asked for, honoured up to the same cap.
    """
    slack -= INTERNAL_MARGIN
    cap = min(GAP_MAX, max(slack / 20, GAP_MIN)) if slack > timedelta(0) else GAP_OVERDUE
    gap = min(cap, GAP_MIN * (1 << min(attempts, 20)))
    return min(max(gap * jitter, GAP_MIN, retry_after or GAP_MIN), cap)


def next_attempt_of_refused(slack: timedelta, attempts: int, jitter: float) -> timedelta:
    """The wait before a notification whose content was refused is tried again."""
    if slack <= timedelta(0):
        return REFUSED_OVERDUE_GAP
    # Half of the jitter: the endpoint works, so there is nothing to probe for.
    return min(next_attempt(slack, attempts, 0.5 + jitter / 2), REFUSED_MAX_GAP)


def next_probe(failures: int, jitter: float, retry_after: timedelta | None = None) -> timedelta:
    """The wait before a failing endpoint is probed again, counted from when its last push began, so that a probe that hangs delays none.

    The span is 1 s, 2 s, 4 s … up to a minute, with full jitter. A longer `Retry-After` does not lengthen it.
    """
    span = min(PROBE_MAX, PROBE_FIRST * (1 << min(max(failures - 1, 0), 10)))
    return min(max(span * jitter, PROBE_MIN, retry_after or PROBE_MIN), PROBE_MAX)


def presses(now: datetime, terminated_at: datetime, deadline_at: datetime) -> bool:
    """Whether half of the notice period is gone. Then a notification is no longer held back to spare the registry the queries it causes."""
    return now - terminated_at > (deadline_at - terminated_at) / 2
