"""The health listener of a process: /healthz, /readyz and /metrics, without a key; and the door of an API that is not open yet."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson
from aiohttp.web import BaseRequest

from registryd import exposition, observe
from registryd.domain.errors import Unavailable
from registryd.http import problems
from registryd.http.admission import NOBODY
from registryd.http.reply import Reply, correlator
from registryd.http.transport import Handler

STALE_S = 5.0
LOOKS = ("GET", "HEAD", "OPTIONS")


class Health:
    """Whether the process can do its work, as it last found out. `reason` says why it cannot; it is empty where it can.

    Call `tell` about once a second: what is older than STALE_S is no longer believed. `clock()`: a monotonic one, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._reason = "starting"
        self._clock = clock
        self._told_at = clock()
        observe.ready.set_function(lambda: not self.reason)

    @property
    def reason(self) -> str:
        if not self._reason and self._clock() - self._told_at > STALE_S:
            return "the database does not answer"
        return self._reason

    def tell(self, reason: str) -> None:
        self._reason = reason
        self._told_at = self._clock()

    async def __call__(self, request: BaseRequest) -> Reply:
        match looked_at(request):
            case "/healthz":
                return plain(b"ok\n")
            case "/readyz":
                return readiness(self.reason)
            case "/metrics":
                return plain(await exposition.exposition())
            case path:
                return elsewhere(path)


class Door:
    """The handler of an API's listener, which is open before its work is there: until `handler` is set, every answer is 503."""

    def __init__(self, api: str, closed: Callable[[BaseRequest], Reply | None]) -> None:
        """`closed` may answer while the door is; where it does not, the answer is a problem document."""
        self.handler: Handler | None = None
        self._closed = closed
        self.is_shut = False
        self._api = api

    async def __call__(self, request: BaseRequest) -> Reply:
        if self.handler is None or self.is_shut:
            reply = self._closed(request) or problems.respond(Unavailable())
            observe.child(observe.requests, self._api, "unknown", reply.status).inc()
            if reply.status == 503:
                observe.child(observe.requests_refused, NOBODY, "schema" if self.is_shut else "database").inc()
            reply.correlator = correlator(request.headers)
            return reply
        return await self.handler(request)


def looked_at(request: BaseRequest) -> str:
    """The path that is looked at; empty where a method does more than look. HAProxy's `OPTIONS /` looks at /readyz."""
    if request.method not in LOOKS:
        return ""
    return "/readyz" if request.method == "OPTIONS" and request.path in ("/", "*") else request.path


def readiness(reason: str, **facts: object) -> Reply:
    """/readyz: 200, or 503 with the reason."""
    told = {"ready": not reason, **({"reason": reason} if reason else {}), **facts}
    return Reply(orjson.dumps(told), 503 if reason else 200)


def elsewhere(path: str) -> Reply:
    """The answer to what the health listener does not have."""
    if not path:
        return Reply(b"this is only looked at\n", 405, "text/plain; charset=utf-8", {"Allow": ", ".join(LOOKS)})
    return plain(b"there are /healthz, /readyz and /metrics; the console is on the operator API's listener\n", 200 if path == "/" else 404)


def plain(body: bytes, status: int = 200) -> Reply:
    return Reply(body, status, "text/plain; version=0.0.4; charset=utf-8")
