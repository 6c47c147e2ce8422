"""Who makes room where a listener has as many connections as it may: those that were idle for longest, of whoever has the most.

So neither a stranger, who needs no key to open connections and keep them, nor a messenger can take them all from the others. Who has shown
no valid key on a connection, or has not ended its handshake, counts as one stranger with all others.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from operator import attrgetter
from typing import Protocol

from registryd import observe

AT_ONCE = 64
"""A look at all connections takes a millisecond, so one in so many makes room at once."""


class Held(Protocol):
    """A connection."""

    @property
    def owner(self) -> str:
        """Whose key it has shown; empty where none."""

    @property
    def is_idle(self) -> bool: ...

    @property
    def idle_since(self) -> float: ...

    def leave(self) -> None:
        """Ends it, and takes it off the list of those there are."""


def make_room(api: str, connections: Iterable[Held]) -> bool:
    """Ends some. False where whoever has the most uses all of his: then the further one is refused."""
    held = list(connections)
    [(most, _)] = Counter(connection.owner for connection in held).most_common(1)
    idle = [connection for connection in held if connection.is_idle and connection.owner == most]
    leaving = heapq.nsmallest(max(1, len(held) // AT_ONCE), idle, key=attrgetter("idle_since"))
    for connection in leaving:
        connection.leave()
    observe.connections_closed.labels(api, "room" if leaving else "cap").inc(max(1, len(leaving)))
    return bool(leaving)
