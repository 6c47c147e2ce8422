"""What is installed is the whole program and nothing made up: it carries SQL, units and documents, and runs without the checkout."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import Site, TestMessenger, daemon

ROOT = Path(__file__).resolve().parents[2]


NOT_NEEDED = (".*", "tests", "dist", "build", "__pycache__")
"""What an archive of the sources may leave out, and `pip install .` does without."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` installs from sources without tests, in a directory of its own."""
    directory = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, directory / "sources", ignore=shutil.ignore_patterns(*NOT_NEEDED))
    pip = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    )
    install = (*pip, "--target", str(directory / "site"), ".")
    subprocess.run(install, cwd=directory / "sources", capture_output=True, text=True, check=True)
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


def test_processes_serve_and_stop_though_their_files_are_gone(installed: Path, site: Site, tmp_path: Path) -> None:
    """A package's upgrade removes the former release's files while its processes still run."""
    former = tmp_path / "former"
    shutil.copytree(installed, former)

    async def prepare() -> TestMessenger:
        await site.add_contracts(79010000001)
        return await site.add_messenger()

    async def ask(api: str) -> int:
        async with aiohttp.ClientSession() as session:
            query = {"phoneNumber": "+79010000001", "identificationCode": "user-1"}
            async with session.post(f"{api}/v1/presence", json=query, headers=messenger.headers) as response:
                return response.status

    messenger = asyncio.run(prepare())
    with daemon(site, "answer", "deliver", "operate", environment={"PYTHONPATH": str(former)}, cwd=former) as running:
        shutil.rmtree(former)
        assert asyncio.run(ask(running.api)) == 200
        for role in running.processes:
            for path in ("/readyz", "/metrics"):
                with urllib.request.urlopen(f"{running.health(role)}{path}") as answer:
                    assert answer.status == 200
        assert running.stop() == 0
        assert "Error" not in running.written()


def test_an_installed_wheel_holds_the_files_that_it_needs_and_no_demo(installed: Path) -> None:
    files = {str(path.relative_to(installed)) for path in (installed / "registryd").rglob("*") if path.is_file()}
    for name in (
        "_files/sql/roles.sql",
        "_files/systemd/registryd.toml",
        "console/templates/duty.html",
        "console/static/console.css",
        "http/docs/redoc.standalone.js.gz",
        "http/messenger.yaml",
        "http/operator.yaml",
    ):
        assert f"registryd/{name}" in files
    units = {path.name for path in (ROOT / "systemd").glob("registryd*")}
    assert {name.rpartition("/")[2] for name in files if name.startswith("registryd/_files/systemd/")} == units
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
