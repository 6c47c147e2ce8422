"""A messenger's receiver of notifications: a real HTTP server that verifies each signature as an integrator should.

The reference for integrators: check the timestamp, recompute the signature over the raw body, compare in constant time, answer 2xx once
the notification is stored, treat a repeated id (reinstatementId where there is one, else notificationId) as a repeat, and compare a day's
digest with what was stored.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from aiohttp.web import BaseRequest, Response, Server

from registryd.client.source import ClientRefused
from registryd.delivery import signing
from registryd.delivery.signing import Key
from registryd.domain.digest import digest_of
from registryd.domain.notification import own_id

TOLERANCE_S = 300


class Receipt(NamedTuple):
    webhook_id: str
    verified: bool
    problem: str
    """Why it was not verified; empty where it was."""
    event: dict[str, Any]
    status: int = 204
    """The status that was answered; 0 where the connection was closed without an answer."""

    @property
    def kind(self) -> str:
        return str(self.event.get("type", "?"))

    @property
    def notifications(self) -> list[dict[str, Any]]:
        """The notifications in a verified message. In any other message they may be anything, so they are left out."""
        return list(self.event.get("data", {}).get("notifications", [])) if self.verified else []


class Receiver:
    """`async with Receiver(key)`: listens on `url`, answers `status` to what it verifies and 401 to what it does not.

    `delay_s`: how long an answer takes. Of the pushes it verifies, every `fail_every`th is answered 503 and every `drop_every`th not at
    all; 0: none.
    """

    def __init__(
        self,
        key: Key,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        status: int = 204,
        delay_s: float = 0,
        fail_every: int = 0,
        drop_every: int = 0,
        on_receipt: Callable[[Receipt], None] = lambda _: None,
    ) -> None:
        self._key = key
        self._host = host
        self._port = port
        self._delay_s = delay_s
        self._fail_every = fail_every
        self._drop_every = drop_every
        self._on_receipt = on_receipt
        self._verified = 0
        self._server: asyncio.Server | None = None
        self._http: Server | None = None
        self.status = status

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}/notifications"

    async def __aenter__(self) -> Receiver:
        self._http = Server(self._receive, access_log=None)
        try:
            self._server = await asyncio.get_running_loop().create_server(self._http, self._host, self._port)
        except OSError as error:
            what = os.strerror(error.errno) if error.errno else str(error)
            raise ClientRefused(f"cannot listen on {self._host}:{self._port} ({what}): another --port, or 0 for a free one") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._http is not None
        self._server.close()
        await self._http.shutdown(2)

    async def _receive(self, request: BaseRequest) -> Response:
        body = await request.read()
        webhook_id = request.headers.get("webhook-id", "")
        problem = verify(
            self._key, webhook_id, request.headers.get("webhook-timestamp", ""), request.headers.get("webhook-signature", ""), body
        )
        try:
            event = orjson.loads(body)
        except orjson.JSONDecodeError:
            event = {}
        status = 401 if problem else self._answer()
        await asyncio.sleep(self._delay_s)
        self._on_receipt(Receipt(webhook_id, not problem, problem, event if isinstance(event, dict) else {}, status))
        if not status and request.transport is not None:
            request.transport.abort()
        return Response(status=status or 503)

    def _answer(self) -> int:
        """The status for the next verified push; 0 where it gets no answer."""
        self._verified += 1
        if self._drop_every and self._verified % self._drop_every == 0:
            return 0
        if self._fail_every and self._verified % self._fail_every == 0:
            return 503
        return self.status


def verify(key: Key, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> str:
    """Why a message is not authentic by Standard Webhooks 1.0.0; empty where it is."""
    seconds = signing.seconds_in(timestamp)
    if seconds is None or abs(time.time() - seconds) > TOLERANCE_S:
        return "the timestamp is missing or not of these minutes"
    if not signing.is_signed(key, webhook_id, timestamp, signatures, body):
        return "no signature fits the secret"
    return ""


class Ledger:
    """The ids of notifications that were received and answered 2xx, by the day (UTC) on which they came."""

    def __init__(self) -> None:
        self._days: defaultdict[date, set[UUID]] = defaultdict(set)

    def note(self, receipt: Receipt, at: datetime) -> None:
        if receipt.verified and 200 <= receipt.status < 300:
            self._days[at.astimezone(UTC).date()].update(own_id(notice) for notice in receipt.notifications)

    def received_on(self, day: date) -> int:
        """How many different notifications came on a day."""
        return len(self._days[day])

    def agrees(self, digest: dict[str, Any]) -> bool:
        """Whether a digest's `data` describes what came on its day.

        The operator records a receipt a moment after it was given, so what came within seconds of midnight may count for the other day.
        """
        came = digest_of(self._days[date.fromisoformat(digest["day"])])
        return (came.notifications, came.sha256.hex()) == (digest["count"], digest["sha256"])
