"""One push: a signed POST of one or more notifications, and what came back as an outcome.

Never does: a redirect, a proxy of the environment, decompression, more than 4 KiB of an answer, or a word of an answer in an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from errno import ECONNRESET, EPIPE
from typing import NamedTuple

import aiohttp
import orjson
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from registryd import observe
from registryd.delivery import signing
from registryd.delivery.egress import Egress, EgressRefused
from registryd.domain.notification import Acknowledged, Failed, Notification, Outcome, Rejected, TestPush, event, rfc3339, webhook_id
from registryd.store.messengers import Messenger, SecretBox, SigningSecret, signing_secrets
from registryd.store.pool import Database

TOTAL_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 2.0
ANSWER_MAX_BYTES = 4096
CONTENT_REFUSED = (400, 413, 422)


class Pushed(NamedTuple):
    outcome: Outcome
    attempted_at: datetime
    latency_ms: int


class Pusher:
    """The client side of delivery: one session for all messengers. `async with Pusher(...)`."""

    def __init__(self, db: Database, box: SecretBox, egress: Egress) -> None:
        self._db = db
        self._box = box
        self._egress = egress
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Pusher:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, ttl_dns_cache=30, socket_factory=self._egress.socket_factory),
            timeout=aiohttp.ClientTimeout(total=TOTAL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
            headers={"User-Agent": "registryd", "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def secrets(self, messenger_id: int) -> list[SigningSecret]:
        """The live signing secrets. Raises: Unavailable, WrongSecretsKey."""
        return await signing_secrets(self._db, self._box, messenger_id)  # type: ignore[arg-type] # a row's int is a MessengerId

    async def push(
        self, url: str, live: Sequence[SigningSecret], notifications: Sequence[Notification], *, with_phone_number: bool
    ) -> Pushed:
        """Pushes notifications of one messenger; never raises for what the endpoint does."""
        body = orjson.dumps(event(notifications, with_phone_number=with_phone_number))
        return await self._post(url, live, webhook_id(notifications), body)

    async def test(self, messenger: Messenger) -> TestPush:
        """Pushes one signed `endpoint.test`. Raises: Unavailable, WrongSecretsKey."""
        now = datetime.now(UTC)
        body = orjson.dumps({"type": "endpoint.test", "timestamp": rfc3339(now), "data": {}})
        live = await self.secrets(messenger.messenger_id)
        pushed = await self._post(messenger.endpoint_url or "", live, f"msg_test_{time.time_ns():x}", body)
        observe.pushes.labels(messenger.name, "test").inc()
        match pushed.outcome:
            case Acknowledged(status):
                return TestPush(True, status, pushed.latency_ms, None)
            case Rejected(status):
                return TestPush(False, status, pushed.latency_ms, f"status {status}")
            case Failed(error, status):
                return TestPush(False, status, pushed.latency_ms, error)

    async def announce(self, messenger_id: int, name: str, url: str, message_id: str, body: bytes) -> Outcome:
        """Pushes one signed event that is no notification, apart from the lane. Raises: Unavailable, WrongSecretsKey."""
        pushed = await self._post(url, await self.secrets(messenger_id), message_id, body)
        observe.pushes.labels(name, "digest").inc()
        return pushed.outcome

    async def _post(self, url: str, live: Sequence[SigningSecret], message_id: str, body: bytes) -> Pushed:
        attempted_at = datetime.now(UTC)
        if not live:
            return Pushed(Failed("no signing secret is live"), attempted_at, 0)
        started = time.perf_counter()
        timestamp = int(attempted_at.timestamp())
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signing.signature(live, message_id, timestamp, body),
        }
        outcome = await self._outcome(url, headers, body)
        return Pushed(outcome, attempted_at, int((time.perf_counter() - started) * 1000))

    async def _outcome(self, url: str, headers: dict[str, str], body: bytes) -> Outcome:
        assert self._session is not None, "the pusher is entered before it is used"
        try:
            self._egress.check_url(url)
            # A kept connection that the endpoint has just closed: the message is the same, so it may be sent once more.
            async with asyncio.timeout(TOTAL_TIMEOUT_S) as limit:
                async for attempt in AsyncRetrying(retry=retry_if_exception(_was_closed), stop=stop_after_attempt(2), reraise=True):
                    with attempt:
                        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                            limit.reschedule(None)
                            await _drain(response)
                            return _judge(response.status, response.headers.get("Retry-After"))
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
            return Failed(f"connection lost ({type(error).__name__})")
        except ValueError as error:  # the last, because some of aiohttp's errors are one too
            return Failed(str(error) if not isinstance(error, UnicodeError) else "the endpoint's name cannot be resolved")
        raise AssertionError("unreachable: tenacity returns or raises")


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Reads a short answer, so that its connection can be kept. The status was the verdict: a body that never ends changes nothing."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await response.content.read(ANSWER_MAX_BYTES)
    if not response.content.at_eof():
        response.close()


def _was_closed(error: BaseException) -> bool:
    """Whether a connection ended under a request, as one does that the endpoint closed while it was idle."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error, aiohttp.ServerDisconnectedError) or (isinstance(error, OSError) and error.errno in (ECONNRESET, EPIPE))


def _judge(status: int, retry_after: str | None) -> Outcome:
    if 200 <= status < 300:
        return Acknowledged(status)
    if status in CONTENT_REFUSED:
        return Rejected(status)
    return Failed(f"status {status}", status, _seconds(retry_after) if status in (429, 503) else None)


def _seconds(retry_after: str | None) -> timedelta | None:
    """`Retry-After` (RFC 9110 10.2.3): seconds, or a date."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 7:
        return timedelta(seconds=int(retry_after))
    try:
        return max(parsedate_to_datetime(retry_after) - datetime.now(UTC), timedelta(0))
    except (ValueError, TypeError):
        return None
