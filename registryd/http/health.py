"""The health listener of a process: /healthz, /readyz, /metrics and a page, without a key; and the door of an API that is not open yet."""

from __future__ import annotations

import time

import orjson
from aiohttp.web import BaseRequest

from registryd import exposition, observe, resources
from registryd.domain.errors import Unavailable
from registryd.http import problems
from registryd.http.admission import NOBODY
from registryd.http.reply import Reply, correlator
from registryd.http.transport import Handler

STALE_S = 5.0
LOOKS = ("GET", "HEAD", "OPTIONS")


class Health:
    """Whether the process can do its work, as it last found out. `reason` says why it cannot; it is empty where it can.

    Call `tell` about once a second: what is older than STALE_S is no longer believed.
    """

    def __init__(self) -> None:
        self._reason = "starting"
        self._told_at = time.monotonic()

    @property
    def reason(self) -> str:
        if not self._reason and time.monotonic() - self._told_at > STALE_S:
            return "the database does not answer"
        return self._reason

    def tell(self, reason: str) -> None:
        self._reason = reason
        self._told_at = time.monotonic()
        observe.ready.set(not reason)

    async def __call__(self, request: BaseRequest) -> Reply:
        match looked_at(request):
            case "/healthz":
                return plain(b"ok\n")
            case "/readyz":
                return readiness(self.reason)
            case "/metrics":
                return plain(exposition.exposition())
            case path:
                return page(path)


class Door:
    """The handler of an API's listener, which is open before its work is there: until `handler` is set, every answer is 503."""

    def __init__(self, api: str) -> None:
        self.handler: Handler | None = None
        self.is_shut = False
        self._api = api

    async def __call__(self, request: BaseRequest) -> Reply:
        if self.handler is None or self.is_shut:
            observe.child(observe.requests, self._api, "unknown", 503).inc()
            observe.child(observe.requests_refused, NOBODY, "schema" if self.is_shut else "database").inc()
            reply = problems.respond(Unavailable())
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


PAGE = resources.path("registryd/console/index.html").read_bytes()
"""Read at the start: an upgrade may have replaced the file since."""


def page(path: str) -> Reply:
    """`/`: a page that shows the other three."""
    if not path:
        return Reply(b"this is only looked at\n", 405, "text/plain; charset=utf-8", {"Allow": ", ".join(LOOKS)})
    if path != "/":
        return plain(b"there are /, /healthz, /readyz and /metrics\n", 404)
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
    headers = {"Content-Security-Policy": policy, "X-Frame-Options": "DENY"}
    return Reply(PAGE, content_type="text/html", headers=headers)


def plain(body: bytes, status: int = 200) -> Reply:
    return Reply(body, status, "text/plain; version=0.0.4; charset=utf-8")
