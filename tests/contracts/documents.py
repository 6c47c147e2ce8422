"""The two documents of the wire, messenger.yaml and operator.yaml, and what the tests read from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from registryd import resources
from registryd.config import ApiSection
from registryd.domain.endpoint import EndpointRules
from registryd.feed.events import ContractFeed
from registryd.http.auth import Directory, Operators
from registryd.http.messenger import messenger_app
from registryd.http.operator import OperatorHandlers, operator_app
from registryd.http.refusals import Refusals
from registryd.http.routes import Route
from registryd.presence.answerer import Answerer
from registryd.presence.quota import QuotaGuard
from registryd.store.digest_keys import DigestKey
from registryd.store.pool import Database

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
PROBLEM = "application/problem+json"


class Document:
    """One API's document."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.path = resources.path(f"registryd/http/{api}.yaml")
        self.content: dict[str, Any] = yaml.safe_load(self.path.read_text("utf-8"))
        self._uri = f"urn:{api}"
        self._parts = Registry().with_resource(self._uri, Resource.from_contents(self.content, default_specification=DRAFT202012))

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, item in self.content["paths"].items():
            for method in METHODS:
                if method in item:
                    yield path, method.upper(), item[method]

    def resolve(self, node: Any) -> Any:
        """What a node of the document stands for."""
        while isinstance(node, dict) and "$ref" in node:
            node = self._parts.resolver(self._uri).lookup(node["$ref"]).contents
        return node

    def validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        """`schema` may refer to the document's parts."""
        absolute = json.loads(json.dumps(schema).replace('"#/', f'"{self._uri}#/'))
        return Draft202012Validator(absolute, registry=self._parts, format_checker=FormatChecker())

    def problems(self) -> Iterator[tuple[dict[str, Any], set[int], set[str]]]:
        """Each response that is an error, with its statuses and codes."""
        for response in self.content["components"]["responses"].values():
            own = self.resolve(response["content"][PROBLEM]["schema"])["allOf"][1]["properties"]
            yield response, set(own["status"]["enum"]), set(own["code"]["enum"])


def examples(node: Any, at: str = "#") -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every example below a node of a document, with the schema it belongs to."""
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


def routes() -> Mapping[str, Mapping[str, Mapping[str, Route[Any]]]]:
    """The routes of each API as the daemon builds it, on a database that nobody connects to."""
    db = Database("", size=1, connect_timeout_s=1, command_timeout_s=1)
    answerer = Answerer(db, DigestKey(1, bytes(32)), statements_in_flight=1, group_max=1, queue_max=1)
    messengers = messenger_app(ApiSection(), db, Directory(db), answerer, QuotaGuard(db), Refusals(db), EndpointRules())
    operators = operator_app(ApiSection(), Operators(db), OperatorHandlers(ContractFeed(db, bytes(32)).apply), db)
    return {"messenger": messengers.routes, "operator": operators.routes}


MESSENGER, OPERATOR = DOCUMENTS = (Document("messenger"), Document("operator"))
