"""An answer: built whole, encoded once and written in one call.

Our answers are short and complete before the first byte goes out, so aiohttp's streaming response is of no use here.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import cache, lru_cache
from http import HTTPStatus
from types import MappingProxyType

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_CORRELATOR = re.compile(r"[a-zA-Z0-9\-_:;./<>{}]{1,256}", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def correlator(headers: Mapping[str, str] = NO_HEADERS) -> str:
    """What an answer carries as x-correlator: the client's, where it is well formed; else one of ours."""
    given = headers.get("x-correlator", "")
    return given if _CORRELATOR.fullmatch(given) else f"{random.getrandbits(64):016x}"


def told_correlator(headers: Mapping[str, str], marked: str) -> dict[str, str]:
    """The correlator as a fact for the log. A client's own that is no UUID is not told, because it may be anything, such as a number."""
    return {"correlator": marked} if marked != headers.get("x-correlator") or _UUID.fullmatch(marked) else {}


class Reply:
    """`close`: the connection ends after this answer. `headers` are ours: ASCII, without line breaks."""

    __slots__ = ("body", "close", "content_type", "correlator", "headers", "status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        close: bool = False,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers
        self.close = close
        self.correlator = ""

    def encode(self, *, with_body: bool = True) -> bytes:
        """The answer in HTTP/1.1 (RFC 9112). For HEAD, `with_body` is False: headers only, with Content-Length as if the body were sent."""
        further = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        if self.close:
            further += "Connection: close\r\n"
        return b"%b%bContent-Length: %d\r\nx-correlator: %b\r\n%b\r\n%b" % (
            _start(self.status, self.content_type),
            _date(int(time.time())),
            len(self.body),
            self.correlator.encode(),
            further.encode(),
            self.body if with_body else b"",
        )


@cache
def _start(status: int, content_type: str) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: registryd\r\nContent-Type: {content_type}\r\n".encode()


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
