"""The packages that the campaign installs: this checkout's, and that of a release after it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from registryd.store import migrations

ROOT = Path(__file__).resolve().parents[2]
NEXT_VERSION = "99.0.0"


def build(tree: Path, out: Path) -> Path:
    """The package of a tree."""
    command = [sys.executable, "-m", "systemd.debian.build", "--out", str(out)]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the package was not built:\n{done.stderr[-2000:]}")
    return Path(done.stdout.split()[-1])


def next_release(tree: Path) -> Path:
    """A copy of this checkout as the release after it: another version, a migration, and a code file that changed."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("registryd", "sql", "systemd"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "requirements.lock"):
        shutil.copy(ROOT / name, tree / name)
    project = re.sub(r'(?m)^version = ".*"$', f'version = "{NEXT_VERSION}"', (ROOT / "pyproject.toml").read_text())
    (tree / "pyproject.toml").write_text(project)
    newest = migrations.migrations()[-1].version
    migration = f"-- compatible from {newest:04d}\nALTER TABLE registry.contract ADD COLUMN note text;\n"
    (tree / f"sql/migrations/{newest + 1:04d}_note.sql").write_text(migration)
    with (tree / "sql/code/guards.sql").open("a") as code:
        code.write("\nCREATE OR REPLACE FUNCTION registry.added() RETURNS integer LANGUAGE sql AS 'SELECT 1';\n")
    return tree
