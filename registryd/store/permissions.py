"""Whether the daemon's role may do what the daemon does, and has the settings that sql/roles.sql gives it. Nothing is changed.

What the daemon does is read from its declared statements: each is explained, which makes PostgreSQL check the rights on tables and
columns as if it ran, and the functions it names are looked up. So there is no list to keep beside the statements.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import NamedTuple

import asyncpg

from registryd import resources, store
from registryd.store import session
from registryd.store.pool import Connection, fetch
from registryd.store.queries import DECLARED, Query

BY_OTHER_ROLES = ("audit.", "breakglass.", "policy.change_policy", "messengers.reseal_secret")
"""Statements that the owner or a person runs under a role of his own."""


class Signature(NamedTuple):
    signature: str


class Setting(NamedTuple):
    value: str | None


LACKING_FUNCTIONS = Query("schema", "lacking_functions", Signature, list[str])
READ_SETTING = Query("schema", "read_setting", Setting, str)


async def lacking(connection: Connection) -> list[str]:
    """What the daemon does and this role may not, in PostgreSQL's words; empty when all is well."""
    for module in pkgutil.iter_modules(store.__path__, f"{store.__name__}."):
        importlib.import_module(module.name)
    ours = [query for query in DECLARED if not query.name.startswith(BY_OTHER_ROLES)]
    refused = set()
    for query in ours:
        try:
            await connection.fetch(f"EXPLAIN {query.sql}", *[None] * len(query.params))
        except asyncpg.InsufficientPrivilegeError as error:
            refused.add(str(error))
        except asyncpg.PostgresError:
            continue  # works on a temporary table, or is not a statement that can be explained
    # new_page_id is the default of a column: no statement names it.
    named = sorted({"new_page_id", *(name for query in ours for name in re.findall(r"\bregistry\.(\w+)\(", query.sql))})
    refused.update(f"permission denied for function {row.signature}" for row in await fetch(connection, LACKING_FUNCTIONS, named))
    return sorted(refused)


async def unset(connection: Connection) -> list[str]:
    """The settings of sql/roles.sql and of our sessions that are not in force on this connection; empty when all is well."""
    text = resources.path("sql/roles.sql").read_text("utf-8")
    wanted = re.findall(r"^ALTER ROLE registryd_app SET (\S+) = '?([^';]+)'?;", text, re.MULTILINE)
    missing = []
    for name, value in [*wanted, *session.SETTINGS.items()]:
        (row,) = await fetch(connection, READ_SETTING, name)
        if row.value is not None and row.value != value:
            missing.append(f"{name} is {row.value}, not {value}")
    return missing
