"""A route: its handler, and what admission (admission.py) must know before the handler runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from aiohttp.web import BaseRequest

from registryd.http.reply import Reply
from registryd.presence.quota import Reservation


class Named(Protocol):
    """A caller: a messenger, or a key of the operator API."""

    @property
    def name(self) -> str: ...


Caller = TypeVar("Caller", bound=Named)


ONE_MAX_BYTES = 16_384
"""What a body may take that names one thing, however its JSON is written. Of such requests one caller may have thousands under way."""


class Budget(NamedTuple):
    """What one caller may do on one route of one process. `per_minute` None: as often as it likes."""

    at_once: int
    per_minute: int | None = None


class Call(Generic[Caller]):
    """One request on its way to its handler."""

    __slots__ = ("caller", "content", "correlator", "name", "received", "request", "reserved")

    reserved: Reservation
    """The numbers held of the quota. Set where the content asks for numbers."""

    def __init__(self, request: BaseRequest, caller: Caller, received: float, correlator: str) -> None:
        self.request = request
        self.correlator = correlator
        """What the answer will carry as x-correlator."""
        self.caller = caller
        self.received = received
        """time.monotonic() when the headers were read."""
        self.content: Any = None
        """The parsed body: the result of the route's `takes`."""
        self.name = ""
        """What stands in a path in the place of `{name}`."""


class Route(NamedTuple, Generic[Caller]):
    name: str
    handle: Callable[[Call[Caller]], Awaitable[Reply]]
    budget: Budget
    takes: Callable[[bytes], Any] | None = None
    """Reads a JSON body; None: the route takes no body."""
    body_max_bytes: int = ONE_MAX_BYTES
    """What its body may take, where `[api] body_max_bytes` is no less."""
    body_optional: bool = False
    numbers: Callable[[Any], int] | None = None
    """How many presence queries the content asks: they count against the quota and the alarm's trickle. 0: all are test numbers."""
    parameters: frozenset[str] = frozenset()
    """The query parameters it knows."""
    shares_pool: bool = False
    """The handler uses the small pool, of which each caller has a share. Other handlers use the answers' pool, or no database."""
    while_suspended: bool = False
    """A suspended messenger may call it."""
    tells_limits: bool = True
    """Its answers carry RateLimit fields. Without it only its 429 do: they would be dear beside a single query."""
    scope: str = ""
    """The scope that a key of the operator API needs."""


Routes = Mapping[str, Mapping[str, Route[Caller]]]
"""By path, then by method. A path may end in `/{name}`: a name as messengers and reports have them, or an id."""
