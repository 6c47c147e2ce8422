"""`make failover`: a primary is stopped, killed and hung under load, its standby promoted; what messengers saw meanwhile.

Two local PostgreSQL instances, streaming replication, synchronous_standby_names on, the daemon with its default timeouts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.failover.pair import FAILURES, Outcome, fail_over, pair


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Of each failure.")
@click.option("--delay", "delay_s", type=click.FloatRange(0, 60), default=0, help="From the failure to the promotion, in seconds.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the outcomes there as well.")
def main(rounds: int, delay_s: float, json_path: Path | None) -> None:
    console = Console()
    table = Table("primary", "no answer for, s", "of it after the promotion, s", "answers", "503", "wrong", "lost")
    outcomes: list[tuple[str, Outcome]] = []
    for failure in track([failure for failure in FAILURES for _ in range(rounds)], "failing over", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as directory, pair(Path(directory)) as made:
            outcome = asyncio.run(fail_over(made, failure, 1000, delay_s))
        outcomes.append((failure, outcome))
        table.add_row(failure, *(f"{value:.2f}" if isinstance(value, float) else str(value) for value in outcome))
    console.print(table)
    if json_path is not None:
        json_path.write_text(json.dumps([{"failure": failure, **outcome._asdict()} for failure, outcome in outcomes], indent=1) + "\n")
    sys.exit(any(outcome.wrong or outcome.lost for _, outcome in outcomes))


if __name__ == "__main__":
    main()
