"""What a deed of the console is: how it is planned, what its confirmation page says, and how it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from registryd.console.forms import Fields
from registryd.domain.identifiers import MessengerId
from registryd.store.pool import Connection, Database, PlainConnection


def at_most(
    count: int, opened: Callable[[], AbstractAsyncContextManager[PlainConnection]]
) -> Callable[[], AbstractAsyncContextManager[PlainConnection]]:
    """Opens so many connections at once. Who wants another one waits until one is closed."""
    room = asyncio.Semaphore(count)

    @asynccontextmanager
    async def bounded() -> AsyncIterator[PlainConnection]:
        async with room, opened() as connection:
            yield connection

    return bounded


class Places(NamedTuple):
    """Where a deed reads and writes."""

    db: Database
    looks: Database
    bulk: Callable[[], AbstractAsyncContextManager[PlainConnection]]
    """A connection of its own, for what may take longer than the pools allow a statement."""


@dataclass(frozen=True)
class Plan:
    """What a deed would do, as the confirmation page says it."""

    messenger_id: MessengerId | None
    what: str
    """In a sentence, as the log keeps it."""
    counted: int
    of: str
    """What is counted."""
    reason: str
    do: Callable[[Connection], Awaitable[str | None]]
    """Does it; returns the outcome, or None where `then` tells it. Raises: NotDone, and nothing was done."""
    then: Callable[[], Awaitable[str]] | None = None
    """What is done after the transaction; returns the outcome."""
    is_bound: bool = True
    """Whether it is planned anew, and shown again, where the count has changed until it is confirmed."""
    is_bulk: bool = False
    keeps: Mapping[str, str] = field(default_factory=dict)
    """Fields that the confirmation sends instead of the form's."""
    warning: str = ""


class Deed(NamedTuple):
    kind: str
    title: str
    fields: tuple[str, ...]
    plan: Callable[[Places, Fields], Awaitable[Plan]]
    """Raises: NotDone."""
