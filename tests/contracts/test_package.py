"""What is installed is the whole program: the wheel carries SQL, units and documents, and runs without the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    script = (
        "from registryd import resources\n"
        "from registryd.store import migrations, queries\n"
        "from registryd.demo import population\n"
        f"assert resources.path('sql').is_relative_to({str(installed)!r})\n"
        "assert len(migrations.migrations()) >= 2 and 'report.feed_lag' in migrations.reports_sql()\n"
        "for name in ('sql/roles.sql', 'systemd/registryd.toml', 'tests/data/numbering_ranges.csv', 'registryd/console/index.html',"
        " 'registryd/http/openapi.yaml'):\n"
        "    assert resources.path(name).is_file(), name\n"
        "import registryd.cli\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_locks_carry_hashes_and_no_index_address() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        text = lock.read_text()
        pinned = [line for line in text.splitlines() if line[:1].isalnum()]
        assert len(pinned) > 10
        assert all("==" in line for line in pinned)
        assert text.count("--hash=sha256:") >= len(pinned)
        assert "://" not in text
