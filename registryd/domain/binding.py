"""A binding: messenger + identification code on a contract.

    active -> ended (terminated | replaced | removed)

terminated is moved by the database when the contract ends; replaced by the same messenger's next code for the number; removed by the
messenger. An ended binding never comes back.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

STATES = ("active", "ended")
END_REASONS = ("terminated", "replaced", "removed")


class Outcome(StrEnum):
    """What became of the code that came with a query on a present number."""

    RECORDED = "recorded"
    UNCHANGED = "unchanged"
    REPLACED = "replaced"
    CODE_IN_USE = "code_in_use"
    BUSY = "busy"
    """The contract was being changed by another transaction: ask again. Never told to a messenger."""


class Bound(NamedTuple):
    outcome: Outcome
    bound_at: datetime | None
    """When the binding was recorded; None for `code_in_use`."""
