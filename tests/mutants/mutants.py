"""Bugs that would be terrible, planted one at a time, each with the test that must catch it.

A mutant is a small change of a text in one file (python.toml, sql.toml). It is planted in a copy of the tree. The test that it names must
fail there by an assertion, and pass in a copy without it: a test that fails of an import or a timeout has caught nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.conftest import DIES_WITH_US

ROOT = Path(__file__).resolve().parents[2]
LISTS = ("python.toml", "sql.toml")
RUN_TIMEOUT_S = 240.0
ASSERTIONS = ("AssertionError", "assert ", "Failed: DID NOT RAISE")
IMPATIENCE = "nothing came within"
"""What `wait_for` and `eventually` say (conftest.py) after their patience."""


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    why: str
    """Why it would be terrible."""
    test: str
    """The test that must catch it, as pytest names it."""


class Stale(Exception):
    """A mutant's old text does not stand exactly once in its file: the code has changed, and the mutant must follow it."""


def read() -> list[Mutant]:
    """All mutants, in the order of their lists."""
    here = Path(__file__).parent
    return [Mutant(**facts) for name in LISTS for facts in tomllib.loads((here / name).read_text())["mutant"]]


def planted(mutant: Mutant, text: str) -> str:
    """The file's text with the bug. Raises: Stale."""
    times = text.count(mutant.old)
    if times != 1:
        raise Stale(f"{mutant.name}: the old text stands {times} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


@contextlib.contextmanager
def copy_of_tree(mutant: Mutant | None = None) -> Iterator[Path]:
    """A copy of the working tree in a directory of its own, with a bug or without. Raises: Stale."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    with TemporaryDirectory(prefix="registryd-mutant-") as directory:
        tree = Path(directory)
        tree.chmod(0o755)  # PostgreSQL's own user reads files of it where root runs the tests
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        if mutant is not None:
            path = tree / mutant.file
            path.write_text(planted(mutant, path.read_text()))
        yield tree


class Ran(NamedTuple):
    """How one test function ended, all its parameters together."""

    outcome: str
    """`passed`, `assertion`, or what else it was."""
    detail: str = ""


def run(tree: Path, tests: Sequence[str]) -> dict[str, Ran]:
    """Runs tests in a copy of the tree; by their names."""
    report = tree / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **{**DIES_WITH_US, "process_group": 0}
    ) as process:
        try:
            process.wait(RUN_TIMEOUT_S * len(tests))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            return {test: Ran("timeout") for test in tests}
    if not report.exists():
        return {test: Ran("no report") for test in tests}
    cases = ET.parse(report).getroot().iter("testcase")
    by_test: dict[str, list[ET.Element]] = {test: [] for test in tests}
    for case in cases:
        place = case.get("classname", "").replace(".", "/") + ".py::" + case.get("name", "").partition("[")[0]
        if place in by_test:
            by_test[place].append(case)
    return {test: _judge(found) for test, found in by_test.items()}


def _judge(cases: Sequence[ET.Element]) -> Ran:
    """What the cases of one test function come to."""
    if not cases:
        return Ran("not run")
    if any(case.find("skipped") is not None for case in cases):
        return Ran("skipped")
    errors = [error.get("message", "") for case in cases for error in case.iter("error")]
    failures = [failure.get("message", "") for case in cases for failure in case.iter("failure")]
    if errors:
        return Ran("error", errors[0].partition("\n")[0])
    if not failures:
        return Ran("passed")
    asserted = [message for message in failures if message.startswith(ASSERTIONS) and IMPATIENCE not in message]
    if not asserted:
        return Ran("other failure", failures[0].partition("\n")[0])
    return Ran("assertion", asserted[0].partition("\n")[0])
