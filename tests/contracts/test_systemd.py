"""The files of systemd/ against systemd's own checkers, and registryd.toml against the keys of registryd.config. Nothing is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from registryd import config, resources
from registryd.cli.running import Exit
from registryd.delivery.timing import Timing
from registryd.http import transport
from registryd.roles import life
from registryd.store import pool

SYSTEMD = resources.path("systemd")
EXPOSURE_MAX = 1.2
OPTIONAL = {"tls-certificate", "tls-key", "client-ca", "database-password"}


class Role(NamedTuple):
    """A role's row in the table of who listens, dials and holds which secret."""

    socket: str | None
    secrets: set[str]
    optional: set[str]
    may_dial: set[str]
    """IPAddressAllow=, where all else is denied; empty: anybody but what IPAddressDeny= names."""


ROLES = {
    "answer": Role("registryd-answer.socket", {"journal-key"}, OPTIONAL, {"localhost"}),
    "deliver": Role(None, {"secrets-key"}, {"secrets-key-previous", "database-password"}, set()),
    "operate": Role(
        "registryd-operate.socket",
        {"journal-key", "feed-key", "head-key"},
        OPTIONAL - {"client-ca"} | {"operator-client-ca"},
        {"localhost"},
    ),
}
SOCKETS = {"registryd-answer.socket": "messenger", "registryd-operate.socket": "operator"}
UNITS = [*(f"registryd-{role}@.service" for role in ROLES), *SOCKETS, "registryd.target"]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: its check of systemd/ cannot run here")
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that exists on this machine: `verify` looks for it."""
    for name in UNITS:
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(text.replace("=/usr/bin/registryd ", f"={sys.executable} "))
    return tmp_path


def run(*command: str | Path) -> tuple[int, str]:
    environment = os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_EMOJI": "0", "SYSTEMD_LOG_LEVEL": "info"}
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, env=environment)
    return done.returncode, done.stdout.strip()


def settings(name: str) -> list[tuple[str, str]]:
    """A unit's assignments, in order."""
    lines = (SYSTEMD / name).read_text().splitlines()
    return [(key, value) for key, found, value in (line.partition("=") for line in lines if not line.startswith("#")) if found]


def values(role: str, key: str) -> list[str]:
    return [value for found, value in settings(f"registryd-{role}@.service") if found == key]


def test_there_is_no_other_unit() -> None:
    assert {path.name for path in SYSTEMD.iterdir() if path.suffix in (".service", ".socket", ".target")} == set(UNITS)


def test_systemd_accepts_the_units_without_a_warning(units: Path) -> None:
    # The dependencies are other packages' units: only what these files say is judged.
    named = [units / name.replace("@", "@1") for name in UNITS]
    code, output = run(tool("systemd-analyze"), "verify", "--recursive-errors=no", *named)
    assert (code, output) == (0, "")


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_hardened(units: Path, role: str) -> None:
    code, output = run(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", units / f"registryd-{role}@1.service")
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)
    assert code == 0, output
    assert exposure, output
    assert float(exposure.group(1)) <= EXPOSURE_MAX, output


@pytest.mark.parametrize("role", ROLES)
def test_each_role_holds_its_secrets_and_no_other(role: str) -> None:
    loaded = dict(value.split(":") for value in values(role, "LoadCredential"))
    assert {name: source for name, source in loaded.items() if source.startswith("/")} == {
        name: f"/etc/registryd/credentials/{name}" for name in ROLES[role].secrets
    }
    assert set(loaded) == ROLES[role].secrets | ROLES[role].optional


def test_every_credential_is_some_role_s() -> None:
    assert set.union(*(role.secrets | role.optional for role in ROLES.values())) == set(config.Credentials.NAMES)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_listens_where_it_should_on_a_listener_that_cannot_block(role: str) -> None:
    socket = ROLES[role].socket
    assert values(role, "Sockets") == ([socket] if socket else [])
    assert values(role, "NonBlocking") == (["yes"] if socket else [])
    if socket:
        assert ("FileDescriptorName", SOCKETS[socket]) in settings(socket)
        assert ("Service", f"registryd-{role}@1.service") in settings(socket)
    assert any(value.endswith(f" {role} --instance %i") for value in values(role, "ExecStart"))


@pytest.mark.parametrize("role", ROLES)
def test_what_only_a_person_mends_is_not_tried_again_and_again(role: str) -> None:
    """The socket would start process 1 again for each connection that waits, without the pause that Restart= makes."""
    codes = [str(int(code)) for code in (Exit.USAGE, Exit.SCHEMA, Exit.CONFIG)]
    assert values(role, "RestartPreventExitStatus") == [" ".join(codes)]
    pauses = [f"/bin/sh -c 'case $$EXIT_STATUS in {'|'.join(codes)}) exec sleep 10;; esac'"]
    assert values(role, "ExecStopPost") == (pauses if ROLES[role].socket else [])


@pytest.mark.parametrize("role", ROLES)
def test_a_reload_fails_where_a_credential_has_changed_that_the_process_has_a_copy_of(role: str, tmp_path: Path) -> None:
    """It would say yes and serve the old certificate. What was put elsewhere cannot be compared, and fails nothing. `make boot` shows that
    systemd 252 copies it again before.
    """
    text = (SYSTEMD / f"registryd-{role}@.service").read_text().replace("\\\n", " ")
    [script] = re.findall(r"(?m)^ExecReload=\+/bin/sh -c '(.*)'$", text)
    kept, copies = tmp_path / "credentials", tmp_path / "copies"
    script = script.replace("$$", "$").replace("/proc/$MAINPID/root%d", str(copies)).replace("/etc/registryd/credentials", str(kept))
    for directory in (kept, copies):
        directory.mkdir()
        (directory / "tls-certificate").write_text("the first")
    (copies / "endpoint-certificate-alpha").write_text("put elsewhere")
    assert run("/bin/sh", "-c", script) == (0, "")
    (kept / "tls-certificate").write_text("renewed")
    code, told = run("/bin/sh", "-c", script)
    assert (code, told) == (1, "<3>registryd: tls-certificate has changed, and the process has the former one: restart it")
    assert "%" not in script.replace(str(copies), "")


@pytest.mark.parametrize("role", ROLES)
def test_only_deliver_dials_anybody_but_the_database(role: str) -> None:
    dials = ROLES[role].may_dial
    assert values(role, "IPAddressAllow") == sorted(dials)
    assert values(role, "IPAddressDeny") == (["any"] if dials else ["link-local multicast"])


def test_a_stop_is_over_before_systemd_kills() -> None:
    drains = transport.DRAIN_S + life.CLOSE_TIMEOUT_S
    longest = {
        "answer": drains + pool.ACQUIRE_TIMEOUT_S + config.DatabaseSection().command_timeout_s,
        "deliver": Timing().stop_timeout_s,
        "operate": drains,
    }
    for role, seconds in longest.items():
        assert seconds + life.LAST_TIMEOUT_S < int(values(role, "TimeoutStopSec")[0])


def test_every_optional_credential_is_linked_to_the_one_directory() -> None:
    lines = [line.split() for line in (SYSTEMD / "registryd.tmpfiles.conf").read_text().splitlines()]
    links = {line[1]: line[-1] for line in lines if line and line[0] == "L"}
    optional = set.union(*(role.optional for role in ROLES.values()))
    assert links == {f"/etc/credstore/registryd.{name}": f"/etc/registryd/credentials/{name}" for name in optional}


def test_sysusers_makes_the_user_of_the_unit(tmp_path: Path) -> None:
    [user] = {name for role in ROLES for name in values(role, "User")}
    code, output = run(tool("systemd-sysusers"), "--dry-run", f"--root={tmp_path}", SYSTEMD / "registryd.sysusers.conf")
    if code != 0 and "unrecognized option" in output:
        pytest.skip("this systemd-sysusers has no --dry-run: it would create the user")
    assert code == 0, output
    assert f"Would create user '{user}'" in output or f"Creating user '{user}'" in output, output


def test_tmpfiles_makes_the_directories_with_their_modes(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away, which is what tmpfiles does")
    # Below a root of its own, with the users it names; files of the machine are out of reach.
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0::/:/bin/sh\nregistryd:x:64001:64001::/:/bin/sh\n")
    (etc / "group").write_text("root:x:0:\nregistryd:x:64001:\n")
    command = (tool("systemd-tmpfiles"), "--create", f"--root={tmp_path}", SYSTEMD / "registryd.tmpfiles.conf")
    assert run(*command) == (0, "")
    (etc / "registryd/registryd.toml").touch(0o644)
    (etc / "registryd/credentials/journal-key").touch(0o644)
    assert run(*command) == (0, "")
    assert [
        (path, oct(status.st_mode & 0o7777), status.st_uid, status.st_gid)
        for path in ("registryd", "registryd/registryd.toml", "registryd/credentials", "registryd/credentials/journal-key", "credstore")
        for status in [(etc / path).stat()]
    ] == [
        ("registryd", "0o750", 0, 64001),
        ("registryd/registryd.toml", "0o640", 0, 64001),
        ("registryd/credentials", "0o700", 0, 0),
        ("registryd/credentials/journal-key", "0o600", 0, 0),
        ("credstore", "0o700", 0, 0),
    ]
    assert (etc / "credstore/registryd.tls-key").readlink() == Path("/etc/registryd/credentials/tls-key")


def manual() -> tuple[str, dict[str, Any]]:
    text = (SYSTEMD / "registryd.toml").read_text()
    return text, tomllib.loads(text)


def test_the_manual_loads_as_the_defaults() -> None:
    assert config.load(SYSTEMD / "registryd.toml").file == config.File()


def test_the_manual_has_every_key_with_its_default_in_the_order_of_the_code() -> None:
    _, written = manual()
    defaults: dict[str, Any] = msgspec.to_builtins(config.File())
    assert written == {section: {key: _plain(value) for key, value in keys.items()} for section, keys in defaults.items()}
    assert list(written) == list(defaults)
    assert [list(keys) for keys in written.values()] == [list(keys) for keys in defaults.values()]


def test_the_manual_says_why_of_every_key_and_names_its_bounds() -> None:
    text, written = manual()
    for section, keys in written.items():
        for key in keys:
            body = text.split(f"\n[{section}]\n")[1].split("\n[")[0]
            comment = re.search(rf"((?:^#.*\n)+)^{key} = ", body, re.MULTILINE)
            assert comment, f"{section}.{key} has no comment above it"
            missing = [bound for bound in _bounds(section, key) if not re.search(rf"(?<![\d.]){bound}(?![\d])", comment.group(1))]
            assert not missing, f"the comment of {section}.{key} does not name {missing}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _bounds(section: str, key: str) -> list[str]:
    """The numbers that bound a key, as the manual writes them."""
    whole = msgspec.inspect.type_info(config.File)
    assert isinstance(whole, msgspec.inspect.StructType)
    part = next(field.type for field in whole.fields if field.name == section)
    assert isinstance(part, msgspec.inspect.StructType)
    kind = next(field.type for field in part.fields if field.name == key)
    found = (getattr(kind, name, None) for name in ("ge", "gt", "le", "lt"))
    return [str(int(bound)) for bound in found if bound is not None]
