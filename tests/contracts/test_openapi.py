"""openapi.yaml is the contract: valid, the same as the routes and the errors there are, and schemathesis finds the daemon keeping it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import openapi_spec_validator
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from registryd import resources
from registryd.config import ApiSection
from registryd.domain import errors
from registryd.domain.digest import digest_event, digest_of
from registryd.domain.notification import own_id
from registryd.feed.events import ContractFeed
from registryd.http import notifications, problems
from registryd.http.app import App
from registryd.http.auth import Directory, Operators
from registryd.http.messenger import messenger_app
from registryd.http.operator import OperatorHandlers, operator_app
from registryd.http.refusals import Refusals
from registryd.http.routes import Route
from registryd.presence.answerer import Answerer
from registryd.presence.quota import QuotaGuard
from registryd.store.digest_keys import DigestKey
from registryd.store.messengers import Messenger
from registryd.store.operators import Operator
from registryd.store.pool import Database
from tests.conftest import LONG, Site
from tests.fuzz import documents

PATH = resources.path("registryd/http/openapi.yaml")
DOCUMENT: dict[str, Any] = yaml.safe_load(PATH.read_text("utf-8"))
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
EXAMPLES, CASES_MIN = (150, 2_000) if LONG else (20, 500)
"""What schemathesis draws for each operation, and how many cases come of it at least."""

SCHEMAS = Registry().with_resource("urn:api", Resource.from_contents(DOCUMENT, default_specification=DRAFT202012))


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method.upper(), item[method]


def resolve(node: Any) -> Any:
    """What a node of the document stands for."""
    while isinstance(node, dict) and "$ref" in node:
        node = SCHEMAS.resolver("urn:api").lookup(node["$ref"]).contents
    return node


def apps() -> tuple[App[Messenger], App[Operator]]:
    """Both APIs as the daemon builds them, on a database that nobody connects to."""
    db = Database("", size=1, connect_timeout_s=1, command_timeout_s=1)
    answerer = Answerer(db, DigestKey(1, bytes(32)), statements_in_flight=1, group_max=1, queue_max=1)

    messengers = messenger_app(ApiSection(), db, Directory(db), answerer, QuotaGuard(db), Refusals(db))
    feed = ContractFeed(db, bytes(32))
    return messengers, operator_app(ApiSection(), Operators(db), OperatorHandlers(feed.apply))


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(DOCUMENT)


def test_the_document_and_the_routes_are_the_same() -> None:
    messenger, operator = apps()
    routed: dict[tuple[str, str], Route[Any]] = {}
    for path, methods in messenger.routes.items():
        routed |= {(path, method): route for method, route in methods.items()}
    for path, methods_of_operator in operator.routes.items():
        routed |= {(path, method): route for method, route in methods_of_operator.items()}
    documented = {(path, method): operation for path, method, operation in operations()}
    assert set(documented) == set(routed)
    for key, operation in documented.items():
        parameters = {resolve(parameter)["name"] for parameter in operation.get("parameters", []) if resolve(parameter)["in"] == "query"}
        assert parameters == set(routed[key].parameters), key
    for path in messenger.routes:
        assert path.startswith("/v1/")
        assert path not in operator.routes
        assert "security" not in documented[path, next(iter(messenger.routes[path]))], "the messenger's key is the document's default"
    assert documented["/operator/v1/contract-events", "POST"]["security"] == [{"operatorKey": []}]


def test_every_error_of_the_code_is_documented_and_no_other() -> None:
    sources = "".join(path.read_text("utf-8") for path in sorted(resources.path("registryd/http").glob("*.py")))
    coded = {(int(status), code) for status, code in re.findall(r'\b([45]\d\d), "([A-Z_]+)"', sources)}
    documented = set()
    for response in DOCUMENT["components"]["responses"].values():
        told = response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]
        documented |= {(told["status"]["const"], code) for code in codes(response)}
    assert documented == coded
    assert {code for _, code in coded} == set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])


def codes(response: dict[str, Any]) -> list[str]:
    """The codes that an error's response may have."""
    code = response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]
    return code["enum"] if "enum" in code else [code["const"]]


EVERY_ERROR: list[Exception] = [
    errors.InvalidArgument(("phoneNumber", "wanted")),
    errors.QuotaExceeded(7),
    errors.TooManyRequests(1),
    errors.TooManyCalls(1),
    errors.TooManyTests(15),
    errors.Throttled(7),
    *(kind() for kind in (errors.NotPresent, errors.CodeInUse, errors.NotFound, errors.Unavailable)),
    *(kind() for kind in (errors.Unauthenticated, errors.PermissionDenied, errors.OutOfScope)),
    *(problems.not_found(), problems.method_not_allowed(["GET"]), problems.too_large(7), problems.too_slow(7)),
    *(problems.unsupported_media_type("x"), RuntimeError("a secret")),
]


def test_the_list_of_errors_is_whole() -> None:
    assert {type(error) for error in EVERY_ERROR} >= set(errors.RegistryError.__subclasses__())


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_every_error_answers_as_its_response_says(error: Exception) -> None:
    answer = problems.respond(error)
    assert answer.content_type == "application/problem+json"
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)
    assert "a secret" not in answer.body.decode()
    [response] = [response for response in DOCUMENT["components"]["responses"].values() if body["code"] in codes(response)]
    validator(response["content"]["application/problem+json"]["schema"]).validate(body)
    assert body["status"] == answer.status
    required = {name.lower() for name, header in response["headers"].items() if resolve(header)["required"]} - {"x-correlator"}
    assert required <= {name.lower() for name in answer.headers}


def test_every_operation_names_the_errors_that_any_of_its_kind_may_meet() -> None:
    messenger, operator = apps()
    routes: dict[str, Any] = {**messenger.routes, **operator.routes}
    for path, method, operation in operations():
        statuses = set(operation["responses"])
        assert {"200", "400", "401", "405", "429", "500", "503"} <= statuses, path
        assert ({"413", "415"} <= statuses) == (method == "POST"), path
        route = routes[path][method]
        assert ("403" in statuses) == (not route.while_suspended), path
        for status, response in operation["responses"].items():
            assert "x-correlator" in resolve(response)["headers"], (path, status)


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """`schema` may refer to the document's parts."""
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:api#/'))
    return Draft202012Validator(absolute, registry=SCHEMAS, format_checker=FormatChecker())


def examples(node: Any, at: str = "#") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every example of the document with the schema it belongs to."""
    if isinstance(node, list):
        for place, child in enumerate(node):
            yield from examples(child, f"{at}/{place}")
    elif isinstance(node, dict):
        schema = node.get("schema")
        if isinstance(schema, dict):
            if "example" in node:
                yield at, schema, node["example"]
            for name, example in node.get("examples", {}).items():
                yield f"{at}/{name}", schema, example["value"]
        elif isinstance(node.get("examples"), list):
            for example in node["examples"]:
                yield at, node, example
        for name, child in node.items():
            if name not in ("example", "examples"):
                yield from examples(child, f"{at}/{name}")


def test_every_example_is_valid() -> None:
    found = list(examples(DOCUMENT))
    assert len(found) > 60
    for at, schema, example in found:
        problems_found = [error.message for error in validator(schema).iter_errors(example)]
        assert not problems_found, (at, problems_found)


def test_every_body_has_an_example() -> None:
    for path, method, operation in operations():
        bodies = [resolve(response) for response in operation["responses"].values()]
        if "requestBody" in operation:
            bodies.append(resolve(operation["requestBody"]))
        for body in bodies:
            for content in body["content"].values():
                assert content.get("examples"), (method, path)


def test_the_example_s_cursor_is_its_last_notification_s() -> None:
    content = DOCUMENT["paths"]["/v1/notifications"]["get"]["responses"]["200"]["content"]["application/json"]
    page = content["examples"]["page"]["value"]
    assert notifications._after(page["next"]) == own_id(page["notifications"][-1])


def test_the_worked_example_of_a_signature_is_true() -> None:
    text = DOCUMENT["info"]["description"]
    secret, public = (base64.b64decode(re.search(rf"{kind}_([A-Za-z0-9+/=]+)", text)[1]) for kind in ("whsec", "whpk"))  # type: ignore[index]
    message_id, timestamp = (re.search(rf"webhook-{name}: (\S+)`", text)[1] for name in ("id", "timestamp"))  # type: ignore[index]
    body = next(line.strip() for line in text.splitlines() if line.strip().startswith('{"type":"binding.terminated"'))
    signed = f"{message_id}.{timestamp}.{body}".encode()
    v1, v1a = re.search(r"webhook-signature: v1,(\S+) v1a,(\S+)", text).groups()  # type: ignore[union-attr]
    assert base64.b64decode(v1) == hmac.digest(secret, signed, hashlib.sha256)
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(v1a), signed)
    validator({"$ref": "#/components/schemas/BindingTerminatedEvent"}).validate(json.loads(body))


def test_the_document_s_digests_are_those_of_the_notices_in_it() -> None:
    def values(event: str) -> list[Any]:
        content = DOCUMENT["webhooks"][event]["post"]["requestBody"]["content"]["application/json"]
        return [example["value"] for example in content["examples"].values()]

    ids = {UUID(n["notificationId"]) for event in values("binding.terminated") for n in event["data"]["notifications"]}
    for event, told in zip(values("notifications.digest"), (ids, set()), strict=True):
        made_at = datetime.fromisoformat(event["timestamp"])
        assert event == digest_event(date.fromisoformat(event["data"]["day"]), digest_of(told), made_at)


def test_schemathesis_finds_nothing(site: Site, tmp_path: Path) -> None:
    assert asyncio.run(documents.explore(site, tmp_path, EXAMPLES)) >= CASES_MIN
