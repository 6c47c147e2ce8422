"""An API's own document without a key: `/openapi.yaml`, and `/docs`, a page that shows it and asks no other host for anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from math import ceil

from aiohttp.web import BaseRequest

from registryd import resources
from registryd.domain.errors import TooManyCalls
from registryd.http import problems
from registryd.http.reply import Reply
from registryd.presence.bucket import TokenBucket

PER_MINUTE = 300
PART_BYTES = 100_000
"""What all clients of a process together may read: so many parts a minute, because nobody shows a key and the script is large."""
MAX_AGE_S = 300

# Redoc writes its styles into the page, and searches in a worker that it makes itself. Its script is kept compressed, as browsers take it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Mapping[str, str] = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}


class Shown:
    """One file, as it is answered."""

    def __init__(self, body: bytes, content_type: str, headers: Mapping[str, str]) -> None:
        self._body = body
        self._content_type = content_type
        self._tag = f'"{sha256(body).hexdigest()[:32]}"'
        caching = {"ETag": self._tag, "Cache-Control": f"public, max-age={MAX_AGE_S}", "X-Content-Type-Options": "nosniff"}
        self._headers = {**headers, **caching}

    def reply(self, known: str) -> Reply:
        """`known`: the request's If-None-Match."""
        tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
        if self._tag in tags or known == "*":
            return NotModified(self._body, 304, self._content_type, self._headers)
        return Reply(self._body, 200, self._content_type, self._headers)


class NotModified(Reply):
    """The headers of the answer that the client knows (RFC 9110 15.4.5)."""

    def encode(self, *, with_body: bool = True) -> bytes:
        return super().encode(with_body=False)


class Documents:
    """What one API shows. The files are read at the start: an upgrade may replace them while the process runs."""

    def __init__(self, api: str, clock: Callable[[], float] = time.monotonic) -> None:
        def read(name: str) -> bytes:
            return resources.path(f"registryd/http/{name}").read_bytes()

        page = read("docs/page.html").replace(b"{api}", api.encode())
        self._shown: Mapping[str, Shown] = {
            "/openapi.yaml": Shown(read(f"{api}.yaml"), "application/yaml", {}),
            "/docs": Shown(page, "text/html; charset=utf-8", _PAGE),
            "/docs/redoc.js": Shown(read("docs/redoc.standalone.js.gz"), "text/javascript; charset=utf-8", {"Content-Encoding": "gzip"}),
        }
        self._clock = clock
        self._parts = TokenBucket()

    def answer(self, request: BaseRequest) -> Reply:
        """Raises: HttpError, also where nothing is at the path; TooManyCalls."""
        shown = self._shown.get(request.rel_url.raw_path)
        if shown is None:
            raise problems.not_found()
        if request.method not in ("GET", "HEAD"):
            raise problems.method_not_allowed(["GET", "HEAD"])
        reply = shown.reply(request.headers.get("If-None-Match", ""))
        sends_body = reply.status == 200 and request.method == "GET"
        wait_s = self._parts.take(self._clock(), 1 + len(reply.body) // PART_BYTES if sends_body else 1, PER_MINUTE)
        if wait_s:
            raise TooManyCalls(ceil(wait_s))
        return reply
