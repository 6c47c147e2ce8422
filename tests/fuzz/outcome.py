"""What a part of the campaign comes to."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    tried: int
    found: str
    """What broke; empty where nothing did."""

    @property
    def has_held(self) -> bool:
        """A part that tried nothing has shown nothing."""
        return self.tried > 0 and not self.found
