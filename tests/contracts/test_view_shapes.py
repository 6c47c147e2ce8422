"""operator.yaml has every view as the program makes it: its members, their types and which may be null."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import msgspec

from registryd import views
from registryd.views.shape import Shape
from tests.contracts.documents import OPERATOR

TOLD = ("description", "title", "default")
"""What says nothing of a value."""


def shapes() -> dict[str, type[Shape]]:
    modules = [importlib.import_module(module.name) for module in pkgutil.iter_modules(views.__path__, "registryd.views.")]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type) and issubclass(value, Shape)]
    return {shape.__name__: shape for shape in found if shape is not Shape}


def essence(schema: Any) -> Any:
    """A schema without words for people, and the same however it is written."""
    if isinstance(schema, list):
        return [essence(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    told = {name: essence(value) for name, value in schema.items() if name not in TOLD}
    if set(told) == {"allOf"} and len(told["allOf"]) == 1:
        return told["allOf"][0]
    if "enum" in told:
        told = {**told, "type": "string", "enum": sorted(told["enum"])}
    if "required" in told:
        told["required"] = sorted(told["required"])
    return told


def test_every_view_is_documented_as_it_is() -> None:
    made = shapes()
    _, components = msgspec.json.schema_components(made.values(), ref_template="#/components/schemas/{name}View")
    documented = OPERATOR.content["components"]["schemas"]
    assert set(components) == set(made)  # the document says View after each name, because a client has but one namespace
    for name, schema in components.items():
        assert essence(documented[f"{name}View"]) == essence(schema), name
