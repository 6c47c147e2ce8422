"""`make faults`: what surrounds the daemon fails, one fault after another, each beside its target."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests import programs
from tests.faults.clocks import hour_ahead, hour_behind, minutes_ahead, minutes_behind
from tests.faults.database import disk_full, partition, slow, wal_full
from tests.faults.endpoints import bad_endpoints, open_snapshot
from tests.faults.figures import Figure, did_not_end
from tests.patroni.network import enter, own_loopback

FAULTS = {
    "partition": partition,
    "slow": slow,
    "disk-full": disk_full,
    "wal-full": wal_full,
    "hour-ahead": hour_ahead,
    "hour-behind": hour_behind,
    "minutes-ahead": minutes_ahead,
    "minutes-behind": minutes_behind,
    "open-snapshot": open_snapshot,
    "bad-endpoints": bad_endpoints,
}


async def attempt(fault: Callable[[Path], Awaitable[list[Figure]]], place: Path) -> list[Figure]:
    """What a fault is measured by. One that raises has missed, and the others still tell something."""
    try:
        return await fault(place)
    except Exception as error:
        return [did_not_end(error)]


@click.command()
@click.argument("faults", nargs=-1, type=click.Choice(list(FAULTS)))
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as well.")
def main(faults: tuple[str, ...], json_path: Path | None) -> None:
    """Faults by name; all of them where none is named."""
    place = enter("tests.faults", sys.argv[1:], lambda: programs.debian("faketime"))
    own_loopback()
    table = Table("fault", "what", "figure", "at most", "")
    progress = Console(stderr=True)
    told = []
    for name in faults or FAULTS:
        progress.print(f"{name}: {FAULTS[name].__doc__}")
        directory = place / name
        directory.mkdir(mode=0o711)
        for figure in asyncio.run(attempt(FAULTS[name], directory)):
            told.append({"fault": name, **figure._asdict(), "missed": figure.is_missed})
            target = "" if figure.at_most is None else f"{figure.at_most:g}"
            verdict = "" if figure.at_most is None else "missed" if figure.is_missed else "passed"
            progress.print(f"  {figure.what}: {figure.value:.3g} {verdict}")
            table.add_row(name, figure.what, f"{figure.value:.3g}", target, verdict)
    Console(width=140).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(told, indent=1) + "\n")
    sys.exit(any(row["missed"] for row in told))


if __name__ == "__main__":
    main()
