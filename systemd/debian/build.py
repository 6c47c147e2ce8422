"""`make deb`: builds dist/registryd_VERSION_ARCHITECTURE.deb for Debian 12, by pip and dpkg-deb alone.

The program and its locked libraries are a venv below /usr/lib/registryd/VERSION. The folder is named for the version so that a process that
starts during an upgrade finds one release or the other, but for the moment in which dpkg renames the files; systemd then starts it again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

from click.shell_completion import BashComplete

from registryd.cli import main as commands
from systemd.debian import manual

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "systemd/debian"
PYTHON = "3.11"
"""Debian 12's."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC_MINORS = (34, 28, 17)
"""Wheels made for these releases of glibc 2 run on Debian 12, which has 2.36."""
UNITS = ("registryd-*.service", "registryd-*.socket", "registryd.target")
DOCUMENTS = {
    "systemd/README.md": "README.md",
    "systemd/RUNBOOK.md": "RUNBOOK.md",
    "sql/README.md": "database.md",
    "registryd/feed/README.md": "billing.md",
}
WATCHING = (
    "prometheus/registryd.rules.yml",
    "prometheus/registryd.rules.test.yml",
    "prometheus/scrape.example.yml",
    "grafana/registryd.json",
)
"""What Prometheus and Grafana are given, below systemd/ here."""
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+)(#[^)]*)?\)")


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{Path(command[0]).name} ended with {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout.strip()


def epoch() -> int:
    """The time that every file of the package bears: the last commit's, or that of the changelog where there is no git."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    asked = subprocess.run(("git", "log", "-1", "--format=%ct"), cwd=ROOT, capture_output=True, text=True, check=False)
    return int(asked.stdout) if asked.returncode == 0 else int((ROOT / "CHANGELOG.md").stat().st_mtime)


def write(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def compressed(text: str) -> bytes:
    return gzip.compress(text.encode(), 9, mtime=0)


def install_program(home: Path, machine: str, work: Path) -> None:
    """The venv: the libraries of requirements.lock with their hashes checked, and the program's wheel."""
    site = home / f"lib/python{PYTHON}/site-packages"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", site)
    platforms = [word for minor in GLIBC_MINORS for word in ("--platform", f"manylinux_2_{minor}_{machine}")]
    target = ("--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp", *platforms)
    run(*pip, "--require-hashes", *target, "--platform", f"manylinux2014_{machine}", "-r", ROOT / "requirements.lock")
    shutil.rmtree(site / "bin")  # the libraries' own commands
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", work)
    run(*pip, "--no-index", "--find-links", work, "registryd")
    shutil.rmtree(site / "bin")
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to(f"../../../../bin/python{PYTHON}")
    write(home / "pyvenv.cfg", f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n")


def install_files(root: Path, version: str, made: int) -> None:
    """What systemd, man, the shell and the administrator find in their usual places."""
    start = f"#!/usr/lib/registryd/{version}/bin/python3\nimport sys\n\nfrom registryd.cli import main\n\nsys.exit(main())\n"
    write(root / "usr/bin/registryd", start, 0o755)
    for pattern in UNITS:
        for unit in (ROOT / "systemd").glob(pattern):
            write(root / "usr/lib/systemd/system" / unit.name, unit.read_bytes())
    for kind in ("sysusers", "tmpfiles"):
        write(root / f"usr/lib/{kind}.d/registryd.conf", (ROOT / f"systemd/registryd.{kind}.conf").read_bytes())
    write(root / "etc/registryd/registryd.toml", (ROOT / "systemd/registryd.toml").read_bytes(), 0o640)
    write(root / "usr/share/registryd/roles.sql", (ROOT / "sql/roles.sql").read_bytes())
    for name in WATCHING:
        write(root / "usr/share/registryd" / name, (ROOT / "systemd" / name).read_bytes())
    write(root / "usr/share/bash-completion/completions/registryd", BashComplete(commands, {}, "registryd", "_REGISTRYD_COMPLETE").source())
    for path, text in manual.pages(ROOT / "systemd/registryd.toml", version, made).items():
        write(root / f"usr/share/man/{path}.gz", compressed(text))


def document(path: Path) -> str:
    """A document whose links lead to the packaged documents. What is not packaged is named without a link."""

    def link(found: re.Match[str]) -> str:
        text, to, place = found.groups(default="")
        name = DOCUMENTS.get(os.path.relpath(path.parent / to, ROOT))
        return f"[{text}]({name}{place})" if name else text

    return _LINK.sub(link, path.read_text())


def install_documents(root: Path, version: str, made: int) -> None:
    documents = root / "usr/share/doc/registryd"
    for source, name in DOCUMENTS.items():
        write(documents / name, document(ROOT / source).encode())
    write(documents / "copyright", (HERE / "copyright").read_bytes())
    write(documents / "changelog.gz", compressed((ROOT / "CHANGELOG.md").read_text()))
    [maintainer] = re.findall(r"(?m)^Maintainer: (.*)$", (HERE / "control").read_text())
    entry = f"registryd ({version}) unstable; urgency=medium\n\n  * What changed for users is in changelog.gz.\n\n"
    write(documents / "changelog.Debian.gz", compressed(f"{entry} -- {maintainer}  {formatdate(made)}\n"))
    write(root / "usr/share/lintian/overrides/registryd", (HERE / "lintian-overrides").read_bytes())


def files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())


def install_control(root: Path, version: str, architecture: str) -> None:
    """DEBIAN/: what dpkg reads and runs."""
    size = sum(path.stat().st_size for path in files(root)) // 1024
    digests = {path.relative_to(root): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files(root)}
    control = root / "DEBIAN"
    write(control / "md5sums", "".join(f"{digest}  {path}\n" for path, digest in digests.items()))
    write(control / "conffiles", "/etc/registryd/registryd.toml\n")
    for name in ("control", "postinst", "prerm", "postrm"):
        text = (HERE / name).read_text().replace("@VERSION@", version)
        text = text.replace("@ARCHITECTURE@", architecture).replace("@SIZE@", str(size))
        write(control / name, text, 0o644 if name == "control" else 0o755)
    control.chmod(0o755)


def tidy(root: Path) -> None:
    """Modes that do not depend on the builder's umask."""
    for path in root.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
        elif not path.is_symlink() and path.is_relative_to(root / "usr/lib/registryd"):
            path.chmod(0o644)
    root.chmod(0o755)


def build(out: Path) -> Path:
    """Builds the package of this checkout and returns its path."""
    version = f"{tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}-1"
    architecture = run("dpkg", "--print-architecture")
    made = epoch()
    work = out / "deb"
    shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    install_program(root / f"usr/lib/registryd/{version}", MACHINES[architecture], work / "wheel")
    install_files(root, version, made)
    install_documents(root, version, made)
    tidy(root)
    install_control(root, version, architecture)
    package = out / f"registryd_{version}_{architecture}.deb"
    run("dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", root, package, SOURCE_DATE_EPOCH=str(made))
    shutil.rmtree(work)
    return package


def main() -> None:
    parser = argparse.ArgumentParser(prog="make deb", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the package is written (default: dist)")
    out = parser.parse_args().out.resolve()
    if shutil.which("dpkg-deb") is None:
        sys.exit("make deb needs dpkg-deb: build on Debian, or install the package dpkg")
    sys.stdout.write(f"{build(out)}\n")


if __name__ == "__main__":
    main()
