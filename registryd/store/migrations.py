"""The schema: which migrations there are, which were applied, and whether this program fits.

Migrations are plain SQL, applied in order, each in a transaction of its own under an advisory lock, and never edited once applied: the
checksum says so. The views of schema report are made anew after them.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import asyncpg

from registryd import resources
from registryd.store import pool
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Query

OWNER = "registryd_owner"
LOCK = 0x7265676973747279  # "registry"


class SchemaMismatch(Exception):
    """The database's schema does not fit this program; the message says how and what to run."""


class Migration(NamedTuple):
    version: int
    path: Path
    sql: str

    @property
    def checksum(self) -> bytes:
        return sha256(self.sql.encode()).digest()


class Applied(NamedTuple):
    version: int
    checksum: bytes


class Writable(NamedTuple):
    writable: bool


APPLIED_MIGRATIONS = Query("schema", "applied_migrations", Applied)
IS_WRITABLE = Query("schema", "is_writable", Writable)


@cache
def migrations() -> tuple[Migration, ...]:
    """Every file of sql/migrations, in order."""
    found = []
    for path in sorted(resources.path("sql/migrations").glob("*.sql")):
        number = re.match(r"(\d{4})_", path.name)
        if number is None:
            raise SchemaMismatch(f"{path}: a migration's name begins with four digits and an underscore")
        found.append(Migration(int(number[1]), path, path.read_text("utf-8")))
    return tuple(found)


@cache
def reports_sql() -> str:
    """The views of schema report, made anew in one transaction."""
    views = [path.read_text("utf-8") for path in sorted(resources.path("sql/reports").glob("*.sql"))]
    return "\n".join(views)


async def applied(connection: Connection) -> dict[int, bytes]:
    """The applied migrations' checksums by version; empty where there is no schema yet. Raises: SchemaMismatch."""
    try:
        if await connection.fetchval("SELECT to_regclass('registry.schema_migration')") is None:
            return {}
        return {row.version: row.checksum for row in await fetch(connection, APPLIED_MIGRATIONS)}
    except asyncpg.InsufficientPrivilegeError:
        raise SchemaMismatch(
            "this role may not see the registry's schema: connect as registryd_app, or to migrate as one that may SET ROLE registryd_owner"
        ) from None


async def check(connection: Connection) -> None:
    """Raises: SchemaMismatch, unless exactly this program's migrations are applied, unchanged."""
    found = await applied(connection)
    if not found:
        raise SchemaMismatch("the database has no registry schema: run `registryd migrate` (as the owner; see sql/README.md)")
    missing = [f"{m.version:04d}" for m in _missing(found)]
    if missing:
        raise SchemaMismatch(f"migrations {', '.join(missing)} are not applied: run `registryd migrate`")


async def connect(dsn: str, *, password: str | None = None) -> asyncpg.Connection[asyncpg.Record]:
    """One connection as pool.connect makes it, to the schema of this program. Raises: Unavailable, SchemaMismatch."""
    connection = await pool.connect(dsn, password=password)
    try:
        await check(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


def _missing(found: dict[int, bytes]) -> list[Migration]:
    """What is not applied yet. Raises: SchemaMismatch, where something else was."""
    known = {m.version: m for m in migrations()}
    for version, checksum in found.items():
        if version not in known:
            raise SchemaMismatch(f"the database is at migration {version:04d}, newer than this program: install the release that made it")
        if checksum != known[version].checksum:
            raise SchemaMismatch(
                f"{known[version].path.name} is not the file that was applied: install the release that was, or restore the file"
            )
    return [m for m in migrations() if m.version not in found]


async def migrate(connection: asyncpg.Connection[asyncpg.Record]) -> list[Migration]:
    """Applies what is missing and makes the reports anew; returns what it applied. Two at once take turns.

    Raises: SchemaMismatch; asyncpg.PostgresError where a statement fails: that migration is then undone whole.
    """
    await act_as_owner(connection)
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        todo = _missing(await applied(connection))
        for migration in todo:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO registry.schema_migration (version, checksum) VALUES ($1, $2)", migration.version, migration.checksum
                )
        async with connection.transaction():
            await connection.execute(reports_sql())
        await connection.execute("SELECT registry.make_partitions((now() AT TIME ZONE 'UTC')::date, 8)")
        return todo
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedObjectError) as error:
        raise SchemaMismatch(f"{error}: run `psql -d DATABASE -f sql/roles.sql` as a superuser first") from None
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
        await connection.execute("RESET ROLE")


async def act_as_owner(connection: Connection) -> None:
    """Takes on the role that owns everything. Raises: SchemaMismatch."""
    try:
        await connection.execute(f"SET ROLE {OWNER}")
    except asyncpg.InvalidParameterValueError:
        raise SchemaMismatch("the roles are missing: run `psql -d DATABASE -f sql/roles.sql` as a superuser first") from None
    except asyncpg.InsufficientPrivilegeError:
        raise SchemaMismatch(f"this role may not SET ROLE {OWNER}: give --dsn or [database] owner_dsn of one that may") from None


async def script(connection: Connection) -> str:
    """The same work as a psql script, for a DBA who runs it himself. Raises: SchemaMismatch."""
    await act_as_owner(connection)
    parts = ["\\set ON_ERROR_STOP on", f"SELECT pg_advisory_lock({LOCK});", f"SET ROLE {OWNER};"]
    for m in _missing(await applied(connection)):
        parts += [
            f"\n-- {m.path.name}\nBEGIN;",
            m.sql.rstrip(),
            f"INSERT INTO registry.schema_migration (version, checksum) VALUES ({m.version}, '\\x{m.checksum.hex()}');",
            "COMMIT;",
        ]
    parts += ["\n-- the reports, made anew\nBEGIN;", reports_sql().rstrip(), "COMMIT;"]
    parts += ["SELECT registry.make_partitions((now() AT TIME ZONE 'UTC')::date, 8);", "RESET ROLE;", f"SELECT pg_advisory_unlock({LOCK});"]
    return "\n".join(parts) + "\n"


class Description(NamedTuple):
    described: str


DESCRIBE_DATABASE = Query("schema", "describe_database", Description)


async def describe(connection: Connection) -> str:
    """Who is connected to what, for people."""
    return (await fetch(connection, DESCRIBE_DATABASE))[0].described
