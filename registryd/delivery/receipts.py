"""Reads answers that are not quite HTTP. The status of an answer is its verdict, so a 2xx whose framing is broken is still a receipt.

aiohttp gives nothing of an answer whose headers it cannot parse: a body behind a 204, two Content-Length, a header that is too long. The
status line of such an answer is kept here. Its connection is closed.
"""

from __future__ import annotations

import re
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

HEADER_MAX_BYTES = 64 * 1024
HEADERS_MAX = 1_000
HEAD_MAX_BYTES = 256 * 1024
"""What an answer's headers may take together. With the two bounds above alone they could take 64 MB, and sixteen such answers at once
would have the process killed, which delivers to all others too.
"""
BEGINNING_MAX_BYTES = 8 * 1024
_STATUS = re.compile(rb"(?:\A|\r\n)HTTP/1\.[01] ([2-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
"""The first status line that is final: 1xx comes before it."""


class BrokenAnswer(aiohttp.ClientError):
    """The endpoint answered with this status, and with headers or a body that cannot be parsed."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class Reader(ResponseHandler):
    """The protocol of one connection: aiohttp's, which also keeps the beginning of each answer."""

    was_asked = False
    _head_bytes = 0
    """What has come since the last answer whose headers were whole."""
    _beginning = b""  # an endpoint may speak before it is asked

    def set_response_params(self, **options: Any) -> None:
        self.was_asked = True
        self._beginning = b""
        self._head_bytes = 0
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        if len(self._beginning) < BEGINNING_MAX_BYTES:
            self._beginning += data[:BEGINNING_MAX_BYTES]
        self._head_bytes += len(data)
        super().data_received(data)
        is_body = self._payload is not None and not self._payload.is_eof()
        if self._head_bytes > HEAD_MAX_BYTES and not is_body and self.transport is not None:
            self.transport.close()
            self.set_exception(HttpProcessingError(message="its headers are too long"))

    def feed_data(self, *answer: Any) -> None:
        self._head_bytes = 0
        super().feed_data(*answer)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        if isinstance(exc, HttpProcessingError) and (status := _STATUS.search(self._beginning)):
            exc = BrokenAnswer(int(status[1]))
        super().set_exception(exc, *cause)
