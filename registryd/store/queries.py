"""The statements of sql/queries/: `-- name: verb_noun`, a why, the statement. Loaded once, when a store module names one.

Each is declared beside the code that calls it, with the Python types of its parameters and the row class of its result. Rows are read by
position; a test prepares every statement against the migrated schema and compares the columns' names and types with the row class.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

from registryd import resources

Row = TypeVar("Row", bound=tuple[Any, ...])

DECLARED: list[Query[Any]] = []


class Nothing(NamedTuple):
    """The row class of a statement that returns no rows."""


class Query(Generic[Row]):
    """One statement: its text, the types of its parameters (`list[int]` for an array) and the class of its rows."""

    __slots__ = ("name", "params", "row", "sql")

    def __init__(self, module: str, name: str, row: type[Row], *params: Any) -> None:
        self.name = f"{module}.{name}"
        self.sql = statements(module)[name]
        self.row = row
        self.params = params
        DECLARED.append(self)


@cache
def statements(module: str) -> dict[str, str]:
    """The statements of sql/queries/<module>.sql by name, without their comments."""
    text = resources.path(f"sql/queries/{module}.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {name: f"/* {module}.{name} */ {_body(body)}" for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _body(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return "\n".join(lines).strip().removesuffix(";")
