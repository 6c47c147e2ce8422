"""Makes one push, a signed POST of one or more notifications, and turns the answer into an outcome.

It follows no redirect, uses no proxy of the environment, decompresses nothing, reads at most 4 KiB of an answer, and quotes none of it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from errno import ECONNRESET, EPIPE
from functools import partial

import aiohttp
import orjson
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
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 2.0
ANSWER_MAX_BYTES = 4096
CONTENT_REFUSED = (400, 413, 422)


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


class Channel:
    """One messenger's endpoint, with a session and connections of its own, so that what it does reaches no other messenger."""

    def __init__(self, url: str, egress: Egress, resolver: Resolver, identity: Callable[[], ssl.SSLContext | None]) -> None:
        self.url = url
        self._refusal: Failed | None = None
        tls = None
        try:
            egress.check_url(url)
            self._url = URL(url, encoded=True)
            tls = identity()
        except ValueError as error:
            self._refusal = Failed(str(error) if str(error).startswith("the endpoint") else "the endpoint is not a URL")
        except OSError:
            self._refusal = Failed("the credentials endpoint-certificate or endpoint-ca of this messenger cannot be used")
        connector = aiohttp.TCPConnector(
            limit=0, limit_per_host=0, ttl_dns_cache=30, resolver=resolver, socket_factory=egress.socket_factory, ssl=tls or True
        )
        connector._factory = partial(Reader, loop=asyncio.get_running_loop())  # type: ignore[assignment] # a kind of its own
        self._session = aiohttp.ClientSession(
            connector=connector,
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
            max_headers=HEADERS_MAX,
            timeout=aiohttp.ClientTimeout(total=TOTAL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
            headers={"User-Agent": "registryd", "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding"),
        )

    async def close(self) -> None:
        await self._session.close()

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
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signer.signature(message_id, timestamp, body),
        }
        began = time.monotonic()
        outcome = await self._post(body, headers, None)
        if outcome is not None:
            return outcome
        left = aiohttp.ClientTimeout(total=max(0.001, TOTAL_TIMEOUT_S - (time.monotonic() - began)), sock_connect=CONNECT_TIMEOUT_S)
        return await self._post(body, headers, left) or Failed("connection lost")

    async def _post(self, body: bytes, headers: dict[str, str], again: aiohttp.ClientTimeout | None) -> Outcome | None:
        """The outcome; None where the connection ended under the first try."""
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False, timeout=again or self._session.timeout
            ) as response:
                if not response.content.at_eof():
                    await _drain(response)
                return _judge(response.status, response.headers)
        except BrokenAnswer as answer:
            return _judge(answer.status, {})
        except TimeoutError:
            return Failed("timeout")
        except aiohttp.InvalidURL:
            return Failed("the endpoint is not a URL")
        except aiohttp.ClientConnectorCertificateError:
            return Failed("the endpoint's certificate is not valid")
        except aiohttp.ClientConnectorDNSError:
            return Failed("the endpoint's name cannot be resolved")
        except aiohttp.ClientSSLError:
            return Failed("TLS failed")
        except aiohttp.ClientConnectorError as error:
            return Failed("the address is refused by the egress guard" if isinstance(error.os_error, EgressRefused) else "no connection")
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            return None if again is None and _was_closed(error) else Failed(f"connection lost ({type(error).__name__})")
        except ValueError as error:  # last, because some of aiohttp's errors are OSErrors too
            return Failed("the endpoint's name cannot be resolved" if isinstance(error, UnicodeError) else "the endpoint is not a URL")


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Reads a short answer, so that its connection can be kept. A body that never ends changes nothing: the status has decided."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await response.content.read(ANSWER_MAX_BYTES)
    if not response.content.at_eof():
        response.close()


def _was_closed(error: BaseException) -> bool:
    """Whether the connection ended under the request, as happens when the endpoint closes an idle connection."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error, aiohttp.ServerDisconnectedError) or (isinstance(error, OSError) and error.errno in (ECONNRESET, EPIPE))


def _judge(status: int, headers: Mapping[str, str]) -> Outcome:
    if 200 <= status < 300:
        return Acknowledged(status)
    if status in CONTENT_REFUSED:
        return Rejected(status)
    wait_s = seconds_until(headers.get("Retry-After", ""), datetime.now(UTC)) if status in (429, 503) else None
    return Failed(f"status {status}", status, None if wait_s is None else timedelta(seconds=wait_s))
