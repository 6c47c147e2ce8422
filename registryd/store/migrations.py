"""The schema: what it is made of, what was applied, whether this program works with it, and how it is brought to this release.

A migration (sql/migrations) is applied once and never edited afterwards. A code file (sql/code, sql/reports, sql/grants.sql) is applied
again whenever its text has changed. All that is missing is applied in one transaction, so that a failure leaves the schema as it was.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import asyncpg

from registryd import resources
from registryd.store import bulk
from registryd.store.pool import Connection, fetch
from registryd.store.queries import Nothing, Query

OWNER = "registryd_owner"
LOCK = 0x7265676973747279  # "registry"


class SchemaMismatch(Exception):
    """The database's schema does not fit this program; the message says how and what to run."""


class Migration(NamedTuple):
    version: int
    path: Path
    tables: str  # applied before the code files
    triggers: str  # applied after them; empty where the file has no line `-- code`
    checksum: bytes
    compatible_from: int  # the oldest release, by its newest migration, that still works with this schema


class CodeFile(NamedTuple):
    name: str  # relative to sql/
    sql: str
    checksum: bytes


class Applied(NamedTuple):
    version: int
    checksum: bytes
    compatible_from: int


class AppliedCode(NamedTuple):
    name: str
    checksum: bytes


class Description(NamedTuple):
    described: str


class Writable(NamedTuple):
    writable: bool


APPLIED_MIGRATIONS = Query("schema", "applied_migrations", Applied)
APPLIED_CODE = Query("schema", "applied_code", AppliedCode)
IS_WRITABLE = Query("schema", "is_writable", Writable)
TRY_WRITE = Query("schema", "try_write", Nothing)
WHO_HOLDS = Query("schema", "who_holds", Description)


@cache
def migrations() -> tuple[Migration, ...]:
    """Every file of sql/migrations, in order. Raises: SchemaMismatch."""
    found = []
    for path in sorted(resources.path("sql/migrations").glob("*.sql")):
        number = re.match(r"(\d{4})_", path.name)
        if number is None:
            raise SchemaMismatch(f"{path}: a migration's name begins with four digits and an underscore")
        text = path.read_text("utf-8")
        tables, _, triggers = text.partition("\n-- code\n")
        oldest = re.search(r"^-- compatible from (\d{4})$", text, re.MULTILINE)
        version = int(number[1])
        compatible_from = int(oldest[1]) if oldest else version
        found.append(Migration(version, path, _with_comments(tables), triggers, sha256(text.encode()).digest(), compatible_from))
    return tuple(found)


def _with_comments(sql: str) -> str:
    """With a COMMENT for each `-- …` behind a table's first line or behind a column: the files say it beside the thing, psql shows it."""
    comments, table = [], ""
    for line in sql.splitlines():
        if first := re.match(r"CREATE TABLE (\S+) \((?: -- (.*))?$", line):
            table = first[1]
            target, text = f"TABLE {table}", first[2]
        elif table and (column := re.match(r"    ([a-z_0-9]+) .*? -- (.*)$", line)):
            target, text = f"COLUMN {table}.{column[1]}", column[2]
        else:
            table = "" if line.startswith(")") else table
            continue
        if text:
            comments.append("COMMENT ON {} IS '{}';".format(target, text.replace("'", "''")))
    return "\n".join([sql, *comments])


@cache
def code_files() -> tuple[CodeFile, ...]:
    """Functions and views, then the reports on them, then the grants on all of it."""
    root = resources.path("sql")
    paths = [*sorted(root.glob("code/*.sql")), *sorted(root.glob("reports/*.sql")), root / "grants.sql"]
    texts = [(str(path.relative_to(root)), path.read_text("utf-8")) for path in paths]
    return tuple(CodeFile(name, text, sha256(text.encode()).digest()) for name, text in texts)


async def applied(connection: Connection) -> dict[int, Applied]:
    """The applied migrations by version; empty where there is no schema yet. Raises: SchemaMismatch."""
    try:
        if await connection.fetchval("SELECT to_regclass('registry.schema_migration')") is None:
            return {}
        return {row.version: row for row in await fetch(connection, APPLIED_MIGRATIONS)}
    except asyncpg.InsufficientPrivilegeError:
        raise SchemaMismatch(
            "this role may not see the registry's schema: connect as registryd_app, or to migrate as one that may SET ROLE registryd_owner"
        ) from None


async def try_write(connection: Connection) -> None:
    """Writes a megabyte and undoes it. Raises: what a full or failing disk raises."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await fetch(connection, TRY_WRITE)
    finally:
        await transaction.rollback()


async def check(connection: Connection) -> None:
    """Raises: SchemaMismatch, unless the schema is at least this program's and this program still works with it."""
    found = await applied(connection)
    if not found:
        raise SchemaMismatch("the database has no registry schema: run `registryd migrate` (as the owner; see sql/README.md)")
    missing = [m.path.name for m in _missing(found)]
    if not missing and max(found) == migrations()[-1].version:
        missing = [file.name for file in await _changed(connection)]
    if missing:
        raise SchemaMismatch(f"{', '.join(missing)} of this release not applied: run `registryd migrate`")


async def connect(dsn: str, *, password: str | None = None) -> asyncpg.Connection[asyncpg.Record]:
    """One connection as bulk.connect makes it, to the schema of this program. Raises: Unavailable, SchemaMismatch."""
    connection = await bulk.connect(dsn, password=password)
    try:
        await check(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


def _missing(found: dict[int, Applied]) -> list[Migration]:
    """What is not applied yet. Raises: SchemaMismatch, where the schema is not one this program works with."""
    known = {m.version: m for m in migrations()}
    newest = max(known)
    for version, row in found.items():
        if version in known and row.checksum != known[version].checksum:
            raise SchemaMismatch(
                f"{known[version].path.name} is not the file that was applied: install the release that was, or restore the file"
            )
        if version not in known and version < newest:
            raise SchemaMismatch(
                f"the database has migration {version:04d}, which this program does not know: install the release that made it"
            )
        if row.compatible_from > newest:
            raise SchemaMismatch(f"the database is at migration {version:04d}, newer than this program: install the release that made it")
    return [m for m in known.values() if m.version not in found]


async def _changed(connection: Connection) -> list[CodeFile]:
    """The code files whose text is not the one that was applied last."""
    there = {row.name: row.checksum for row in await fetch(connection, APPLIED_CODE)}
    return [file for file in code_files() if there.get(file.name) != file.checksum]


class Migrated(NamedTuple):
    files: list[str]
    """What was applied."""
    version: int
    """The schema's newest migration: a newer one than this program's where a newer release has migrated already."""


class Step(NamedTuple):
    name: str
    sql: str


async def plan(connection: Connection) -> list[Step]:
    """What brings the schema to this release, in order; empty where it is there, or newer. Raises: SchemaMismatch."""
    found = await applied(connection)
    todo = _missing(found)
    if found and max(found) > max(m.version for m in migrations()):
        return []
    code = await _changed(connection) if found else list(code_files())
    if (todo or code) and code_files()[-1] not in code:
        code.append(code_files()[-1])  # the grants: what is new has none yet
    steps = [Step(m.path.name, m.tables) for m in todo]
    steps += [Step(file.name, file.sql) for file in code]
    steps += [Step(f"{m.path.name}, triggers", m.triggers) for m in todo if m.triggers]
    records = [
        f"INSERT INTO registry.schema_migration (version, checksum, compatible_from)"
        f" VALUES ({m.version}, '\\x{m.checksum.hex()}', {m.compatible_from});"
        for m in todo
    ] + [
        f"INSERT INTO registry.schema_code (name, checksum) VALUES ('{file.name}', '\\x{file.checksum.hex()}')"
        " ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, applied_at = now();"
        for file in code
    ]
    return [*steps, Step("what was applied", "\n".join(records))] if steps else []


# Functions of one code file may call those of the next, so PostgreSQL does not look at their bodies while they are made. A lock that
# somebody holds for long is not waited for: every query would queue behind the wait.
SETTINGS = "SET LOCAL check_function_bodies = off; SET LOCAL client_min_messages = warning; SET LOCAL lock_timeout = '2s';"
TRIES_MAX = 200
PAUSE_S = 1.0


async def migrate(connection: asyncpg.Connection[asyncpg.Record], waiting: Callable[[str], None] = lambda _: None) -> Migrated:
    """Applies what is missing, in one transaction. Two at once take turns.

    Where a table stays locked for two seconds it is undone and tried again; `waiting(holders)` is then told who holds what.
    Raises: SchemaMismatch; asyncpg.PostgresError where a statement fails: nothing is then changed.
    """
    holders = ""
    for attempt in range(TRIES_MAX):
        if attempt:
            await asyncio.sleep(PAUSE_S)
        try:
            return await _migrate(connection)
        except asyncpg.LockNotAvailableError:
            holders = "; ".join(row.described for row in await fetch(connection, WHO_HOLDS)) or "somebody who is gone by now"
            waiting(holders)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedObjectError) as error:
            raise SchemaMismatch(f"{error}: run `psql -d DATABASE -f sql/roles.sql` as a superuser first") from None
    raise SchemaMismatch(f"nothing was changed, because the tables stay locked by {holders}: end that, or migrate later")


async def _migrate(connection: asyncpg.Connection[asyncpg.Record]) -> Migrated:
    async with connection.transaction(isolation="read_committed"):
        await act_as_owner(connection, until_commit=True)
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(SETTINGS)
        steps = await plan(connection)
        for step in steps:
            await connection.execute(step.sql)
        newest = max(await applied(connection))
    return Migrated([step.name for step in steps if step.name.endswith(".sql")], newest)


async def act_as_owner(connection: Connection, *, until_commit: bool = False) -> None:
    """Takes on the role that owns everything. Raises: SchemaMismatch."""
    try:
        await connection.execute(f"SET LOCAL ROLE {OWNER}" if until_commit else f"SET ROLE {OWNER}")
    except asyncpg.InvalidParameterValueError:
        raise SchemaMismatch("the roles are missing: run `psql -d DATABASE -f sql/roles.sql` as a superuser first") from None
    except asyncpg.InsufficientPrivilegeError:
        raise SchemaMismatch(f"this role may not SET ROLE {OWNER}: give --dsn or [database] owner_dsn of one that may") from None


async def script(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """The same work as a psql script, for a DBA who runs it himself. Raises: SchemaMismatch."""
    async with connection.transaction(readonly=True):
        await act_as_owner(connection, until_commit=True)
        steps = await plan(connection)
    parts = ["\\set ON_ERROR_STOP on", "BEGIN;", f"SET LOCAL ROLE {OWNER};", f"SELECT pg_advisory_xact_lock({LOCK});", SETTINGS]
    parts += [f"\n-- {step.name}\n{step.sql.rstrip()}" for step in steps]
    return "\n".join([*parts, "COMMIT;"]) + "\n"


DESCRIBE_DATABASE = Query("schema", "describe_database", Description)


async def describe(connection: Connection) -> str:
    """Who is connected to what, for people."""
    return (await fetch(connection, DESCRIBE_DATABASE))[0].described
