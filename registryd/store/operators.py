"""Keys of the operator API: who may feed events, read the console's views, act."""

from __future__ import annotations

from typing import NamedTuple


class Operator(NamedTuple):
    name: str
    scopes: list[str]
