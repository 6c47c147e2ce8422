"""The times of delivery, in one place, because some of them must keep an order."""

from __future__ import annotations

from dataclasses import dataclass

from registryd.delivery.push import PUSH_MAX_S
from registryd.store.lanes import LEASE

LEASE_MARGIN_S = 5.0
"""No push begins that could end later than this before the lease lapses."""


@dataclass(frozen=True)
class Timing:
    """The defaults are what the service runs with; tests give shorter ones."""

    poll_s: float = 0.5
    """How often a process looks for lanes with something due. A NOTIFY only makes it look sooner."""
    renew_s: float = 15.0
    turn_s: float = 60.0
    """A busy lane is given back after about this, so that a new endpoint or agreement takes effect and other lanes get their turn."""
    rest_s: float = 30.0
    """How long a lane whose work failed unexpectedly is left alone."""
    stop_patience_s: float = 18.0
    """How long a stopped lane waits for its last push and for the database."""
    stop_timeout_s: float = 25.0
    """When a stopped dispatcher gives up on its lanes."""

    def __post_init__(self) -> None:
        assert LEASE.total_seconds() > PUSH_MAX_S + LEASE_MARGIN_S + self.renew_s, "a push must end within the lease it began in"
        assert self.stop_timeout_s > self.stop_patience_s > 0, "lanes end before the dispatcher gives up on them"


TIMING = Timing()
assert TIMING.stop_patience_s > PUSH_MAX_S, "a stopped lane waits for its last push"
