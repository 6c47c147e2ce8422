"""The messenger API as one messenger meets it, byte by byte; nothing that it sends may be told again or logged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import TestMessenger
from tests.http.conftest import Answer, Service, exchange, parse_answer

NUMBER = "+79161357924"
CODE = "code-zebra-5150"
FIELD = "fieldQuagga"
SECRET = "okapi" * 8
TRACES = (b"79161357924", b"zebra", b"uagga", b"okapi", b"\\u00", "٧٩".encode(), "９".encode(), b"\xff\xfe", b"\xed\xa0", b"\x00")
"""What stands in the requests below and must never stand in an answer or in the log."""

GOOD = json.dumps({"phoneNumber": NUMBER, "identificationCode": CODE}).encode()
ROUTES = {
    "/v1/presence": "POST",
    "/v1/presence/batch": "POST",
    "/v1/bindings": "POST",
    "/v1/bindings/retrieve": "POST",
    "/v1/bindings/remove": "POST",
    "/v1/notifications": "GET",
    "/v1/notifications/acknowledge": "POST",
    "/v1/notifications/test": "POST",
    "/v1/account": "GET",
}
TAKES_JSON = [path for path, method in ROUTES.items() if method == "POST"]
FRESH = re.compile(r"[0-9a-f]{16}")


@dataclass
class Api:
    """The messenger API as one messenger meets it, byte by byte."""

    service: Service
    messenger: TestMessenger
    held: int = 0
    """What the database held of this messenger before."""

    def send(
        self,
        body: bytes | None,
        path: str = "/v1/presence",
        *,
        method: str = "POST",
        headers: tuple[str | bytes, ...] = ("Content-Type: application/json",),
        authorization: tuple[str | bytes, ...] | None = None,
        framing: str | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        if authorization is None:
            authorization = (f"Authorization: Bearer {self.messenger.api_key}",)
        if framing is None and body is not None:
            framing = f"Content-Length: {len(body)}"
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: registry",
            "Connection: close",
            *authorization,
            *headers,
            *([framing] if framing else []),
        ]
        head = b"\r\n".join(line.encode() if isinstance(line, str) else line for line in lines)
        return parse_answer(exchange(self.service.api, head + b"\r\n\r\n" + (body or b"")))

    def refused(
        self, body: bytes | None, path: str = "/v1/presence", status: int = 400, code: str = "INVALID_ARGUMENT", **how: Any
    ) -> Answer:
        answer = self.send(body, path, **how)
        assert_refused(answer, status, code)
        return answer

    def recorded(self) -> int:
        """How much more of this messenger the database holds than before."""
        [row] = self.service.sql(
            "SELECT (SELECT count(*) FROM registry.presence_query WHERE messenger_id = $1)"
            " + (SELECT count(*) FROM registry.binding WHERE messenger_id = $1) AS rows",
            self.messenger.messenger_id,
        )
        return int(row["rows"]) - self.held


def assert_refused(answer: Answer, status: int, code: str) -> None:
    """A problem document that tells nothing of the request."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer.raw
    problem = answer.body
    assert set(problem) in ({"type", "title", "status", "detail", "code"}, {"type", "title", "status", "detail", "code", "errors"})
    assert (problem["type"], problem["status"], problem["code"]) == ("about:blank", status, code)
    assert problem["title"]
    assert problem["detail"]
    if "errors" in problem:
        assert code == "INVALID_ARGUMENT"
        assert 1 <= len(problem["errors"]) <= 20
        assert all(set(error) == {"path", "message"} and error["message"] for error in problem["errors"])
    assert FRESH.fullmatch(answer.headers["x-correlator"])
    assert_no_traces(answer.raw)


def assert_no_traces(told: bytes) -> None:
    for trace in TRACES:
        assert trace not in told


@pytest.fixture(scope="module")
def messenger(service: Service) -> TestMessenger:
    return service.messenger()


@pytest.fixture
def api(service: Service, messenger: TestMessenger) -> Iterator[Api]:
    """A messenger's API; whatever the test sends, no line of the daemon's log may repeat it."""
    with silent(Api(service, messenger)) as api:
        yield api


@pytest.fixture
def own_api(service: Service) -> Iterator[Api]:
    """The same for a messenger that the test may change."""
    with silent(Api(service, service.messenger())) as api:
        yield api


@contextmanager
def silent(api: Api) -> Iterator[Api]:
    path = api.service.daemon.logs["answer"]
    start = path.stat().st_size
    api.held = api.recorded()
    yield api
    log = path.read_bytes()[start:]
    assert_no_traces(log)
    assert api.messenger.api_key.encode() not in log
    for line in log.splitlines():
        assert json.loads(line)["event"] in ("request_refused", "reloaded"), line
