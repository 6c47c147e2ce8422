"""The files of systemd/ against systemd's own checkers, and registryd.toml against the keys of registryd.config. Nothing is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registryd import config, resources

SYSTEMD = resources.path("systemd")
EXPOSURE_MAX = 1.5


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: its check of systemd/ cannot run here")
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with an ExecStart that exists on this machine: `verify` looks for it."""
    for name in ("registryd.socket", "registryd@.service"):
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(text.replace("ExecStart=/usr/bin/registryd ", f"ExecStart={sys.executable} "))
    return tmp_path


def run(*command: str | Path) -> tuple[int, str]:
    environment = os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_EMOJI": "0", "SYSTEMD_LOG_LEVEL": "info"}
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, env=environment)
    return done.returncode, done.stdout.strip()


def settings(name: str) -> list[tuple[str, str]]:
    """A unit's assignments, in order."""
    lines = (SYSTEMD / name).read_text().splitlines()
    return [(key, value) for key, found, value in (line.partition("=") for line in lines if not line.startswith("#")) if found]


def test_systemd_accepts_the_units_without_a_warning(units: Path) -> None:
    # The dependencies are other packages' units: only what these two files say is judged.
    code, output = run(
        tool("systemd-analyze"), "verify", "--recursive-errors=no", units / "registryd.socket", units / "registryd@1.service"
    )
    assert (code, output) == (0, "")


def test_the_service_is_hardened(units: Path) -> None:
    code, output = run(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", units / "registryd@1.service")
    exposure = re.search(r"Overall exposure level for registryd@1\.service: ([0-9.]+)", output)
    assert code == 0, output
    assert exposure, output
    assert float(exposure.group(1)) <= EXPOSURE_MAX, output


def test_every_credential_is_loaded_and_only_the_needful_ones_are_mandatory() -> None:
    loaded = dict(value.split(":") for key, value in settings("registryd@.service") if key == "LoadCredential")
    assert sorted(loaded) == sorted(config.Credentials.NAMES)
    mandatory = {name for name, source in loaded.items() if source.startswith("/")}
    assert mandatory == {"operator-token", "journal-key", "secrets-key", "feed-key", "head-key"}
    assert all(loaded[name] == f"/etc/registryd/credentials/{name}" for name in mandatory)


def test_every_optional_credential_is_linked_to_the_one_directory() -> None:
    loaded = dict(value.split(":") for key, value in settings("registryd@.service") if key == "LoadCredential")
    lines = [line.split() for line in (SYSTEMD / "registryd.tmpfiles.conf").read_text().splitlines()]
    links = {line[1]: line[-1] for line in lines if line and line[0] == "L"}
    assert links == {
        f"/etc/credstore/{source}": f"/etc/registryd/credentials/{name}" for name, source in loaded.items() if not source.startswith("/")
    }


def test_a_shared_listener_belongs_to_every_instance() -> None:
    assert ("Sockets", "registryd.socket") in settings("registryd@.service")
    assert ("FileDescriptorName", "api") in settings("registryd.socket")
    assert ("Service", "registryd@1.service") in settings("registryd.socket")


def test_sysusers_makes_the_user_of_the_unit(tmp_path: Path) -> None:
    user = dict(settings("registryd@.service"))["User"]
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
