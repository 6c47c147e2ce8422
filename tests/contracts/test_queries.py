"""sql/queries/ against the migrated schema: every statement declared once, typed as its row class says, and run by the daemon's role."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
import types
import typing
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import asyncpg
import pytest

from registryd import resources, store
from registryd.store import (
    queries,
    staging,
)
from registryd.store.permissions import BY_OTHER_ROLES
from registryd.store.queries import DECLARED, Query
from tests.conftest import TestDatabase
from tests.store.conftest import Connection

for module in pkgutil.iter_modules(store.__path__, "registryd.store."):
    importlib.import_module(module.name)

FILES = sorted(resources.path("sql/queries").glob("*.sql"))

PYTHON_TYPES = {
    **dict.fromkeys(("int2", "int4", "int8"), int),
    **dict.fromkeys(("text", "varchar"), str),
    "float8": float,
    "bool": bool,
    "bytea": bytes,
    "uuid": UUID,
    "date": date,
    "timestamptz": datetime,
    "interval": timedelta,
    "numeric": Decimal,
}
"""What asyncpg makes of PostgreSQL's types, as far as a statement may use them."""


def written() -> dict[str, str]:
    """The statements of sql/queries by name, each with its comments."""
    found: dict[str, str] = {}
    for path in FILES:
        parts = re.split(r"^-- name: (.*)\n", path.read_text("utf-8"), flags=re.MULTILINE)[1:]
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            assert f"{path.stem}.{name}" not in found, f"{path.name} has two statements {name}"
            found[f"{path.stem}.{name}"] = text
    return found


def test_every_statement_is_declared_by_exactly_one_query() -> None:
    assert Counter(query.name for query in DECLARED) == Counter(list(written()))


def test_no_statement_selects_columns_it_does_not_name() -> None:
    bodies = {query.name: query.sql for query in DECLARED}
    # A table expression inside find_binding is narrowed by the statement around it.
    assert [name for name, sql in bodies.items() if re.search(r"SELECT\s+\*|RETURNING\s+\*", sql)] == ["bindings.find_binding"]


def test_parameters_and_columns_are_of_the_declared_types(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, connection.transaction():
            # What an import's statements speak of is there once its first ones have run.
            await connection.execute(staging.CREATE_STAGING.sql)
            kinds = await types_by_oid(connection)
            wrong = {}
            for query in DECLARED:
                statement = await connection.prepare(query.sql)
                taken = [python_type(kinds, parameter.oid) for parameter in statement.get_parameters()]
                given = [(column.name, python_type(kinds, column.type.oid)) for column in statement.get_attributes()]
                hints = get_type_hints(query.row)
                declared = [(name, plain(hints[name])) for name in query.row._fields]
                if (taken, given) != ([plain(parameter) for parameter in query.params], declared):
                    wrong[query.name] = {"parameters": taken, "declared": query.params, "columns": given, "row class": declared}
            assert wrong == {}

    asyncio.run(run())


def test_a_type_that_differs_would_be_noticed(database: TestDatabase) -> None:
    """The comparison itself: what it must tell apart, and what it must not."""

    async def run() -> None:
        async with database.connect() as connection:
            kinds = await types_by_oid(connection)
            statement = await connection.prepare(
                "SELECT 1::smallint, 'active'::registry.contract_status, ARRAY[gen_random_uuid()], now(), "
                "ARRAY['pull'::registry.delivery_channel]"
            )
            found = [python_type(kinds, column.type.oid) for column in statement.get_attributes()]
            assert found == [int, str, list[UUID], datetime, list[str]]
            assert plain(MessengerHint) is int
            assert plain(str | None) is str
            assert plain(list[str | None]) == list[str]

    asyncio.run(run())


MessengerHint = typing.NewType("MessengerHint", int)


def plain(annotation: Any) -> Any:
    """An annotation without what SQL's types do not know: NULL and NewType."""
    if hasattr(annotation, "__supertype__"):
        return plain(annotation.__supertype__)
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (argument for argument in get_args(annotation) if argument is not type(None))
        return plain(inner)
    if get_origin(annotation) is list:
        return list[plain(get_args(annotation)[0])]  # type: ignore[misc]
    return annotation


Kinds = Mapping[int, tuple[str, str, int]]


async def types_by_oid(connection: Connection) -> Kinds:
    """PostgreSQL's types: name, kind, and element where the type is an array."""
    rows = await connection.fetch("SELECT oid, typname, typtype, CASE typcategory WHEN 'A' THEN typelem ELSE 0 END AS element FROM pg_type")
    return {row["oid"]: (row["typname"], row["typtype"].decode(), row["element"]) for row in rows}


def python_type(kinds: Kinds, oid: int) -> Any:
    name, kind, element = kinds[oid]
    if element:
        return list[python_type(kinds, element)]  # type: ignore[misc]
    return str if kind == "e" else PYTHON_TYPES[name]


def test_statements_are_loaded_without_comments_and_under_their_name() -> None:
    for name, sql in ((f"{path.stem}.{name}", sql) for path in FILES for name, sql in queries.statements(path.stem).items()):
        assert sql.startswith(f"/* {name} */ ")
        assert not re.search(r"^\s*--", sql, re.MULTILINE)
        assert not sql.endswith(";")


def test_a_statement_that_is_not_there_cannot_be_declared() -> None:
    with pytest.raises(KeyError):
        Query("presence", "no_such_statement", queries.Nothing)


def test_the_daemons_role_may_run_every_statement(populated: TestDatabase) -> None:
    """Preparing checks no privilege, so each is run, on arguments that mean nothing."""
    samples: dict[Any, Any] = {
        int: 1,
        str: "active",
        bool: True,
        float: 1.0,
        bytes: b"",
        UUID: UUID(int=0),
        date: date(2026, 1, 1),
        datetime: datetime(2026, 1, 1, tzinfo=UTC),
        timedelta: timedelta(seconds=1),
    }

    async def run() -> None:
        async with populated.connect("registryd_app") as connection, connection.transaction():
            await connection.execute(staging.CREATE_STAGING.sql)
            for query in DECLARED:
                if query.name.startswith(BY_OTHER_ROLES):
                    continue
                arguments = [[] if get_origin(parameter) is list else samples[parameter] for parameter in query.params]
                savepoint = connection.transaction()
                await savepoint.start()
                try:
                    await connection.fetch(query.sql, *arguments)
                except asyncpg.InsufficientPrivilegeError as error:
                    raise AssertionError(f"{query.name}: {error}") from None
                except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.DuplicateTableError):
                    pass  # the sample's fault
                finally:
                    await savepoint.rollback()

    asyncio.run(run())
