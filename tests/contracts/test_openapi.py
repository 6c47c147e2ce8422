"""messenger.yaml and operator.yaml are the contract: valid, the same as the routes and errors there are, and schemathesis finds it kept."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import tomllib
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import openapi_spec_validator
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registryd import resources
from registryd.domain import errors
from registryd.domain.digest import digest_event, digest_of
from registryd.domain.notification import own_id
from registryd.http import notifications, problems
from tests.conftest import LONG, Site
from tests.contracts.documents import DOCUMENTS, MESSENGER, OPERATOR, PROBLEM, Document, examples, routes
from tests.fuzz import documents

EXAMPLES, CASES_MIN = (150, 2_000) if LONG else (20, 500)
"""What schemathesis draws for each operation, and how many cases come of it at least."""

each = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.api)


@each
def test_the_document_is_openapi_3_1(document: Document) -> None:
    assert document.content["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(document.content)


@each
def test_the_document_s_version_is_the_package_s(document: Document) -> None:
    package = tomllib.loads(resources.path("pyproject.toml").read_text("utf-8"))
    version = package["project"]["version"]
    assert document.content["info"]["version"] == version
    assert f"    | {version} |" in document.path.read_text("utf-8"), "the changelog tells of this version"
    assert set(re.findall(r"User-Agent: registryd/([0-9]+(?:[.][0-9]+)*)", document.path.read_text("utf-8"))) <= {version}


@each
def test_clients_made_from_the_document_ask_the_host_that_they_are_given(document: Document) -> None:
    """A server that a path or an operation names beats the one that a client is configured with."""
    for path, method, operation in document.operations():
        assert "servers" not in document.content["paths"][path], path
        assert "servers" not in operation, (method, path)


def parts(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts(child)


@each
def test_generators_can_name_and_type_what_the_document_has(document: Document) -> None:
    """A constant that is no enum leaves errors out of clients, and a nullable enum in place gets a name that says nothing."""
    for part in parts(document.content):
        assert "const" not in part, part
        assert not ("enum" in part and isinstance(part.get("type"), list)), part


@each
def test_the_document_and_the_routes_are_the_same(document: Document) -> None:
    routed = {(path, method): route for path, methods in routes()[document.api].items() for method, route in methods.items()}
    documented = {(path, method): operation for path, method, operation in document.operations()}
    assert set(documented) == set(routed)
    for key, operation in documented.items():
        parameters = [document.resolve(parameter) for parameter in operation.get("parameters", [])]
        assert {each["name"] for each in parameters if each["in"] == "query"} == set(routed[key].parameters), key
        assert "security" not in operation, "the key is the document's default"


def test_no_api_tells_of_the_other() -> None:
    assert not set(routes()["messenger"]) & set(routes()["operator"])
    assert "/operator/" not in MESSENGER.path.read_text("utf-8")
    assert MESSENGER.content["security"][0] == {"messengerKey": []}
    assert OPERATOR.content["security"] == [{"operatorKey": []}]


def test_every_error_of_the_code_is_documented_and_no_other() -> None:
    sources = "".join(path.read_text("utf-8") for path in sorted(resources.path("registryd/http").glob("*.py")))
    coded = {(int(status), code) for status, code in re.findall(r'\b([45]\d\d), "([A-Z_]+)"', sources)}
    documented = set()
    for document in DOCUMENTS:
        own = {(status, code) for _, statuses, codes in document.problems() for status in statuses for code in codes}
        known = document.content["components"]["schemas"]["RegistryProblem"]["properties"]["code"]["enum"]
        assert {code for _, code in own} | {"NOT_FOUND"} == set(known)
        documented |= own
    assert documented == coded


EVERY_ERROR: list[Exception] = [
    errors.InvalidArgument(("phoneNumber", "wanted")),
    errors.QuotaExceeded(7),
    errors.TooManyRequests(1),
    errors.TooManyCalls(1),
    errors.TooManyTests(15),
    errors.Throttled(7),
    *(kind() for kind in (errors.NotPresent, errors.CodeInUse, errors.Conflict, errors.NotFound, errors.Unavailable)),
    *(kind() for kind in (errors.Unauthenticated, errors.PermissionDenied, errors.OutOfScope)),
    *(problems.not_found(), problems.method_not_allowed(["GET"]), problems.too_large(7), problems.too_slow(7)),
    *(problems.unsupported_media_type("x"), RuntimeError("a secret")),
]


def test_the_list_of_errors_is_whole() -> None:
    assert {type(error) for error in EVERY_ERROR} >= set(errors.RegistryError.__subclasses__())


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_every_error_answers_as_its_response_says(error: Exception) -> None:
    answer = problems.respond(error)
    assert answer.content_type == PROBLEM
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)
    assert "a secret" not in answer.body.decode()
    told_in = [(document, response) for document in DOCUMENTS for response, _, codes in document.problems() if body["code"] in codes]
    assert told_in
    for document, response in told_in:
        document.validator(response["content"][PROBLEM]["schema"]).validate(body)
        required = {name.lower() for name, header in response["headers"].items() if document.resolve(header)["required"]} - {"x-correlator"}
        assert required <= {name.lower() for name in answer.headers}
    assert body["status"] == answer.status


@each
def test_every_operation_names_the_errors_that_any_of_its_kind_may_meet(document: Document) -> None:
    for path, method, operation in document.operations():
        statuses = set(operation["responses"])
        assert {"200", "400", "401", "405", "429", "500", "503"} <= statuses, path
        assert ({"413", "415"} <= statuses) == (method == "POST"), path
        route = routes()[document.api][path][method]
        assert ("403" in statuses) == (not route.while_suspended), path
        for status, response in operation["responses"].items():
            assert "x-correlator" in document.resolve(response)["headers"], (path, status)


@each
def test_every_example_is_valid(document: Document) -> None:
    found = list(examples(document.content))
    assert len(found) > 20
    for at, schema, example in found:
        problems_found = [error.message for error in document.validator(schema).iter_errors(example)]
        assert not problems_found, (at, problems_found)


@each
def test_every_operation_has_a_summary_a_description_a_tag_and_an_example_of_every_body(document: Document) -> None:
    tags = {tag["name"] for tag in document.content["tags"]}
    for path, method, operation in document.operations():
        assert operation["operationId"], (method, path)
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert set(operation["tags"]) <= tags, (method, path)
        bodies = [document.resolve(response) for response in operation["responses"].values()]
        if "requestBody" in operation:
            bodies.append(document.resolve(operation["requestBody"]))
        for body in bodies:
            for content in body["content"].values():
                assert content.get("examples"), (method, path)


def test_the_example_s_cursor_is_its_last_notification_s() -> None:
    content = MESSENGER.content["paths"]["/v1/notifications"]["get"]["responses"]["200"]["content"]["application/json"]
    page = content["examples"]["page"]["value"]
    assert notifications._after(page["next"]) == own_id(page["notifications"][-1])


def test_the_worked_example_of_a_signature_is_true() -> None:
    text = MESSENGER.content["info"]["description"]
    secret, public = (base64.b64decode(re.search(rf"{kind}_([A-Za-z0-9+/=]+)", text)[1]) for kind in ("whsec", "whpk"))  # type: ignore[index]
    message_id, timestamp = (re.search(rf"webhook-{name}: (\S+)`", text)[1] for name in ("id", "timestamp"))  # type: ignore[index]
    body = next(line.strip() for line in text.splitlines() if line.strip().startswith('{"type":"binding.terminated"'))
    signed = f"{message_id}.{timestamp}.{body}".encode()
    v1, v1a = re.search(r"webhook-signature: v1,(\S+) v1a,(\S+)", text).groups()  # type: ignore[union-attr]
    assert base64.b64decode(v1) == hmac.digest(secret, signed, hashlib.sha256)
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(v1a), signed)
    MESSENGER.validator({"$ref": "#/components/schemas/BindingTerminatedEvent"}).validate(json.loads(body))


def test_the_document_s_digests_are_those_of_the_notices_in_it() -> None:
    def values(event: str) -> list[Any]:
        content = MESSENGER.content["webhooks"][event]["post"]["requestBody"]["content"]["application/json"]
        return [example["value"] for example in content["examples"].values()]

    ids = {UUID(n["notificationId"]) for event in values("binding.terminated") for n in event["data"]["notifications"]}
    for event, told in zip(values("notifications.digest"), (ids, set()), strict=True):
        made_at = datetime.fromisoformat(event["timestamp"])
        assert event == digest_event(date.fromisoformat(event["data"]["day"]), digest_of(told), made_at)


def test_schemathesis_finds_nothing(site: Site, tmp_path: Path) -> None:
    assert asyncio.run(documents.explore(site, tmp_path, EXAMPLES)) >= CASES_MIN
