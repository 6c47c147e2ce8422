"""A binding: messenger + identification code on a contract.

    active -> ended (terminated | replaced | removed)

A binding ends as terminated when the database ends its contract, as replaced when the same messenger binds another code to the number, and
as removed when the messenger removes it. An ended binding never comes back.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

END_REASONS = ("terminated", "replaced", "removed")


class Outcome(StrEnum):
    """What became of the code that came with a query on a present number."""

    RECORDED = "recorded"
    UNCHANGED = "unchanged"
    REPLACED = "replaced"
    CODE_IN_USE = "code_in_use"
    BUSY = "busy"
    """Another transaction was changing the contract, so the query is asked again. A messenger never sees this outcome."""


class Bound(NamedTuple):
    outcome: Outcome
    bound_at: datetime | None
    """When the binding was recorded; None for `code_in_use`."""
    generation: int | None
    """Of the contract that it is on; None for `code_in_use`."""
