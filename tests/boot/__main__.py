"""`make boot`: registryd on a Debian 12 of its own, with systemd as PID 1, from its installation to its removal.

It is installed, upgraded and removed by the blocks of systemd/README.md, taken from there, and broken in between.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.boot import faults, installing, machine, packages, upgrading
from tests.boot.blocks import apt_lines
from tests.boot.trial import Trial

STEPS: tuple[tuple[str, Callable[[Trial], str]], ...] = (
    ("install", installing.install),
    ("install twice, in another order", installing.install_twice),
    ("start every role", installing.start),
    ("first messenger", installing.first_messenger),
    ("a query over TLS", installing.query),
    ("audit by root", installing.audit),
    ("two persons and an auditor", installing.persons),
    ("restart one after another", faults.restart_one),
    ("a typo, and one restarted", faults.typo),
    ("a typo that stays", faults.typo_that_stays),
    ("reload", faults.reload),
    ("kill -9", faults.kill),
    ("SIGSTOP", faults.hang),
    ("PostgreSQL away at a start", faults.database_away),
    ("reboot", faults.reboot),
    ("upgrade", upgrading.upgrade),
    ("downgrade", upgrading.downgrade),
    ("a second machine", installing.second_machine),
    ("the journal", installing.journal),
    ("uninstall", installing.uninstall),
    ("uninstall for good", installing.uninstall_for_good),
    ("install once more", installing.install),
)


def every_block(trial: Trial) -> str:
    assert trial.blocks.never_asked == []
    return "each was pasted"


def power_off(trial: Trial) -> str:
    trial.machine.shut_down()
    return "by itself"


def attempt(name: str, step: Callable[[Trial], str], trial: Trial) -> dict[str, object]:
    """One step: passed or failed, and what was seen."""
    began = time.monotonic()
    try:
        passed, told = True, step(trial)
    except Exception as error:  # a step that raises has failed, and the others still tell something
        passed, told = False, f"{type(error).__name__}: {error}"
    return {"step": name, "passed": passed, "seen": told, "seconds": round(time.monotonic() - began, 1)}


@click.command()
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), default="build/boot", show_default=True, help="Where."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the outcomes there as well.")
def main(directory: Path, json_path: Path | None) -> None:
    if reason := machine.why_not():
        sys.exit(f"make boot cannot run here: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the machine is shut down
    console, progress = Console(), Console(stderr=True)
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    progress.print("building the packages and the machine")
    made = {"this": packages.build(packages.ROOT, directory), "next": packages.build(packages.next_release(directory / "next"), directory)}
    trial = Trial(machine.Machine.fresh("first", machine.base(directory, made["this"], apt_lines())), made)
    outcomes: list[dict[str, object]] = []
    try:
        trial.machine.boot()
        for name, step in (*STEPS, ("the blocks of systemd/README.md", every_block)):
            outcomes.append(attempt(name, step, trial))
            progress.print(*outcomes[-1].values(), markup=False, highlight=False, soft_wrap=True)
    finally:
        outcomes.append(attempt("power off", power_off, trial))
    table = Table("step", "result", "s", "seen")
    for outcome in outcomes:
        result = "pass" if outcome["passed"] else "FAIL"
        table.add_row(*map(str, (outcome["step"], result, outcome["seconds"], outcome["seen"])), style="" if outcome["passed"] else "red")
    console.print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(outcomes, indent=1) + "\n")
    sys.exit(not all(outcome["passed"] for outcome in outcomes))


if __name__ == "__main__":
    main()
