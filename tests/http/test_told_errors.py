"""Each error that the documents show is asked of the daemon, which must answer in those words."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import pytest

from registryd.domain.errors import NotPushed, TooManyCalls, Unavailable
from registryd.http import problems
from tests.conftest import TestMessenger, wait_for
from tests.contracts.documents import DOCUMENTS, PROBLEM
from tests.http.conftest import OUTSIDE, Answer, Service, ask, exchange, parse_answer

BAD, GOOD = {"phoneNumber": "8 916"}, {"phoneNumber": f"+{OUTSIDE}"}
TOO_LARGE = 4_194_305
QUOTA = 5_000


class Asking:
    """A client of one API, and what a test may do to provoke an answer."""

    def __init__(self, service: Service, base: str, own: str, headers: dict[str, str]) -> None:
        """`own`: a path of this API that takes POST alone."""
        self.service, self.base, self.own, self.headers = service, base, own, headers

    def get(self, path: str) -> Answer:
        return ask(self.base, "GET", path, headers=self.headers)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        return ask(self.base, "POST", path, body, headers=self.headers | headers)

    def raw(self, content: bytes) -> Answer:
        return ask(self.base, "POST", self.own, raw=content, headers=self.headers)

    def anonymous(self) -> Answer:
        return ask(self.base, "POST", self.own, {})

    def too_large(self) -> Answer:
        lines = [f"POST {self.own} HTTP/1.1", "Host: registry", "Content-Type: application/json", f"Content-Length: {TOO_LARGE}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return parse_answer(exchange(self.base, "\r\n".join([*lines, "", ""]).encode()))


class AskingMessenger(Asking):
    def __init__(self, service: Service) -> None:
        self.messenger: TestMessenger = service.messenger(daily_quota=QUOTA)
        super().__init__(service, service.api, "/v1/presence", self.messenger.headers)

    def change(self, assignments: str) -> None:
        self.service.sql(f"UPDATE registry.messenger SET {assignments} WHERE messenger_id = $1", self.messenger.messenger_id)
        self.service.reload()

    def suspended(self) -> Answer:
        self.change("state = 'suspended', suspended_at = now()")
        return self.post(self.own, GOOD)

    def code_in_use(self) -> Answer:
        first, second = (f"+{number}" for number in self.service.contracts(2))
        self.post("/v1/bindings", {"phoneNumber": first, "identificationCode": "u"})
        return self.post("/v1/bindings", {"phoneNumber": second, "identificationCode": "u"})

    def same_endpoint(self) -> Answer:
        url = "https://hooks.messenger.example/"
        self.change(f"endpoint_url = '{url}'")
        return self.post("/v1/account/endpoint", {"url": url})

    def third_key(self) -> Answer:
        assert self.post("/v1/account/keys", {}).status in (200, 201)
        return self.post("/v1/account/keys", {})

    def second_replay(self) -> Answer:
        window = "now() - interval '1 hour', now(), 1"
        insert = "INSERT INTO registry.replay (messenger_id, own, since_at, until_at, per_second)"
        self.service.sql(f"{insert} VALUES ($1, true, {window})", self.messenger.messenger_id)
        return self.post("/v1/notifications/replay", {"day": "2026-03-02"})

    def batch(self, size: int, **last: str) -> Answer:
        return self.post("/v1/presence/batch", {"queries": [GOOD] * (size - 1) + [last or GOOD]})

    def too_often(self) -> Answer:
        for _ in range(10):
            assert self.post("/v1/notifications/test", {}).status == 400
        return self.post("/v1/notifications/test", {})

    def second_test(self) -> Answer:
        self.change("endpoint_url = 'https://192.0.2.1/'")
        self.service.sql("INSERT INTO registry.test_push (messenger_id) VALUES ($1)", self.messenger.messenger_id)
        return self.post("/v1/notifications/test", {})

    def slowed_down(self) -> Answer:
        alarm = "INSERT INTO registry.enumeration_alarm (messenger_id, kind, ends_at) VALUES ($1, 'canary', now() + interval '1 hour')"
        self.service.sql(alarm, self.messenger.messenger_id)
        return wait_for(lambda: answer if (answer := self.batch(61)).status == 429 else None)

    def not_complete(self) -> Answer:
        self.service.sql("SELECT registry.declare_incomplete('a test')")
        try:
            return self.post(self.own, GOOD)
        finally:
            self.service.sql("SELECT registry.declare_complete('person', 'a test')")
            wait_for(lambda: self.post(self.own, GOOD).status == 200)

    def held_back(self) -> Answer:
        self.service.sql("INSERT INTO registry.hold (messenger_id, reason) VALUES ($1, 'a test')", self.messenger.messenger_id)
        return self.get("/v1/notifications")


class AskingOperator(Asking):
    def __init__(self, service: Service) -> None:
        path = "/operator/v1/contract-events"
        super().__init__(service, service.operator, path, service.site.operator_headers)

    def event(self, **facts: object) -> Answer:
        event = {"eventId": "e", "type": "resumed", "phoneNumber": f"+{OUTSIDE}", "occurredAt": "2026-01-02T03:04:05Z"} | facts
        return self.post(self.own, {"events": [event]})

    def without_scope(self) -> Answer:
        key_id, secret = "".join(secrets.choice("abcdefgh") for _ in range(16)), "A" * 43
        insert = "INSERT INTO registry.operator_key (key_id, name, scopes, secret_sha256) VALUES ($1, $1, '{read}', $2)"
        self.service.sql(insert, key_id, sha256(secret.encode()).digest())
        headers = {"Authorization": f"Bearer ok_{key_id}_{secret}"}
        return wait_for(lambda: answer if (answer := ask(self.base, "POST", self.own, {}, headers=headers)).status != 401 else None)


def told(error: Exception) -> Callable[[Any], Answer]:
    """The daemon's words for what a test cannot bring about in a moment."""
    reply = problems.respond(error)
    return lambda _: Answer(reply.status, {}, json.loads(reply.body), reply.body)


EITHER: Mapping[str, Callable[[Asking], Answer]] = {
    "InvalidArgument.json": lambda it: it.raw(b"{"),
    "Unauthenticated.unauthenticated": Asking.anonymous,
    "MethodNotAllowed.method": lambda it: it.get(it.own),
    "TooLarge.large": Asking.too_large,
    "UnsupportedMediaType.mediaType": lambda it: it.post(it.own, {}, **{"Content-Type": "text/plain"}),
    "UnsupportedMediaType.compressed": lambda it: it.post(it.own, {}, **{"Content-Encoding": "gzip"}),
    "NotFound.path": lambda it: it.get("/v1"),
    "Internal.internal": told(RuntimeError()),
    "Unavailable.away": told(Unavailable()),
}
MESSENGERS: Mapping[str, Callable[[AskingMessenger], Answer]] = {
    "InvalidArgument.member": lambda it: it.post(it.own, BAD),
    "InvalidArgument.unknown": lambda it: it.post(it.own, GOOD | {"nickname": "x"}),
    "InvalidArgument.batch": lambda it: it.batch(18, **BAD),
    "InvalidArgument.parameter": lambda it: it.get("/v1/notifications?limit=0"),
    "InvalidArgument.unknownParameter": lambda it: it.get("/v1/account?x=1"),
    "InvalidArgument.noEndpoint": lambda it: it.post("/v1/notifications/test", {}),
    "PermissionDenied.suspended": AskingMessenger.suspended,
    "NotFound.code": lambda it: it.post("/v1/bindings/retrieve", {"identificationCode": "unknown"}),
    "KeyNotFound.key": lambda it: it.post("/v1/account/keys/revoke", {"keyId": "a" * 16}),
    "CodeInUse.inUse": AskingMessenger.code_in_use,
    "Conflict.keys": AskingMessenger.third_key,
    "EndpointKept.kept": AskingMessenger.same_endpoint,
    "ReplayUnderWay.underWay": AskingMessenger.second_replay,
    "NotPresent.absent": lambda it: it.post("/v1/bindings", GOOD | {"identificationCode": "u"}),
    "TooManyRequests.quota": lambda it: it.batch(QUOTA + 1),
    "TooManyRequests.tooOften": AskingMessenger.too_often,
    "TooManyRequests.tests": AskingMessenger.second_test,
    "TooManyRequests.slowedDown": AskingMessenger.slowed_down,
    "Unavailable.notReady": AskingMessenger.not_complete,
    "Unavailable.held": AskingMessenger.held_back,
    "Unavailable.notPushed": told(NotPushed()),
}
OPERATORS: Mapping[str, Callable[[AskingOperator], Answer]] = {
    "InvalidArgument.member": lambda it: it.event(**BAD, occurredAt="yesterday"),
    "InvalidArgument.unknown": lambda it: it.event(nickname="x"),
    "InvalidArgument.unknownParameter": lambda it: it.post(f"{it.own}?x=1", {}),
    "PermissionDenied.scope": AskingOperator.without_scope,
    "NotFound.name": lambda it: it.get("/operator/v1/lanes/nobody"),
    "TooManyRequests.tooOften": told(TooManyCalls(1)),
}

SHOWN = {
    f"{document.api}: {name}.{example}": shown["value"]
    for document in DOCUMENTS
    for name, response in document.content["components"]["responses"].items()
    for example, shown in response["content"][PROBLEM]["examples"].items()
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_daemon_answers_as_the_document_shows(service: Service, name: str) -> None:
    api, _, error = name.partition(": ")
    if api == "messenger":
        answer = {**EITHER, **MESSENGERS}[error](AskingMessenger(service))
    else:
        answer = {**EITHER, **OPERATORS}[error](AskingOperator(service))
    assert answer.body == SHOWN[name]
    assert answer.status == SHOWN[name]["status"]
