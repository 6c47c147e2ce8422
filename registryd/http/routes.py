"""What a route is: its handler, and everything that admission (admission.py) needs to know before the handler runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from aiohttp.web import BaseRequest

from registryd.http.reply import Reply
from registryd.presence.quota import Reservation


class Named(Protocol):
    """Who calls: a messenger, or a key of the operator API."""

    @property
    def name(self) -> str: ...


Caller = TypeVar("Caller", bound=Named)


class Budget(NamedTuple):
    """What one caller may do on one route of one process. None: as often as it likes."""

    at_once: int
    per_minute: int | None = None


class Call(Generic[Caller]):
    """One request on its way to its handler."""

    __slots__ = ("caller", "content", "received", "request", "reserved")

    reserved: Reservation
    """Set on routes that ask for numbers."""

    def __init__(self, request: BaseRequest, caller: Caller, received: float) -> None:
        self.request = request
        self.caller = caller
        self.received = received
        """time.monotonic() when its headers were read."""
        self.content: Any = None
        """What the route's `takes` made of the body."""


class Route(NamedTuple, Generic[Caller]):
    name: str
    handle: Callable[[Call[Caller]], Awaitable[Reply]]
    budget: Budget
    takes: Callable[[bytes], Any] | None = None
    """Reads a JSON body; None: the route takes no body."""
    body_optional: bool = False
    numbers: Callable[[Any], int] | None = None
    """How many presence queries the content asks: they count against the quota and the alarm's trickle."""
    parameters: frozenset[str] | None = frozenset()
    """The query parameters it knows; None: any."""
    shares_pool: bool = False
    """It uses the small pool, of which a caller has a share; others use the lines' own, or no database."""
    while_suspended: bool = False
    """A suspended messenger may call it."""
    scope: str = ""
    """What a key of the operator API must allow."""
    is_open: bool = False
    """Nobody is asked for a key."""


Routes = Mapping[str, Mapping[str, Route[Caller]]]
"""By path, then by method."""
