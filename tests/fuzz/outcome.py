"""What a part of the campaign comes to."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    tried: int
    found: str
    """What broke; empty where nothing did."""
