"""Makes one push, a signed POST of one or more notifications, and turns the answer into an outcome.

It follows no redirect, uses no proxy of the environment, decompresses nothing, reads at most 4 KiB of an answer, and quotes none of it.
aiohttp opens and keeps the connections and parses the answers. The requests are written here: those of one endpoint differ in three headers
and the body, and what aiohttp's client does for a request of any kind took half of a push's time.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from errno import ECONNRESET, EPIPE
from functools import partial
from importlib.metadata import version

import aiohttp
import orjson
from aiohttp import ClientRequest, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from yarl import URL

from registryd.delivery.egress import Egress, EgressRefused
from registryd.delivery.receipts import HEADER_MAX_BYTES, HEADERS_MAX, BrokenAnswer, Reader
from registryd.delivery.resolver import Resolver
from registryd.delivery.signing import Signer
from registryd.domain.notification import Acknowledged, Failed, Notification, Outcome, Rejected, event, webhook_id
from registryd.domain.times import seconds_until
from registryd.store.messengers import signing_secrets
from registryd.store.pool import Database
from registryd.store.secretbox import SecretBox

TOTAL_TIMEOUT_S = 15.0
"""Until the answer's headers are there."""
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 2.0
"""For the rest of the answer, on top."""
PUSH_MAX_S = TOTAL_TIMEOUT_S + ANSWER_TIMEOUT_S
ANSWER_MAX_BYTES = 4096
CONTENT_REFUSED = (400, 413, 422)
INFORMATIONAL = frozenset(range(100, 200)) - {101}
"""An answer with one of these comes before the final one."""

_CONNECTING = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
_HEADERS = {"User-Agent": f"registryd/{version('registryd')}", "Content-Type": "application/json"}
_SKIPPED = ("Accept", "Accept-Encoding")


class Pusher:
    """Keeps a channel to each messenger's endpoint. Use: `async with Pusher(...)`.

    `identity(name)` is the messenger's own TLS context: the client certificate it wants to see and the private CA it is signed by.
    """

    def __init__(
        self, db: Database, box: SecretBox, egress: Egress, identity: Callable[[str], ssl.SSLContext | None] = lambda _: None
    ) -> None:
        self._db = db
        self._box = box
        self._egress = egress
        self._identity = identity
        self._resolver = Resolver()
        self._channels: dict[str, Channel] = {}
        self._retired: list[Channel] = []
        """Channels to endpoints that have moved. A lane may still be pushing there."""

    async def __aenter__(self) -> Pusher:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in [*self._channels.values(), *self._retired]:
            await channel.close()

    async def signer(self, messenger_id: int) -> Signer:
        """A signer with every live secret of the messenger. Raises: Unavailable, WrongSecretsKey, ValueError."""
        return Signer(await signing_secrets(self._db, self._box, messenger_id))  # type: ignore[arg-type] # a row's int is a MessengerId

    def channel(self, name: str, url: str) -> Channel:
        """The channel to a messenger's endpoint. It is kept as long as the URL stays the same."""
        channel = self._channels.get(name)
        if channel is None or channel.url != url:
            self._retired += [channel] if channel else []
            channel = self._channels[name] = Channel(url, self._egress, self._resolver, lambda: self._identity(name))
        return channel

    @asynccontextmanager
    async def channel_once(self, name: str, url: str) -> AsyncIterator[Channel]:
        """A channel to an endpoint that is not the messenger's; the one to its own stays as it is."""
        channel = Channel(url, self._egress, self._resolver, lambda: self._identity(name))
        try:
            yield channel
        finally:
            await channel.close()


class Channel:
    """One messenger's endpoint, with connections of its own, so that what it does reaches no other messenger."""

    def __init__(self, url: str, egress: Egress, resolver: Resolver, identity: Callable[[], ssl.SSLContext | None]) -> None:
        self.url = url
        self._refusal: Failed | None = None
        loop = asyncio.get_running_loop()
        tls = None
        try:
            egress.check_url(url)
            tls = identity()
            to = URL(url, encoded=True)
            self._request = ClientRequest("POST", to, headers=_HEADERS, skip_auto_headers=_SKIPPED, ssl=tls or True, loop=loop)
            self._head = _head(self._request)
        except ValueError as error:
            self._refusal = Failed(str(error) if str(error).startswith("the endpoint") else "the endpoint is not a URL")
        except OSError:
            self._refusal = Failed("the credentials endpoint-certificate or endpoint-ca of this messenger cannot be used")
        self._connector = aiohttp.TCPConnector(
            limit=0, limit_per_host=0, ttl_dns_cache=30, resolver=resolver, socket_factory=egress.socket_factory, ssl=tls or True
        )
        self._connector._factory = partial(_reader, loop)

    async def close(self) -> None:
        await self._connector.close()

    async def push(self, signer: Signer, notifications: Sequence[Notification], *, with_phone_number: bool) -> Outcome:
        """Pushes notifications of the messenger; never raises for what the endpoint does."""
        body = orjson.dumps(event(notifications, with_phone_number=with_phone_number))
        return await self.post(signer, webhook_id(notifications), int(time.time()), body)

    async def post(self, signer: Signer, message_id: str, timestamp: int, body: bytes) -> Outcome:
        """Makes one signed POST. It is sent once more where the endpoint had just closed the kept connection."""
        if self._refusal is not None:
            return self._refusal
        if not signer:
            return Failed("no signing secret is live")
        signature = signer.signature(message_id, timestamp, body)
        fields = f"webhook-id: {message_id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n"
        request = b"%b%bContent-Length: %d\r\n\r\n%b" % (self._head, fields.encode(), len(body), body)
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT_S):
                try:
                    connection, answer, content = await self._ask(request)
                except (aiohttp.ClientError, OSError) as error:
                    if not _was_closed(error):
                        raise
                    connection, answer, content = await self._ask(request)
        except BrokenAnswer as broken:
            return _judge(broken.status, {})
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            return _failure(error)
        await _release(connection, content)
        return _judge(answer.code, answer.headers)

    async def _ask(self, request: bytes) -> tuple[Connection, RawResponseMessage, StreamReader]:
        """Sends a request and waits for the headers of its answer. The connection is then the caller's to release."""
        connection, reader, transport = await self._connect()
        try:
            reader.set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                max_line_size=HEADER_MAX_BYTES,
                max_field_size=HEADER_MAX_BYTES,
                max_headers=HEADERS_MAX,
            )
            transport.write(request)
            while True:
                answer, content = await reader.read()
                if answer.code not in INFORMATIONAL:
                    return connection, answer, content
        except BaseException:
            connection.close()
            raise

    async def _connect(self) -> tuple[Connection, ResponseHandler, asyncio.Transport]:
        """A kept connection, or a new one. One on which something came unasked is of no use: that would be taken for the answer."""
        while True:
            connection = await self._connector.connect(self._request, [], _CONNECTING)
            reader, transport = connection.protocol, connection.transport
            if reader is not None and transport is not None and not reader.should_close:
                return connection, reader, transport
            connection.close()
            if isinstance(reader, Reader) and not reader.was_asked:
                raise aiohttp.ClientConnectionError  # the endpoint speaks first or hangs up, and would on the next connection


def _reader(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return Reader(loop)


def _head(request: ClientRequest) -> bytes:
    """The beginning of each request to an endpoint: the request line, and the headers that are always the same."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items() if name != "Content-Length")
    return f"POST {request.url.raw_path_qs} HTTP/1.1\r\n{fields}".encode()


async def _release(connection: Connection, content: StreamReader) -> None:
    """Reads a short answer, so that its connection can be kept. A body that never ends changes nothing: the status has decided."""
    try:
        if not content.is_eof():
            with suppress(aiohttp.ClientError, TimeoutError):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await content.read(ANSWER_MAX_BYTES)
        # What was answered before it was read would still be read there.
        if content.is_eof() and connection.transport is not None and not connection.transport.get_write_buffer_size():
            connection.release()
    finally:
        connection.close()


def _was_closed(error: BaseException) -> bool:
    """Whether the connection ended under the request, as happens when the endpoint closes an idle connection."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error, aiohttp.ServerDisconnectedError) or (isinstance(error, OSError) and error.errno in (ECONNRESET, EPIPE))


def _failure(error: Exception) -> Failed:
    """What a push met that has no answer, without any of its content."""
    match error:
        case TimeoutError():
            return Failed("timeout")
        case aiohttp.InvalidURL():
            return Failed("the endpoint is not a URL")
        case aiohttp.ClientConnectorCertificateError():
            return Failed("the endpoint's certificate is not valid")
        case aiohttp.ClientConnectorDNSError():
            return Failed("the endpoint's name cannot be resolved")
        case aiohttp.ClientSSLError():
            return Failed("TLS failed")
        case aiohttp.ClientConnectorError(os_error=os_error):
            return Failed("the address is refused by the egress guard" if isinstance(os_error, EgressRefused) else "no connection")
        case UnicodeError():
            return Failed("the endpoint's name cannot be resolved")
        case aiohttp.ClientError() | OSError() | HttpProcessingError():  # before ValueError, because some of aiohttp's errors are both
            return Failed(f"connection lost ({type(error).__name__})")
        case _:
            return Failed("the endpoint is not a URL")


def _judge(status: int, headers: Mapping[str, str]) -> Outcome:
    if 200 <= status < 300:
        return Acknowledged(status)
    if status in CONTENT_REFUSED:
        return Rejected(status)
    wait_s = seconds_until(headers.get("Retry-After", ""), datetime.now(UTC)) if status in (429, 503) else None
    return Failed(f"status {status}", status, None if wait_s is None else timedelta(seconds=wait_s))
