"""What a release asks of the schema, kept as data (tests/data/releases): its statements with the types they had when it was released.

`python -m tests.store.releases` writes the file of this release. Run it when a release is made, and never change the file afterwards:
later releases hold their schema to it for as long as `compatible_from` names that release or an older one.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

import asyncpg

from registryd import store
from registryd.demo import embedded
from registryd.store import migrations, staging
from registryd.store.queries import DECLARED
from tests.conftest import prepare_database

DIRECTORY = Path(__file__).parents[1] / "data/releases"


async def described(connection: asyncpg.Connection[asyncpg.Record], sql: str) -> dict[str, Any]:
    """A statement's types, as the schema has them now. Raises: asyncpg.PostgresError, where it can no longer be prepared."""
    statement = await connection.prepare(sql)
    return {
        "parameters": [parameter.name for parameter in statement.get_parameters()],
        "columns": [[column.name, column.type.name] for column in statement.get_attributes()],
    }


async def recorded(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, Any]:
    """This release: its statements and the checksums of its code files."""
    for module in pkgutil.iter_modules(store.__path__, "registryd.store."):
        importlib.import_module(module.name)
    async with connection.transaction():
        await connection.execute(staging.CREATE_STAGING.sql)
        statements = {query.name: {"sql": query.sql, **await described(connection, query.sql)} for query in DECLARED}
    return {
        "version": migrations.migrations()[-1].version,
        "code": {file.name: file.checksum.hex() for file in migrations.code_files()},
        "statements": dict(sorted(statements.items())),
    }


async def broken(connection: asyncpg.Connection[asyncpg.Record], release: dict[str, Any]) -> dict[str, str]:
    """The statements of a release that the schema no longer serves as it did, each with what is wrong."""
    found: dict[str, str] = {}
    async with connection.transaction():
        await connection.execute(staging.CREATE_STAGING.sql)
        for name, was in release["statements"].items():
            try:
                async with connection.transaction():
                    now = await described(connection, was["sql"])
            except asyncpg.PostgresError as error:
                found[name] = str(error)
            else:
                if now != {"parameters": was["parameters"], "columns": was["columns"]}:
                    found[name] = f"it was {was['parameters']} -> {was['columns']} and is {now['parameters']} -> {now['columns']}"
    return found


async def _write() -> None:
    with embedded.Server(embedded.find_binaries(), durable=False) as server:
        connection = await asyncpg.connect(await prepare_database(server, "release"))
        release = await recorded(connection)
        await connection.close()
    path = DIRECTORY / f"{release['version']:04d}.json"
    path.write_text(json.dumps(release, indent=1) + "\n")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    asyncio.run(_write())
