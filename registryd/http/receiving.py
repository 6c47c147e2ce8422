"""Receives the body of a request: in time, up to a bound, and only what is wanted."""

from __future__ import annotations

import asyncio
import re

from aiohttp import web_protocol
from aiohttp.web import BaseRequest

from registryd.config import ApiSection
from registryd.http import problems

_PARAMETERS = re.compile(r"""(?:;[ \t]*(?:[\w!#$%&'*+.^`|~-]+=(?:"[^"\\]*"|[\w!#$%&'*+.^`|~-]+))?[ \t]*)*""", re.ASCII)
_CHARSET = re.compile(r"""charset=("[^"]*"|[^;\s]*)""", re.IGNORECASE)


async def read_body(request: BaseRequest, api: ApiSection, max_bytes: int, wanted: str = "application/json") -> bytes:
    """A request's body of `max_bytes` or `api.body_max_bytes` at most, whichever is less.

    Raises: HttpError where it is too large, too slow, compressed or not of the wanted type.
    """
    max_bytes = min(max_bytes, api.body_max_bytes)
    headers = request.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise problems.unsupported_media_type("Send the body uncompressed.")
    media_type = headers.get("Content-Type", "")
    if media_type != wanted and not is_of_type(media_type, wanted):
        raise problems.unsupported_media_type(f"Send the body as Content-Type: {wanted} in UTF-8.")
    content = request.content
    if content.is_eof():  # it came with the headers
        body = content.read_nowait(-1)
        if len(body) > max_bytes:
            raise problems.too_large(max_bytes)
        return body
    if (request.content_length or 0) > max_bytes:
        raise problems.too_large(max_bytes)
    if headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(api.body_timeout_s):
            while part := await content.readany():
                size += len(part)
                if size > max_bytes:
                    raise problems.too_large(max_bytes)
                parts.append(part)
    except TimeoutError:
        raise problems.too_slow(api.body_timeout_s) from None
    except (web_protocol.RequestPayloadError, OSError):  # broken or cut off, or the client has gone away
        raise problems.HttpError(400, "INVALID_ARGUMENT", "The body's framing is broken.", close=True) from None
    return b"".join(parts)


def is_of_type(media_type: str, wanted: str = "application/json") -> bool:
    """Whether a Content-Type says the wanted type in UTF-8 (RFC 9110 8.3). Parameters that we do not know change nothing."""
    kind, semicolon, rest = media_type.partition(";")
    if kind.strip().lower() != wanted or _PARAMETERS.fullmatch(semicolon + rest) is None:
        return False
    return all(charset.strip('"').lower() in ("utf-8", "utf8") for charset in _CHARSET.findall(rest))
