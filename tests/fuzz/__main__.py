"""`make fuzz`: what fuzzers find against what the APIs promise. Says of each part whether it held, and ends with 1 where one did not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests import programs
from tests.fuzz import documents, proxies
from tests.fuzz.outcome import Outcome


def guided(law: str, seconds: float) -> Outcome:
    """Atheris against one of `laws`. Raises: NotThere."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(programs.atheris())])}
    with tempfile.TemporaryDirectory() as corpus:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.guided",
            law,
            corpus,
            f"-max_total_time={max(1, int(seconds))}",
            "-max_len=4096",
            "-timeout=10",
        ]
        done = subprocess.run(
            [*command, f"-artifact_prefix={programs.PLACE}/"], capture_output=True, text=True, env=environment, check=False
        )
    told = done.stdout + done.stderr
    tried = [int(count) for count in re.findall(r"^#(\d+)|Done (\d+) runs", told, re.MULTILINE) for count in count if count]
    return Outcome(max(tried, default=0), "" if done.returncode == 0 else told[-3_000:])


PARTS: dict[str, Callable[[float], Outcome]] = {
    "bodies": partial(guided, "bodies"),
    "connection": partial(guided, "connection"),
    "documents": documents.campaign,
    **{name: partial(proxies.campaign, name) for name in proxies.PROXIES},
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--seconds", type=float, default=120, show_default=True, help="How long each part of atheris looks.")
def main(parts: Sequence[str], seconds: float) -> None:
    """Run the parts named, or all."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("part", "cases", "outcome")
    has_failed = False
    for part in parts or PARTS:
        try:
            outcome = PARTS[part](seconds)
        except programs.NotThere as error:
            sys.exit(str(error))
        has_failed = has_failed or not outcome.has_held
        console.print(f"{part}: {outcome.tried:,} cases{': found' if outcome.found else ''}")
        if outcome.found:
            console.print(outcome.found, markup=False)
        table.add_row(part, f"{outcome.tried:,}", "held" if outcome.has_held else "FAILED")
    console.print(table)
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
