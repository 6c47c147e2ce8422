"""`check`: looks at everything that serving needs, before it is needed."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import click
import orjson
from cryptography import x509

from registryd.cli.running import Context, Exit, command, json_option, out, pass_context
from registryd.config import ConfigError, Settings, is_local, split_hosts
from registryd.delivery.egress import Egress
from registryd.domain.errors import Unavailable
from registryd.http import sockets, transport
from registryd.keep.law import AHEAD_S
from registryd.store import digest_keys, durability, feed, messengers, migrations, permissions, policy, ranges
from registryd.store.failures import NOT_ALLOWED, explain
from registryd.store.pool import Connection
from registryd.store.secretbox import digest_box, signing_box

RESOLV_CONF = Path("/etc/resolv.conf")
KEYS = ("journal-key", "secrets-key", "feed-key", "head-key")


COLOURS = {"failed": "red", "warning": "yellow", "ok": "green"}


class CheckResult(NamedTuple):
    check: str
    detail: str
    code: Exit = Exit.DONE
    warns: bool = False
    """Whether a person should look, though `serve` works."""

    @property
    def state(self) -> str:
        return "failed" if self.code else "warning" if self.warns else "ok"


@click.command()
@json_option
@pass_context
@command
async def check(context: Context, *, as_json: bool) -> None:
    """Look at everything `serve` needs: configuration, credentials, TLS, database, schema, permissions. Changes nothing."""
    settings = context.settings
    found = [CheckResult("configuration", str(settings.path))]
    for name, look in (("credentials", _credentials), ("TLS", _tls), ("networks", _networks), ("database link", _link)):
        found.append(_looked_at(name, look, settings))
    found += await _database(context)
    if as_json:
        click.echo(orjson.dumps([{"check": f.check, "state": f.state, "detail": f.detail} for f in found]))
    else:
        for finding in found:
            out.print(f"[{COLOURS[finding.state]}]{finding.state:<7}[/]", f" {finding.check:<14} ", end="")
            out.print(finding.detail, markup=False, soft_wrap=True)
    sys.exit(next((finding.code for finding in found if finding.code), Exit.DONE))


def _looked_at(name: str, look: Callable[[Settings], str], settings: Settings) -> CheckResult:
    try:
        return CheckResult(name, look(settings))
    except ConfigError as error:
        return CheckResult(name, str(error), Exit.CONFIG)


def _credentials(settings: Settings) -> str:
    for name in KEYS:
        settings.credentials.key(name)
    if exposed := settings.credentials.exposed():
        raise ConfigError(f"{exposed[0]}: other users of this machine can read it; chmod 0600")
    return str(settings.credentials.directory)


def _tls(settings: Settings) -> str:
    path = settings.credentials.path("tls-certificate")
    if sockets.Tls(settings.credentials).context() is None or path is None:
        for section, listen in (("api", settings.file.api.listen), ("operator", settings.file.operator.listen)):
            if not is_local(listen):
                mend = f"put tls-certificate and tls-key into {settings.credentials.directory}, or listen on a loopback address"
                raise ConfigError(f"{settings.path}: {section}.listen: other machines reach {listen}, so it needs TLS: {mend}")
        return "off: listens on this machine alone"
    sockets.Tls(settings.credentials, "operator-client-ca").context()
    until = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    if until <= datetime.now(UTC):
        raise ConfigError(f"{path}: the certificate ended at {until:%F %T} UTC; put a new one there and restart")
    return f"on, with a certificate until {until:%F}"


def _networks(settings: Settings) -> str:
    Egress.of(settings.file.delivery)
    transport.assert_c_parser()
    told = "pushes go to public networks" + (", and to allow_networks" if settings.file.delivery.allow_networks else "")
    if barred := link_local_resolvers(RESOLV_CONF):
        mend = f"IPAddressAllow={' '.join(barred)} (systemctl edit registryd-deliver@.service)"
        told += f"; the unit of deliver resolves no name unless it has {mend}, because {RESOLV_CONF} names a link-local resolver"
    return told


def link_local_resolvers(resolv_conf: Path) -> list[str]:
    """The name servers that IPAddressDeny= of registryd-deliver@.service bars, such as a cloud's 169.254.169.254."""
    try:
        text = resolv_conf.read_text("ascii", "replace")
    except OSError:
        return []
    found = re.findall(r"^\s*nameserver\s+([0-9a-fA-F.:]+)", text, re.MULTILINE)
    return [server for server in found if _is_link_local(server)]


def _is_link_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_link_local
    except ValueError:
        return False


def _link(settings: Settings) -> str:
    """Numbers cross the link to the database: on a network it must be encrypted, to a server that proves who it is."""
    for key in ("dsn", "owner_dsn"):
        for single in split_hosts(getattr(settings.file.database, key)):
            url = urlsplit(single)
            options = dict(parse_qsl(url.query))
            host = options.get("host") or url.hostname or ""
            if host and not host.startswith("/") and not _is_loopback(host) and options.get("sslmode") != "verify-full":
                raise ConfigError(
                    f"{settings.path}: database.{key}: {host} is another machine: add sslmode=verify-full and sslrootcert=FILE"
                )
    return "local, or encrypted to a server that proves who it is"


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""  # without a port
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


async def _database(context: Context) -> list[CheckResult]:
    found: list[CheckResult] = []
    try:
        async with context.database() as db, db.connection() as connection:
            found.append(CheckResult("database", await migrations.describe(connection)))
            await migrations.check(connection)
            found.append(CheckResult("schema", migrations.migrations()[-1].path.name))
            if lacking := await permissions.lacking(connection):
                found.append(CheckResult("permissions", f"{'; '.join(lacking)}: connect as registryd_app", Exit.FAILED))
                return found
            found.append(CheckResult("permissions", "what the daemon needs"))
            if unset := await permissions.unset(connection):
                found.append(
                    CheckResult("settings", f"{'; '.join(unset)}: connect as registryd_app, or run sql/roles.sql again", Exit.FAILED)
                )
            else:
                found.append(CheckResult("settings", "as sql/roles.sql and the daemon set them"))
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


async def _durability(connection: Connection) -> CheckResult:
    """A warning where a standby may be promoted that lacks what was answered."""
    names, standbys = await durability.read(connection)
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
        return CheckResult("completeness", f"since {status.complete_since:%F %T} UTC: {status.reason}")
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
    lapses = "no day is known when it lapses" if law.lapses_at is None else f"it lapses at {law.lapses_at:%F %H:%M} UTC (lapses_at)"
    if not law.is_chosen:
        mend = "registryd policy set organisation_rule=subscriber or =verified_end_user --note 'who decided it'"
        return CheckResult("policy", f"{rule}; {lapses}. Nobody has chosen the rule for organisations yet: {mend}", warns=True)
    if law.lapses_s is not None and law.lapses_s < AHEAD_S:
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
