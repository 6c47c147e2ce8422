"""What is installed is the whole program and nothing made up: it carries SQL, units and documents, and runs without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Site, daemon

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and installed by pip into a directory of its own."""
    directory = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory))
    subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=True)
    (wheel,) = directory.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    subprocess.run((*pip, "--target", str(directory / "site"), str(wheel)), capture_output=True, text=True, check=True)
    return directory / "site"


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs Python on the installed package, away from the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *words], cwd=installed, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_an_installed_wheel_checks_and_serves_without_the_checkout(installed: Path, site: Site) -> None:
    here = run(installed, "-c", "import registryd; print(registryd.__file__)")
    assert Path(here.stdout.strip()).is_relative_to(installed)
    checked = run(installed, "-m", "registryd", "--config", str(site.path), "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with daemon(site, environment={"PYTHONPATH": str(installed)}, cwd=installed) as running:
        assert running.stop() == 0


def test_an_installed_wheel_holds_the_files_that_it_needs_and_no_demo(installed: Path) -> None:
    files = {str(path.relative_to(installed)) for path in (installed / "registryd").rglob("*") if path.is_file()}
    for name in ("_files/sql/roles.sql", "_files/systemd/registryd.toml", "console/index.html", "http/openapi.yaml"):
        assert f"registryd/{name}" in files
    assert not [name for name in files if name.startswith("registryd/demo") or "tests" in name]
    asked = run(installed, "-m", "registryd", "demo", "--once")
    assert (asked.returncode, "make demo" in asked.stderr) == (1, True)


def test_locks_carry_hashes_and_no_index_address() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        text = lock.read_text()
        pinned = [line for line in text.splitlines() if line[:1].isalnum()]
        assert len(pinned) > 10
        assert all("==" in line for line in pinned)
        assert text.count("--hash=sha256:") >= len(pinned)
        assert "://" not in text
