"""What systemd would meet when it starts the units of this machine: their user, their program, the addresses of their sockets."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from registryd.config import ConfigError

PLACES = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
"""Where systemd looks for units, first found first (systemd.unit(5))."""
SERVICES = tuple(f"registryd-{role}@.service" for role in ("answer", "deliver", "operate"))
SOCKETS = {"api": "registryd-answer.socket", "operator": "registryd-operate.socket"}
"""By the section of registryd.toml whose address they take the place of."""


def look(root: Path) -> str:
    """Raises: ConfigError, where a unit could not start."""
    installed = [name for name in SERVICES if _fragment(root, name) is not None]
    for name in installed:
        user = _last(root, name, "User") or "root"
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise ConfigError(
                f"{name}: there is no user {user}, so it ends with 217/USER: systemd-sysusers registryd.conf (systemd/README.md, Install)"
            ) from None
        command = _last(root, name, "ExecStart").split()
        if not command:
            raise ConfigError(
                f"{name}: it has no ExecStart=, so systemd refuses it: look for a drop-in that empties it (systemctl cat {name})"
            )
        program = Path(command[0].lstrip("-@:+!"))
        if barred := _barred(program, account):
            raise ConfigError(f"{name}: {user} may not run {program}, so it ends with 203/EXEC: chmod o+rx {barred}")
    return f"{', '.join(installed)}: their user and program are there" if installed else "none of registryd's is installed here"


def listens(root: Path) -> Mapping[str, list[str]]:
    """Where the installed sockets listen, in the configuration's form, by section."""
    found = {}
    for section, name in SOCKETS.items():
        if _fragment(root, name) is not None:
            addresses: list[str] = []
            for key, value in _assignments(root, name):
                if key == "ListenStream":
                    addresses = [*addresses, _address(value)] if value else []
            found[section] = addresses
    return found


def _address(stream: str) -> str:
    """ListenStream= in our form: a port alone is every address, IPv4 and IPv6."""
    if stream.startswith(("/", "@")):
        return f"unix:{stream}"
    return f"[::]:{stream}" if stream.isdecimal() else stream


def _fragment(root: Path, name: str) -> Path | None:
    return next((path for place in PLACES if (path := root / place / name).is_file()), None)


def _assignments(root: Path, name: str) -> Iterator[tuple[str, str]]:
    """A unit's assignments, then those of its drop-ins in the order of their names; a place before hides the same name behind."""
    base, _, kind = name.rpartition(".")
    drop_ins: dict[str, Path] = {}
    for place in PLACES:
        for folder in (f"{name}.d", f"{base.partition('-')[0]}-.{kind}.d"):
            for path in sorted((root / place / folder).glob("*.conf")):
                drop_ins.setdefault(path.name, path)
    fragment = _fragment(root, name)
    assert fragment is not None, "only an installed unit is read"
    for path in (fragment, *(drop_ins[key] for key in sorted(drop_ins))):
        for line in path.read_text("utf-8", "replace").splitlines():
            key, found, value = line.partition("=")
            if found and not line.startswith(("#", ";")):
                yield key.strip(), value.strip()


def _last(root: Path, name: str, key: str) -> str:
    """A setting's last value. An empty one takes back those before."""
    return next((value for found, value in reversed([*_assignments(root, name)]) if found == key), "")


def _barred(program: Path, account: pwd.struct_passwd) -> Path | None:
    """What on the way to a program the account may not pass; None where there is nothing."""
    groups = {account.pw_gid, *os.getgrouplist(account.pw_name, account.pw_gid)}
    real = program.resolve()
    for path in (*reversed(program.parents), *reversed(real.parents), real):
        try:
            found = path.stat()
        except OSError:
            return path
        # The first class that fits decides (path_resolution(7)); to root any of them will do.
        wanted = stat.S_IXUSR if found.st_uid == account.pw_uid else stat.S_IXGRP if found.st_gid in groups else stat.S_IXOTH
        wanted = wanted if account.pw_uid else stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
        if not found.st_mode & wanted:
            return path
    return None
