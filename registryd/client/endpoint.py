"""A messenger's endpoint as the registry's pushes meet it: how one POST ended, how long it took, and over which connection.

It posts as `delivery/push.py` does: no redirect is followed, no proxy is used, and a POST whose kept connection had just been closed is
sent once more.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from importlib.metadata import version
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp
from yarl import URL

CONNECT_TIMEOUT_S = 3.0
ANSWER_MAX_BYTES = 4_096
"""What the registry reads of an answer. Behind a longer one it closes the connection."""
_HEADERS = {"User-Agent": f"registryd/{version('registryd')}", "Content-Type": "application/json"}


class Reply(NamedTuple):
    """How one POST ended. `status` is None where no answer came; `failure` then says why."""

    status: int | None
    failure: str
    seconds: float
    is_reused: bool = False
    """It went over a connection that was kept."""
    is_long: bool = False
    """The answer is longer than what the registry reads of it."""

    @property
    def is_receipt(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_refusal(self) -> bool:
        return self.status is not None and 400 <= self.status < 500

    def __str__(self) -> str:
        return self.failure if self.status is None else f"answered {self.status}"


class Endpoint:
    """Use: `async with Endpoint(url, tls, answer_timeout_s)`."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, answer_timeout_s: float) -> None:
        self._url = URL(url, encoded=True)
        self._tls = tls
        self._answer_timeout_s = answer_timeout_s
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        timeout = aiohttp.ClientTimeout(total=answer_timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=_HEADERS, skip_auto_headers=("Accept", "Accept-Encoding"), trace_configs=[trace]
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """One push; never raises for what the endpoint does."""
        started = time.monotonic()
        for is_last in (False, True):
            connection = SimpleNamespace(is_reused=False)
            try:
                async with self._session.post(
                    self._url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=connection
                ) as answer:
                    seconds = time.monotonic() - started
                    content = await answer.content.read(ANSWER_MAX_BYTES + 1)
                    return Reply(answer.status, "", seconds, connection.is_reused, len(content) > ANSWER_MAX_BYTES)
            except (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError):
                if is_last or not connection.is_reused:
                    return Reply(None, "closed the connection without an answer", time.monotonic() - started)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return Reply(None, self._failure(error), time.monotonic() - started)
        raise AssertionError("the second attempt returns")

    def _failure(self, error: Exception) -> str:
        match error:
            case TimeoutError():
                return f"gave no answer within {self._answer_timeout_s:g} s"
            case aiohttp.ClientConnectorCertificateError():
                return f"showed a certificate that is not valid: {getattr(error.certificate_error, 'verify_message', 'not trusted')}"
            case aiohttp.ClientConnectorDNSError():
                return "has a name that cannot be resolved"
            case aiohttp.ClientSSLError():
                return "speaks no TLS that the registry speaks"
            case aiohttp.ClientConnectorError():
                return "takes no connection"
            case _:
                return f"gave an answer that is not HTTP ({type(error).__name__})"


async def _note_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.is_reused = True


async def certificate_ends_at(url: str, tls: ssl.SSLContext) -> float | None:
    """When the endpoint's certificate ends, in seconds since 1970; None where there is no TLS connection to it."""
    parts = URL(url, encoded=True)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(parts.host, parts.port, ssl=tls, server_hostname=parts.host)
    except (OSError, TimeoutError):
        return None
    certificate = writer.get_extra_info("peercert")
    writer.close()
    return float(ssl.cert_time_to_seconds(certificate["notAfter"]))
