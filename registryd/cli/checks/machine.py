"""What serving needs of this machine: credentials, certificates, networks, the way to the database."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from registryd.addresses import is_local, split_hosts
from registryd.cli.checks import CheckResult, units
from registryd.cli.printing import words
from registryd.cli.running import Exit
from registryd.config import ConfigError, Settings
from registryd.delivery.egress import Egress
from registryd.http import sockets, transport
from registryd.roles import certificates

RESOLV_CONF = Path("/etc/resolv.conf")
KEYS = ("journal-key", "secrets-key", "feed-key", "head-key")


def credentials(settings: Settings) -> str:
    for name in KEYS:
        settings.credentials.key(name)
    if exposed := settings.credentials.exposed():
        raise ConfigError(f"{exposed[0]}: other users of this machine can read it; chmod 0600")
    return str(settings.credentials.directory)


def tls(settings: Settings, of_units: Mapping[str, Sequence[str]]) -> str:
    """`of_units`: where systemd listens for each section, in place of what the file says."""
    if sockets.Tls(settings.credentials).context() is None:
        for section, written in (("api", settings.file.api.listen), ("operator", settings.file.operator.listen)):
            for listen in of_units.get(section, [written]):
                if not is_local(listen):
                    place = f"{units.SOCKETS[section]}: ListenStream" if section in of_units else f"{settings.path}: {section}.listen"
                    mend = f"put tls-certificate and tls-key into {settings.credentials.directory}, or listen on a loopback address"
                    raise ConfigError(f"{place}: other machines reach {listen}, so it needs TLS: {mend}")
        return "off: listens on this machine alone"
    sockets.Tls(settings.credentials, "operator-client-ca").context()
    return "on"


def numbers_for_tests(settings: Settings) -> CheckResult:
    match settings.file.api.test_numbers:
        case "demo":
            return CheckResult("test numbers", "on, with those that are slow and fail: never in production", warns=True)
        case is_on:
            return CheckResult("test numbers", "on" if is_on else "off")


def certificate_ends(settings: Settings) -> CheckResult:
    """A failure where a certificate has ended, a warning where it ends soon."""
    now = datetime.now(UTC)
    ends = certificates.ends(settings.credentials)
    if not ends:
        return CheckResult("certificates", "none")
    told = ", ".join(f"{name} until {words(at)}" for name, at in ends.items())
    over = [name for name, at in ends.items() if at <= now]
    if over:
        mend = "put new ones there; reload for tls-certificate, restart for all others"
        return CheckResult("certificates", f"ended: {', '.join(over)} ({told}): {mend}", Exit.CONFIG)
    soon = [name for name, at in ends.items() if at <= now + certificates.SOON]
    return CheckResult("certificates", f"end soon: {', '.join(soon)} ({told})" if soon else told, warns=bool(soon))


def networks(settings: Settings) -> str:
    Egress.of(settings.file.delivery)
    transport.assert_c_parser()
    return "pushes go to public networks" + (", and to allow_networks" if settings.file.delivery.allow_networks else "")


def resolvers(_: Settings) -> CheckResult:
    barred = link_local_resolvers(RESOLV_CONF)
    if not barred:
        return CheckResult("resolvers", f"{RESOLV_CONF} names none that the unit of deliver may not ask")
    mend = f"IPAddressAllow={' '.join(barred)} (systemctl edit registryd-deliver@.service)"
    return CheckResult(
        "resolvers", f"{RESOLV_CONF} names a link-local one, so the unit of deliver resolves no name without {mend}", warns=True
    )


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


def link(settings: Settings) -> str:
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
