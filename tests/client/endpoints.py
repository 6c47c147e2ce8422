"""Endpoints of messengers: one without a fault, and others that have one fault each. Each is served as a real HTTP server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp.web import BaseRequest, Response, Server

from registryd.client.receiver import verify
from registryd.delivery import signing

SECRET = signing.new_secret()
FORGERIES = {"changedBody", "otherSecret", "malformed", "old", "early", "noWebhookId", "noWebhookTimestamp", "noWebhookSignature"}
WEBHOOK = ("webhook-id", "webhook-timestamp", "webhook-signature")


class Endpoint:
    """A messenger's endpoint without a fault. Those below have one each: what they override."""

    limit_bytes = 1024 * 1024
    pushes = 0

    async def __call__(self, request: BaseRequest) -> Response:
        self.pushes += 1
        body = await request.read()
        if len(body) > self.limit_bytes:
            return Response(status=413)
        webhook_id, timestamp, signatures = (request.headers.get(name, "") for name in WEBHOOK)
        if self.problem(webhook_id, timestamp, signatures, body):
            return Response(status=401)
        event = orjson.loads(body)
        return await self.take(request, event, event["data"].get("notifications", []))

    def problem(self, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> str:
        return verify(SECRET, webhook_id, timestamp, signatures, body) or ("" if webhook_id else "no id")

    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        return Response(status=204)


class VerifiesNothing(Endpoint):
    def problem(self, *_: object) -> str:
        return ""


class TakesAnyAge(Endpoint):
    def problem(self, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> str:
        return "" if webhook_id and signing.is_signed(SECRET, webhook_id, timestamp, signatures, body) else "no"


class VerifiesWhatItParsed(Endpoint):
    def problem(self, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> str:
        return super().problem(webhook_id, timestamp, signatures, orjson.dumps(orjson.loads(body)))


class TrustsWhatIsUnsigned(Endpoint):
    def problem(self, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> str:
        return super().problem(webhook_id, timestamp, signatures, body) if signatures else ""


class FailsWithoutHeaders(Endpoint):
    async def __call__(self, request: BaseRequest) -> Response:
        return await super().__call__(request) if all(name in request.headers for name in WEBHOOK) else Response(status=500)


class FailsOnBadBase64(Endpoint):
    async def __call__(self, request: BaseRequest) -> Response:
        return Response(status=500) if "***" in request.headers.get("webhook-signature", "") else await super().__call__(request)


class TakesTheFirstSignature(Endpoint):
    def problem(self, webhook_id: str, timestamp: str, signatures: str, body: bytes) -> str:
        return super().problem(webhook_id, timestamp, signatures.partition(" ")[0], body)


class Remembers(Endpoint):
    def __init__(self) -> None:
        self.seen: set[str] = set()

    def is_new(self, *names: str) -> bool:
        known = not self.seen.isdisjoint(names)
        self.seen.update(names)
        return not known


class RefusesARepeatedMessage(Remembers):
    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        return Response(status=204 if self.is_new(request.headers["webhook-id"]) else 409)


class SaysGoneToARepeatedNotice(Remembers):
    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        ids = [notice.get("reinstatementId") or notice["notificationId"] for notice in notices]
        return Response(status=204 if self.is_new(*ids) else 410)


class TakesOneNotice(Endpoint):
    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        return Response(status=204 if len(notices) < 2 else 400)


class TakesShortBodies(Endpoint):
    limit_bytes = 2_000


class RefusesOlderGenerations(Endpoint):
    def __init__(self) -> None:
        self.newest: dict[str, int] = {}

    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        for notice in notices:
            if notice["generation"] < self.newest.get(notice["identificationCode"], 0):
                return Response(status=409)
            self.newest[notice["identificationCode"]] = notice["generation"]
        return Response(status=204)


class RefusesUnknownMembers(Endpoint):
    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        return Response(status=204 if event.keys() == {"type", "timestamp", "data"} else 422)


class KnowsOneType(Endpoint):
    status = 400

    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        return Response(status=204 if event["type"] == "binding.terminated" else self.status)


class FailsOnUnknownTypes(Endpoint):
    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        return Response(status=500 if "later" in event["type"] else 204)


class TakesOneAtOnce(Endpoint):
    running = 0

    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        if self.running:
            return Response(status=429, headers={"Retry-After": "1"})
        self.running += 1
        await asyncio.sleep(0.005)  # while it stores
        self.running -= 1
        return Response(status=204)


class FailsEveryFifth(Endpoint):
    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        return Response(status=503 if self.pushes < 15 and self.pushes % 5 == 0 else 204)


class ShutsOutAfterForgeries(Endpoint):
    forged = 0

    async def __call__(self, request: BaseRequest) -> Response:
        reply = await super().__call__(request)
        self.forged += reply.status == 401
        return reply if self.forged < len(FORGERIES) or reply.status == 401 else Response(status=403)


class IsSlow(Endpoint):
    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        await asyncio.sleep(0.5 if event["type"] == "endpoint.test" else 0)
        return Response(status=204)


class ClosesConnections(Endpoint):
    async def __call__(self, request: BaseRequest) -> Response:
        reply = await super().__call__(request)
        reply.force_close()
        return reply


class AnswersAtLength(Endpoint):
    async def take(self, request: BaseRequest, event: dict[str, Any], notices: list[dict[str, Any]]) -> Response:
        return Response(body=b"thanks" * 1_000)


class RefusesAll(Endpoint):
    def problem(self, *_: object) -> str:
        return "no"


class Hangs(Endpoint):
    async def __call__(self, request: BaseRequest) -> Response:
        await asyncio.Event().wait()
        raise AssertionError


class HangsUp(Endpoint):
    async def __call__(self, request: BaseRequest) -> Response:
        assert request.transport is not None
        request.transport.abort()
        return Response()


class Redirects(Endpoint):
    async def __call__(self, request: BaseRequest) -> Response:
        return Response(status=308, headers={"Location": f"{request.rel_url}/"})


class IsGone(Endpoint):
    async def __call__(self, request: BaseRequest) -> Response:
        return Response(status=410)


class IsElsewhere(Endpoint):
    async def __call__(self, request: BaseRequest) -> Response:
        return Response(status=404)


@asynccontextmanager
async def served(endpoint: Callable[[BaseRequest], Any], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    http = Server(endpoint, access_log=None)
    server = await asyncio.get_running_loop().create_server(http, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/notices"
    finally:
        server.close()
        await http.shutdown(1)
