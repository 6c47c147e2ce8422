"""A messenger's receiver of notifications: a real HTTP server that verifies each signature as an integrator should.

The reference for integrators: check the timestamp, recompute the signature over the raw body, compare in constant time, answer 2xx once
the notification is stored, and treat a repeated notificationId as a repeat.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from aiohttp.web import BaseRequest, Response, Server

from registryd.delivery import signing
from registryd.store.messengers import SigningSecret

TOLERANCE_S = 300


class Receipt(NamedTuple):
    webhook_id: str
    verified: bool
    problem: str
    """Why it was not verified; empty otherwise."""
    event: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.event.get("type", "?"))

    @property
    def notifications(self) -> list[dict[str, Any]]:
        return list(self.event.get("data", {}).get("notifications", []))


class Receiver:
    """`async with Receiver(secret)`: listens on `url`, answers `status` to what it verifies and 401 to what it does not."""

    def __init__(
        self,
        secret: SigningSecret,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        status: int = 204,
        on_receipt: Callable[[Receipt], None] = lambda _: None,
    ) -> None:
        self._secret = secret
        self._host = host
        self._port = port
        self._on_receipt = on_receipt
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
        self._server = await asyncio.get_running_loop().create_server(self._http, self._host, self._port)
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
            self._secret, webhook_id, request.headers.get("webhook-timestamp", ""), request.headers.get("webhook-signature", ""), body
        )
        try:
            event = orjson.loads(body)
        except orjson.JSONDecodeError:
            event = {}
        self._on_receipt(Receipt(webhook_id, not problem, problem, event if isinstance(event, dict) else {}))
        return Response(status=401 if problem else self.status)


def verify(secret: SigningSecret, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> str:
    """Why a message is not authentic; empty where it is (Standard Webhooks 1.0.0, HMAC)."""
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return "the timestamp is missing or not of these minutes"
    expected = signing.signature([secret], webhook_id, int(timestamp), body)
    if not any(hmac.compare_digest(expected, given) for given in signatures.split(" ")):
        return "no signature fits the secret"
    return ""
