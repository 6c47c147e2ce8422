"""The bound on what may end or turn absent at once: the policy's, per hour, unless a person gave one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from registryd.store.pool import Connection, fetch
from registryd.store.queries import Nothing, Query

ContractsMax = Callable[[int], int]
"""A bound that a person gave: from how many contracts are live, how many of them it lets through."""


class Left(NamedTuple):
    ends: int


class Live(NamedTuple):
    live: int


class Bounds(NamedTuple):
    """How many contracts may end, and how many may turn absent. `left` is what the policy and allowances let through now."""

    ends: int
    absent: int
    left: int


ENDS_LEFT = Query("bounds", "ends_left", Left)
COUNT_LIVE = Query("bounds", "count_live", Live)
ALLOW_NOW = Query("bounds", "allow_now", Nothing, int, str)


async def count_live(connection: Connection) -> int:
    return (await fetch(connection, COUNT_LIVE))[0].live


async def bounds(connection: Connection, live: int, ends_max: ContractsMax | None, absent_max: ContractsMax | None) -> Bounds:
    """The bounds of one import. Whoever lets contracts end lets as many turn absent too, unless `absent_max` is given."""
    left = (await fetch(connection, ENDS_LEFT))[0].ends
    ends = left if ends_max is None else ends_max(live)
    return Bounds(ends, max(ends, left) if absent_max is None else absent_max(live), left)


async def allow_now(connection: Connection, ends: int, reason: str) -> None:
    """Lets so many ends beyond the policy's bound through in this transaction, so that their notifications are not held."""
    await fetch(connection, ALLOW_NOW, ends, reason)


def too_many(what: str, ends: int, absent: int, live: int, allowed: Bounds) -> str:
    """What to say of an import that would go beyond its bounds."""
    return (
        f"{what} would end {ends:,} of {live:,} live contracts ({ends / max(live, 1):.2%}) and turn {absent:,} absent, where "
        f"{allowed.ends:,} may end and {allowed.absent:,} may turn absent now; nothing was changed. Look at what is gone; if it is right, "
        f"import again with --max-terminations {ends} --max-absent {absent}"
    )
