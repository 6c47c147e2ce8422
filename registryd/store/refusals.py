"""Refusals by day, messenger and reason: evidence of what was asked and not answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Nothing, Query


class Refused(NamedTuple):
    messenger_id: MessengerId
    reason: str
    seconds_ago: float
    refusals: int


ADD_REFUSALS = Query("refusals", "add_refusals", Nothing, list[int], list[str], list[float], list[int])


async def add(connection: Connection, refused: Sequence[Refused]) -> None:
    await fetch(connection, ADD_REFUSALS, *zip(*refused, strict=True))
