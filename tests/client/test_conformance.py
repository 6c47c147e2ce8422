"""`registryd conformance` finds each fault of an endpoint, and nothing where there is none. Every endpoint here is a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp.web import BaseRequest, Response, Server

from registryd.client.conformance import Check, Verdict, conform
from registryd.client.receiver import Receiver, verify
from registryd.delivery import signing
from registryd.delivery.signing import key_from_shown
from tests.certificates import Pair, make_pair

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


def tried(endpoint: Endpoint, *, answer_timeout_s: float = 2.0) -> list[Check]:
    async def run() -> list[Check]:
        async with served(endpoint) as url:
            return await conform(url, None, SECRET, batch_max=20, answer_timeout_s=answer_timeout_s)

    return asyncio.run(run())


def found(checks: list[Check], verdict: Verdict = Verdict.MEND) -> set[str]:
    return {check.name for check in checks if check.verdict is verdict}


def test_an_endpoint_without_a_fault_holds_every_check() -> None:
    checks = tried(Endpoint())
    assert found(checks) == found(checks, Verdict.ADVICE) == set()
    assert found(checks, Verdict.UNTRIED) == {"certificate"}
    assert len(checks) == len({check.name for check in checks}) > 20


@pytest.mark.parametrize(
    ("endpoint", "mend"),
    [
        (VerifiesNothing, FORGERIES),
        (TakesAnyAge, {"old", "early"}),
        (VerifiesWhatItParsed, {"changedBody"}),
        (TrustsWhatIsUnsigned, {"noWebhookSignature"}),
        (FailsWithoutHeaders, {"noWebhookId", "noWebhookTimestamp", "noWebhookSignature"}),
        (FailsOnBadBase64, {"malformed"}),
        (TakesTheFirstSignature, {"rotation"}),
        (RefusesARepeatedMessage, {"repeat"}),
        (SaysGoneToARepeatedNotice, {"repeat", "regrouped"}),
        (TakesOneNotice, {"batch", "regrouped"}),
        (TakesShortBodies, {"batch"}),
        (RefusesOlderGenerations, {"order"}),
        (RefusesUnknownMembers, {"unknownMember"}),
        (KnowsOneType, {"reinstated", "digest", "test"}),
        (FailsOnUnknownTypes, {"unknownType"}),
        (TakesOneAtOnce, {"burst"}),
        (FailsEveryFifth, {"steady"}),
        (ShutsOutAfterForgeries, {"afterForgeries"}),
    ],
)
def test_a_fault_is_named_and_no_other(endpoint: type[Endpoint], mend: set[str]) -> None:
    checks = tried(endpoint())
    assert found(checks) == mend
    assert all(check.mend.endswith((".", "!")) for check in checks if check.name in mend)
    assert found(checks, Verdict.ADVICE) == ({"unknownType"} if endpoint is KnowsOneType else set())


@pytest.mark.parametrize(("endpoint", "advice"), [(IsSlow, "speed"), (ClosesConnections, "keepAlive"), (AnswersAtLength, "shortAnswer")])
def test_what_only_costs_time_is_advice(endpoint: type[Endpoint], advice: str) -> None:
    checks = tried(endpoint())
    assert (found(checks), found(checks, Verdict.ADVICE)) == (set(), {advice})


@pytest.mark.parametrize(
    ("endpoint", "seen", "mend"),
    [
        (RefusesAll, "answered 401", "raw bytes"),
        (Hangs, "no answer within 0.3 s", "as soon as the notice is stored"),
        (HangsUp, "closed the connection", "whether it runs"),
        (Redirects, "answered 308", "No redirect is followed"),
        (IsGone, "answered 410", "410 ends nothing"),
        (IsElsewhere, "answered 404", "path of the URL"),
    ],
)
def test_while_no_genuine_push_is_taken_that_alone_is_told(endpoint: type[Endpoint], seen: str, mend: str) -> None:
    trial = endpoint()
    genuine, *others = tried(trial, answer_timeout_s=0.3)
    assert (genuine.name, genuine.verdict) == ("genuine", Verdict.MEND)
    assert seen in genuine.seen
    assert mend in genuine.mend
    assert {check.verdict for check in others} == {Verdict.UNTRIED}
    assert trial.pushes <= 1


def context(pair: Pair, directory: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*pair.write(directory, "endpoint"))
    return made


@pytest.mark.parametrize(
    ("days", "is_trusted", "checked"),
    [(60, True, ("certificate", Verdict.HELD)), (3, True, ("certificate", Verdict.ADVICE)), (60, False, ("genuine", Verdict.MEND))],
)
def test_a_certificate_is_looked_at(tmp_path: Path, days: int, is_trusted: bool, checked: tuple[str, Verdict]) -> None:
    authority, other = make_pair("authority"), make_pair("other")
    server = context(make_pair("endpoint", authority, days), tmp_path)
    trusting = ssl.create_default_context(cadata=(authority if is_trusted else other).certificate.decode())

    async def run() -> list[Check]:
        async with served(Endpoint(), server) as url:
            return await conform(url, trusting, SECRET, batch_max=1)

    checks = asyncio.run(run())
    assert checked in {(check.name, check.verdict) for check in checks}
    assert is_trusted == (not found(checks))
    if not is_trusted:
        assert "certificate" in checks[0].mend


def run_conformance(url: str, secret: str, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command(secret, "conformance", url, *words)


def run_command(secret: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "registryd", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "REGISTRYD_WEBHOOK_SECRET": secret},
    )


@pytest.mark.parametrize("kind", ["hmac_sha256", "ed25519"])
def test_our_own_receiver_conforms_and_a_wrong_secret_is_told(kind: str) -> None:
    secret = signing.new_secret(kind)
    shown = signing.shown(secret)
    private = shown if kind == "hmac_sha256" else f"whsk_{b64encode(secret.secret).decode()}"

    async def run() -> tuple[subprocess.CompletedProcess[str], ...]:
        async with Receiver(key_from_shown(shown)) as receiver:
            return tuple(
                [await asyncio.to_thread(run_conformance, receiver.url, private, *words) for words in ((), ("--json", "--batch-max", "10"))]
                + [await asyncio.to_thread(run_conformance, receiver.url, signing.shown(signing.new_secret()))]
            )

    shown_to_people, as_json, wrong = asyncio.run(run())
    assert shown_to_people.returncode == 0, shown_to_people.stdout + shown_to_people.stderr
    assert "genuine" in shown_to_people.stdout
    facts = json.loads(as_json.stdout)
    assert facts["conforms"] is True
    assert {check["verdict"] for check in facts["checks"]} == {"held", "untried"}
    assert wrong.returncode == 1
    assert "genuine: Verify over the raw bytes" in wrong.stdout
    assert "1 of" in wrong.stderr


def test_it_says_which_secret_it_wants(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/"
    for command in (["conformance", url], ["listen", "--port", "0"]):
        told = run_command("", *command)
        assert (told.returncode, "no webhook secret is given" in told.stderr) == (2, True)
    assert "whsk_" in run_conformance(url, signing.shown(signing.new_secret("ed25519"))).stderr
    file = tmp_path / "secret"
    file.write_text(signing.shown(SECRET) + "\n")
    unreachable = run_conformance(url, "", "--secret-file", str(file))
    assert (unreachable.returncode, "takes no connection" in unreachable.stdout) == (1, True)


def test_listen_says_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run_command(signing.shown(SECRET), "listen", "--port", str(port))
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert f"cannot listen on 127.0.0.1:{port}" in told.stderr


def test_it_needs_no_database_and_no_server_of_ours() -> None:
    modules = subprocess.run(
        [sys.executable, "-c", "import sys, registryd.cli.conformance; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"asyncpg", "uvloop", "prometheus_client", "structlog", "registryd.store"} & {*modules}
