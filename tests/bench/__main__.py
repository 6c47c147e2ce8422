"""`make bench`: what the daemon does in a second here, each figure beside a baseline taken in the same run.

Machines are noisy: read the ratios, and the CPU seconds of daemon and PostgreSQL from /proc, before the rates. Nothing here is a test.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
import orjson
from rich.console import Console
from rich.table import Table

from registryd.demo import embedded
from tests.bench import delivery, drains, files, growth, imports, loop, neighbours, queries, reports, tls
from tests.bench.measure import SERVER_SETTINGS, Figure, bench_site
from tests.conftest import Site

BENCHES: dict[str, tuple[Callable[[Site, int], Iterator[Figure]], int]] = {
    "import": (imports.bench_import, 1_000_000),
    "terminations": (files.bench_terminations, 200_000),
    "queries": (queries.bench_queries, 10_000_000),
    "batches": (queries.bench_batches, 10_000_000),
    "mixed": (queries.bench_mixed, 1_000_000),
    "loop": (loop.bench_loop, 1_000_000),
    "neighbours": (neighbours.bench_neighbours, 300_000),
    "memory": (growth.bench_memory, 1_000_000),
    "tls": (tls.bench_tls, 1_000_000),
    "growth": (growth.bench_growth, 10_000_000),
    "deliveries": (delivery.bench_deliveries, 50_000),
    "fairness": (delivery.bench_fairness, 1_000_000),
    "drain": (drains.bench_drain, 1_000_000),
    "longread": (drains.bench_longread, 600_000),
    "worstday": (delivery.bench_worst_day, 2_200_000),
    "reports": (reports.bench_reports, 1_000_000),
}
"""Each with the number of its contracts or notifications."""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHES)))
@click.option("--scale", type=float, default=1.0, help="Multiplies the contracts or notifications of each bench.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures there too.")
@click.option("--data", type=click.Path(path_type=Path), help="Where the database is made, and left; default: a temporary directory.")
def main(names: tuple[str, ...], scale: float, json_path: Path | None, data: Path | None) -> None:
    """Run the benches named, or all."""
    figures: list[Figure] = []
    console = Console(width=None if sys.stdout.isatty() else 180)
    with (
        tempfile.TemporaryDirectory(prefix="registryd-bench-") as directory,
        embedded.Server(embedded.find_binaries(), data, options=SERVER_SETTINGS) as server,
    ):
        for name in names or BENCHES:
            bench, contracts = BENCHES[name]
            with bench_site(server, Path(directory)) as site:
                for figure in bench(site, int(contracts * scale)):
                    figures.append(figure)
                    console.print(f"{figure.what}: {_number(figure.value)} {figure.unit}")
    console.print(table(figures))
    if json_path:
        json_path.write_bytes(orjson.dumps(msgspec.to_builtins(figures), option=orjson.OPT_INDENT_2))


def table(figures: list[Figure]) -> Table:
    shown = Table(
        "what", "value", "baseline", "ratio", "CPU s / 1,000", "of it PostgreSQL", "p99 ms", "target", title=f"{os.cpu_count()} cores"
    )
    for f in figures:
        shown.add_row(
            f.what,
            f"{_number(f.value)} {f.unit}",
            f"{_number(f.baseline)} {f.of}" if f.baseline is not None else "",
            f"{f.ratio:.2f}" if f.ratio is not None else "",
            f"{f.cpu_s_per_1000:.4f}" if f.cpu_s_per_1000 else "",
            f"{f.database_cpu_s_per_1000:.4f}" if f.database_cpu_s_per_1000 else "",
            f"{f.p99_ms:.1f}" if f.p99_ms else "",
            f.target or "",
        )
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    main()
