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
    """The applied migrations' checksums by version; empty where there is no schema yet."""
    if await connection.fetchval("SELECT to_regclass('registry.schema_migration')") is None:
        return {}
    return {row.version: row.checksum for row in await fetch(connection, APPLIED_MIGRATIONS)}


async def check(connection: Connection) -> None:
    """Raises: SchemaMismatch, unless exactly this program's migrations are applied, unchanged."""
    found = await applied(connection)
    known = {m.version: m for m in migrations()}
    if not found:
        raise SchemaMismatch("the database has no registry schema: run `registryd migrate` (as the owner; see sql/README.md)")
    for version, checksum in found.items():
        if version not in known:
            raise SchemaMismatch(
                f"the database is at migration {version:04d}, which is newer than this program: install the release that made it"
            )
        if checksum != known[version].checksum:
            raise SchemaMismatch(
                f"{known[version].path.name} is not the file that was applied: install the release that was, or restore the file"
            )
    missing = [f"{version:04d}" for version in known if version not in found]
    if missing:
        raise SchemaMismatch(f"migrations {', '.join(missing)} are not applied: run `registryd migrate`")


async def pending(connection: Connection) -> list[Migration]:
    """Raises: SchemaMismatch where an applied file was edited or is unknown."""
    found = await applied(connection)
    if found:
        try:
            await check(connection)
        except SchemaMismatch as mismatch:
            if "not applied" not in str(mismatch):
                raise
    return [m for m in migrations() if m.version not in found]


async def migrate(connection: asyncpg.Connection[asyncpg.Record]) -> list[Migration]:
    """Applies what is missing and makes the reports anew; returns what it applied. Two at once take turns.

    Raises: SchemaMismatch; asyncpg.PostgresError where a statement fails: that migration is then undone whole.
    """
    if await connection.fetchval("SELECT to_regrole($1)", OWNER) is None:
        raise SchemaMismatch("the roles are missing: run `psql -d DATABASE -f sql/roles.sql` as a superuser first")
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        await connection.execute(f"SET ROLE {OWNER}")
        todo = await pending(connection)
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
    finally:
        await connection.execute("RESET ROLE")
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


def script(todo: list[Migration]) -> str:
    """The same work as a psql script, for a DBA who runs it himself."""
    parts = ["\\set ON_ERROR_STOP on", f"SELECT pg_advisory_lock({LOCK});", f"SET ROLE {OWNER};"]
    for m in todo:
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


class Lacking(NamedTuple):
    privilege: str


DESCRIBE_DATABASE = Query("schema", "describe_database", Description)
LACKING_PRIVILEGES = Query("schema", "lacking_privileges", Lacking)


async def describe(connection: Connection) -> str:
    """Who is connected to what, for people."""
    return (await fetch(connection, DESCRIBE_DATABASE))[0].described


async def lacking_privileges(connection: Connection) -> list[str]:
    """What the daemon does and its role may not; empty when all is well."""
    return [row.privilege for row in await fetch(connection, LACKING_PRIVILEGES)]
