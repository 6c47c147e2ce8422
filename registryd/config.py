"""The configuration: registryd.toml and the credentials directory, read once into a frozen `Settings`.

The keys, their defaults and bounds stand here; systemd/registryd.toml is their manual, and a test compares the two. No environment
variables are read except `$REGISTRYD_CONFIG` and `$CREDENTIALS_DIRECTORY`. An unknown key is an error that names the file, the line and
the nearest key.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from registryd.addresses import split_hosts

DEFAULT_PATH = Path("/etc/registryd/registryd.toml")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class ConfigError(Exception):
    """The configuration or a credential cannot be used. The message names the file, the line or key, and what to do."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class DatabaseSection(Section, frozen=True):
    dsn: str = "postgresql://registryd_app@/registryd?host=/run/postgresql"
    owner_dsn: str = ""
    pool_size: Annotated[int, msgspec.Meta(ge=4, le=64)] = 4
    connect_timeout_s: Seconds = 3.0
    command_timeout_s: Seconds = 10.0


class ApiSection(Section, frozen=True):
    listen: str = "127.0.0.1:8080"
    connections_max: Count = 4096
    body_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=15)] = 10.0
    keepalive_timeout_s: Seconds = 75.0
    body_max_bytes: Annotated[int, msgspec.Meta(ge=4096, le=64 * 1024 * 1024)] = 4 * 1024 * 1024
    test_numbers: bool | Literal["demo"] = False


class OperatorSection(Section, frozen=True):
    listen: str = "127.0.0.1:8081"


class PresenceSection(Section, frozen=True):
    statements_in_flight: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    group_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 256
    queue_max: Count = 20_000


class DeliverySection(Section, frozen=True):
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    allow_http: bool = False
    allow_networks: tuple[str, ...] = ()
    deny_networks: tuple[str, ...] = ()


class ObserveSection(Section, frozen=True):
    listen: str = "127.0.0.1:8090"


class LogSection(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class CredentialsSection(Section, frozen=True):
    directory: str = ""


class File(Section, frozen=True):
    """registryd.toml, without the credentials."""

    database: DatabaseSection = DatabaseSection()
    api: ApiSection = ApiSection()
    operator: OperatorSection = OperatorSection()
    presence: PresenceSection = PresenceSection()
    delivery: DeliverySection = DeliverySection()
    observe: ObserveSection = ObserveSection()
    log: LogSection = LogSection()
    credentials: CredentialsSection = CredentialsSection()


class Credentials:
    """Secrets, by file name, in one directory (systemd's `LoadCredential=`). They are read when asked for, and never shown or logged."""

    NAMES = (
        *("journal-key", "secrets-key", "secrets-key-previous", "feed-key", "head-key"),
        *("tls-certificate", "tls-key", "client-ca", "operator-client-ca", "database-password"),
    )

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path | None:
        """The credential's file, or None where the operator gave none."""
        path = self.directory / name
        try:
            return path if path.is_file() else None
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot look there ({error.strerror}); run as the daemon's user, or mend the folder's mode"
            ) from None

    def text(self, name: str) -> str | None:
        """The credential's text without the trailing newline, or None."""
        path = self.path(name)
        if path is None:
            return None
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot read the credential ({type(error).__name__}); it must be UTF-8 text") from None

    def required(self, name: str) -> str:
        text = self.text(name)
        if not text:
            raise ConfigError(
                f"{self.directory / name}: missing or empty; write it (32 random bytes: openssl rand -hex 32) "
                f"and name it in LoadCredential={name}:…"
            )
        return text

    def key(self, name: str) -> bytes:
        """A 32-byte key, written as 64 hexadecimal digits."""
        text = self.required(name)
        if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
            raise ConfigError(f"{self.directory / name}: expected 64 hexadecimal digits (openssl rand -hex 32)")
        return bytes.fromhex(text)

    def exposed(self) -> list[Path]:
        """Credential files that other users of the machine can read."""
        names = {name for name in self.NAMES if name not in ("client-ca", "operator-client-ca", "tls-certificate")}
        paths = (self.path(name) for name in sorted(names | {p.name for p in self.directory.glob("endpoint-certificate-*")}))
        return [path for path in paths if path and path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)]


class Settings(msgspec.Struct, frozen=True):
    """The whole configuration. `path` is the file it came from."""

    path: Path
    file: File
    credentials: Credentials


def load(path: Path) -> Settings:
    """Reads and checks one registryd.toml.

    Raises: ConfigError.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name one with --config FILE or $REGISTRYD_CONFIG") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read ({error})") from None
    try:
        file = msgspec.convert(tomllib.loads(text), File)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(path, text, str(error))) from None
    for section, listen in (("api", file.api.listen), ("operator", file.operator.listen), ("observe", file.observe.listen)):
        _check_listen(path, text, section, listen)
    for key in ("dsn", "owner_dsn"):
        where = f"{path}:{_line(text, 'database', key)}: database.{key}"
        if urlsplit(getattr(file.database, key)).password:
            raise ConfigError(
                f"{where}: a password does not belong here; "
                "put it into the credential database-password, or use peer or certificate authentication"
            )
        try:
            split_hosts(getattr(file.database, key))
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
    for key in ("allow_networks", "deny_networks"):
        for network in getattr(file.delivery, key):
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                where = f"{path}:{_line(text, 'delivery', key)}: delivery.{key}"
                raise ConfigError(f'{where}: {error}; write networks such as "10.20.0.0/16"') from None
    directory = file.credentials.directory or os.environ.get("CREDENTIALS_DIRECTORY", "/etc/registryd/credentials")
    return Settings(path=path, file=file, credentials=Credentials((path.parent / directory).resolve()))


RELOADED = frozenset({"log.level"})
"""The keys that a reload reads again; all others need a restart."""


def need_restart(running: File, fresh: File) -> list[str]:
    """The keys whose values differ and that a reload cannot change."""
    return [
        key
        for section in msgspec.structs.fields(File)
        for field in msgspec.structs.fields(section.type)
        if (key := f"{section.name}.{field.name}") not in RELOADED
        and getattr(getattr(running, section.name), field.name) != getattr(getattr(fresh, section.name), field.name)
    ]


HEALTH_PORTS = {"answer": 0, "deliver": 20, "operate": 40}
"""What a role adds, with the number of the instance, to the port of `[observe] listen`: room for 19 instances of each."""
INSTANCES_MAX = 19
HEALTH_PORTS_SPAN = 60


def health_address(settings: Settings, role: str, instance: int) -> str:
    """Where a process answers for its health and metrics. Port 0 stays 0: each process then takes a free one."""
    host, _, port = settings.file.observe.listen.rpartition(":")
    return f"{host}:{int(port) and int(port) + HEALTH_PORTS[role] + instance}"


def _check_listen(path: Path, text: str, section: str, listen: str) -> None:
    is_base = section == "observe"
    mend = 'write "address:port" such as "127.0.0.1:8080" or "[::1]:8080"' + ("" if is_base else ', or "unix:/absolute/path"')
    where = f"{path}:{_line(text, section, 'listen')}: {section}.listen"
    if listen.startswith("unix:") and not is_base:
        if not listen.startswith("unix:/") or len(listen.encode()) - 5 > 103:
            raise ConfigError(f"{where}: a socket's path is absolute and at most 103 bytes; {mend}")
        return
    host, _, port = listen.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise ConfigError(f"{where}: {listen!r} names no IP address; {mend}") from None
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 - (HEALTH_PORTS_SPAN if is_base else 0):
        raise ConfigError(f"{where}: {listen!r} names no port; {mend}")


def _explain(path: Path, text: str, message: str) -> str:
    """Turns msgspec's message (`… - at `$.api.listen``) into file:line, key and mend."""
    what, _, at = message.partition(" - at `$")
    keys = [key for key in at.strip("`").split(".") if key]
    unknown = re.search(r"unknown field `(.*)`", what)
    if unknown:
        key = unknown.group(1)
        known = _known_keys(keys)
        import difflib  # only here: nothing else of a start needs it

        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        line = _line(text, keys[0], key) if keys else _line(text, key)
        return f"{path}:{line}: {'.'.join([*keys, key])}: unknown key; {hint}"
    name = re.sub(r"\[.*", "", ".".join(keys))
    section, _, key = name.partition(".")
    return f"{path}:{_line(text, section, key)}: {name}: {what[:1].lower()}{what[1:]}; see systemd/registryd.toml for the key"


def _known_keys(keys: list[str]) -> list[str]:
    sections = {field.name: field.type for field in msgspec.structs.fields(File)}
    if not keys:
        return list(sections)
    return [field.name for field in msgspec.structs.fields(sections[keys[0]])]


def _line(text: str, section: str, key: str | None = None) -> int:
    """The line (from 1) of `key` in `[section]`; where the key is not written, the section's line, or 1."""
    current, found = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([\w-]+)\s*\]", line)
        if header:
            current = header.group(1)
            if current == section:
                found = number
        elif (key and current == section and re.match(rf"\s*{re.escape(key)}\s*=", line)) or (
            key and re.match(rf"\s*{re.escape(section)}\s*\.\s*{re.escape(key)}\s*=", line)
        ):
            return number
    return found
