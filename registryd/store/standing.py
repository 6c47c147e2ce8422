"""What stands in tables and changes slowly, for the metrics."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from registryd.store.queries import Query


class Standing(NamedTuple):
    digests_undelivered: int
    replays_waiting: int
    changes_waiting: int
    partitions_ahead: timedelta
    verified_at: datetime | None
    findings: int
    """Of the last verification; 0 where there was none."""


class Steps(NamedTuple):
    step: str
    steps: int


class KeyEnd(NamedTuple):
    """A caller all of whose keys end: its name (operator/NAME for the operator API), and when the last one does."""

    caller: str
    ends_at: datetime


READ_STANDING = Query("standing", "read_standing", Standing)
COUNT_STEPS = Query("standing", "count_steps", Steps)
READ_KEY_ENDS = Query("standing", "read_key_ends", KeyEnd)
