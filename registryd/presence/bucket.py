"""A token bucket: a rate a minute, of which one minute may be saved up."""

from __future__ import annotations

from typing import NamedTuple

MINUTE_S = 60.0


class Limit(NamedTuple):
    """How much of a limit is left: `left` of `quota` a `window_s`, and all of it in `whole_s`."""

    name: str
    quota: int
    window_s: int
    left: int
    whole_s: float


class TokenBucket:
    """Its state is the time until which what was taken uses up the rate (the generic cell rate algorithm, ITU-T I.371)."""

    __slots__ = ("_paid_at",)

    def __init__(self) -> None:
        self._paid_at = 0.0

    def take(self, now: float, count: int, per_minute: int) -> float:
        """Takes `count` and returns 0; or takes nothing, and returns the seconds until so many are there (more than a minute's: never)."""
        paid_at = max(self._paid_at, now) + count * MINUTE_S / per_minute
        wait_s = paid_at - now - MINUTE_S
        if wait_s > 0:
            return wait_s
        self._paid_at = paid_at
        return 0.0

    def limit(self, name: str, now: float, per_minute: int) -> Limit:
        """What is left of the rate, under a name."""
        owed_s = max(self._paid_at - now, 0.0)
        return Limit(name, per_minute, int(MINUTE_S), int((MINUTE_S - owed_s) * per_minute / MINUTE_S), owed_s)
