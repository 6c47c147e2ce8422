"""What serving needs of the database: the way to it, schema, rights, settings, what stands in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from registryd.cli.checks import CheckResult
from registryd.cli.printing import words
from registryd.cli.running import Context, Exit
from registryd.config import ConfigError, Settings
from registryd.domain.errors import Unavailable
from registryd.store import digest_keys, feed, messengers, migrations, permissions, policy, ranges, server, session
from registryd.store.failures import NOT_ALLOWED, explain
from registryd.store.pool import Connection
from registryd.store.reading import Reading
from registryd.store.secretbox import digest_box, signing_box

OFFSET_MAX_S = 5.0
"""How far this machine's clock may be from the database's without a warning."""


async def look(context: Context) -> list[CheckResult]:
    found: list[CheckResult] = []
    try:
        async with context.database() as db, db.connection() as connection:
            how = "" if await session.is_direct(connection) else ", by a pooler of sessions"
            found.append(CheckResult("database", await migrations.describe(connection) + how))
            found.append(await clock(connection))
            await migrations.check(connection)
            found.append(CheckResult("schema", migrations.migrations()[-1].path.name))
            found.append(_rules(await server.rules_off(Reading(connection))))
            if lacking := await permissions.lacking(connection):
                found.append(CheckResult("permissions", f"{'; '.join(lacking)}: connect as registryd_app", Exit.FAILED))
                return found
            found.append(CheckResult("permissions", "what the daemon needs"))
            found.append(await _settings(connection))
            found.append(await _log(connection))
            found.append(await _memory(connection))
            found.append(await _locks(connection))
            found.append(await _durability(connection))
            found.append(await _secrets(connection, context.settings))
            found.append(await _completeness(connection))
            found.append(CheckResult("capacity", await _capacity(connection)))
            found.append(await _law(connection))
    except Unavailable as error:
        found.append(CheckResult("database", explain(error), Exit.DATABASE_AWAY))
    except NOT_ALLOWED as error:
        found.append(CheckResult("permissions", str(error), Exit.FAILED))
    except migrations.SchemaMismatch as error:
        found.append(CheckResult("schema", str(error), Exit.SCHEMA))
    return found


async def clock(connection: Connection, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> CheckResult:
    """A warning where the clocks differ: a push's signature and a key's end are judged by this machine's clock."""
    before = now()
    told = await server.read_clock(connection)
    offset_s = (told - before - (now() - before) / 2) / timedelta(seconds=1)
    if abs(offset_s) > OFFSET_MAX_S:
        mend = "set the wrong one right (timedatectl): messengers refuse a push whose signature bears a wrong time"
        return CheckResult("clock", f"the database's clock is {offset_s:+,.0f} s from this machine's: {mend}", warns=True)
    return CheckResult("clock", "this machine's and the database's agree")


def _rules(off: list[str]) -> CheckResult:
    if off:
        mend = "what they keep is not kept: switch them on again (ALTER TABLE … ENABLE TRIGGER; REINDEX)"
        return CheckResult("rules", f"{'; '.join(off)}: {mend}", Exit.FAILED)
    return CheckResult("rules", "every trigger and unique index of the registry is in force")


async def _settings(connection: Connection) -> CheckResult:
    if unset := await permissions.unset(connection):
        return CheckResult("settings", f"{'; '.join(unset)}: connect as registryd_app, or run sql/roles.sql again", Exit.FAILED)
    return CheckResult("settings", "as sql/roles.sql and the daemon set them")


async def _log(connection: Connection) -> CheckResult:
    """A warning where numbers of the daemon's or a person's statements would stand in the server's log."""
    logs = await server.what_is_logged(connection)
    persons = await server.logged_persons(connection)
    if not persons:
        return CheckResult("server log", "nothing of the daemon's sessions, nor of those who may unmask")
    what = "; ".join(logs) or "errors"
    mend = "; ".join(f"ALTER ROLE {name} SET log_min_messages = 'panic'" for name in persons)
    return CheckResult("server log", f"numbers in the statements of {', '.join(persons)} may stand in it, by {what}: {mend}", warns=True)


async def _memory(connection: Connection) -> CheckResult:
    """A warning where look-ups read the disk."""
    memory = await server.read_memory(connection)
    told = f"shared_buffers {memory.shared_buffers >> 20:,} MB, primary key of contracts {memory.primary_key >> 20:,} MB"
    if memory.primary_key > memory.shared_buffers:
        mend = "give the server more (postgresql.conf; sql/README.md, How much memory look-ups want)"
        return CheckResult("memory", f"{told}: look-ups read the disk: {mend}", warns=True)
    return CheckResult("memory", f"{told}; after a restart of the server `SELECT pg_prewarm('registry.contract_pkey')` reads it at once")


async def _locks(connection: Connection) -> CheckResult:
    """A warning where one transaction that touches every partition, such as a dump, may fill the table of locks."""
    locks = await server.read_locks(connection)
    told = f"max_locks_per_transaction {locks.per_transaction} leaves {locks.places:,} places for {locks.relations:,} tables and indexes"
    if locks.relations > locks.places / 2:
        return CheckResult("locks", f"{told}: a dump may fail with `out of shared memory`; double it (postgresql.conf)", warns=True)
    return CheckResult("locks", told)


async def _durability(connection: Connection) -> CheckResult:
    """A warning where a standby may be promoted that lacks what was answered."""
    names, standbys = await server.read_replication(connection)
    if names:
        patroni = (
            "with Patroni that holds for ever only under synchronous_mode_strict: else it empties this setting when the last standby goes"
        )
        return CheckResult(
            "durability", f"synchronous: what is answered is on a standby too (synchronous_standby_names {names}); {patroni}"
        )
    if not standbys:
        return CheckResult("durability", "one server: what is answered is on its disk, and lost with it")
    mend = "set synchronous_standby_names; with Patroni synchronous_mode and synchronous_mode_strict (systemd/README.md, Failover)"
    lost = "a promotion may lose the last answers, bindings and ends that were acknowledged"
    return CheckResult("durability", f"asynchronous, {standbys} standbys: {lost}: {mend}", warns=True)


async def _completeness(connection: Connection) -> CheckResult:
    """A warning: a registry that is being fed for the first time must start, so that billing's events reach it."""
    status = await feed.read_status(connection)
    if status.complete:
        return CheckResult("completeness", f"since {words(status.complete_since)}: {status.reason}")
    mend = "import a whole snapshot (`registryd contracts import FILE --snapshot`), or say `registryd feed complete --reason`"
    why = f" ({status.reason})" if status.reason else ""
    return CheckResult("completeness", f"the registry is not complete{why}, so every query is 503: {mend}", warns=True)


async def _capacity(connection: Connection) -> str:
    outside = await ranges.count_outside(connection)
    where = ": `registryd report contract_outside_capacity` tells in which blocks" if outside else ""
    return f"{outside:,} live contracts lie outside the numbering capacity{where}"


async def _law(connection: Connection) -> CheckResult:
    law = await policy.read_law(connection)
    rule = f"organisation_rule {law.organisation_rule}, suspended_is_present {str(law.suspended_is_present).lower()}"
    lapses = "no day is known when it lapses" if law.lapses_at is None else f"it lapses at {words(law.lapses_at)} (lapses_at)"
    if not law.is_chosen:
        mend = "registryd policy set organisation_rule=subscriber or =verified_end_user --note 'who decided it'"
        return CheckResult("policy", f"{rule}; {lapses}. Nobody has chosen the rule for organisations yet: {mend}", warns=True)
    if law.lapses_s is not None and law.lapses_s < policy.LAPSES_SOON_S:
        return CheckResult(
            "policy", f"{rule}; {lapses}: plan its successor, registryd policy set … --from {law.lapses_at:%FT%TZ}", warns=True
        )
    return CheckResult("policy", f"{rule}; {lapses}")


async def _secrets(connection: Connection, settings: Settings) -> CheckResult:
    """Checks that the keys open what is sealed in the database."""
    try:
        closed = await messengers.unreadable_secrets(connection, signing_box(settings.credentials))
        months = await digest_keys.unreadable_months(connection, digest_box(settings.credentials))
    except ConfigError as error:
        return CheckResult("secrets", str(error), Exit.CONFIG)
    if closed:
        mend = "put back the key they were sealed under, as secrets-key or secrets-key-previous"
        return CheckResult("secrets", f"secrets-key does not open the signing secrets of {', '.join(closed)}: {mend}", Exit.CONFIG)
    if months:
        told = ", ".join(f"{month:%Y-%m}" for month in months)
        return CheckResult(
            "secrets", f"journal-key does not open the digest keys of {told}: put back the key they were sealed under", Exit.CONFIG
        )
    return CheckResult("secrets", "the keys open what is in the database")
