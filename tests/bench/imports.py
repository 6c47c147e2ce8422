"""`contracts import` at its three moments: the first load, a snapshot that changes nothing, one that changes 0.5 %; histories too."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from registryd import resources
from registryd.demo import population
from registryd.feed.lines import HISTORY_COLUMNS, SNAPSHOT_COLUMNS
from tests.bench.measure import Figure, cpu_seconds
from tests.conftest import Site

CHANGED_EVERY = 200
NEW_NUMBERS_FROM = 79_990_000_000

TYPES = {"msisdn": "bigint", "generation": "smallint", "started_at": "timestamptz", "ended_at": "timestamptz"}


def bench_import(site: Site, contracts: int) -> Iterator[Figure]:
    """Each import beside a plain COPY of its file into a table without keys or checks."""
    history, first, later = (site.directory / name for name in ("history.csv", "first.csv", "later.csv"))
    ranges = population.read_ranges(resources.path("tests/data/numbering_ranges.csv"))
    population.write_csv(history, population.generate(ranges, contracts))
    _write_snapshot(history, first)
    changed = _change(first, later)
    plain = asyncio.run(_copy(site, first, SNAPSHOT_COLUMNS))
    yield _import(site, "first snapshot", plain, first, "--snapshot", target="250,000")
    yield _import(site, "unchanged snapshot", plain, first, "--snapshot", target="280,000")
    yield _import(site, f"snapshot with {changed:,} changes", plain, later, "--snapshot", "--max-terminations", "100%", target="280,000")
    site.database.psql("-c", "ALTER TABLE registry.contract DISABLE TRIGGER USER; TRUNCATE registry.contract")
    site.database.psql("-c", "ALTER TABLE registry.contract ENABLE TRIGGER USER")
    plain = asyncio.run(_copy(site, history, HISTORY_COLUMNS))
    yield _import(site, "contracts with history", plain, history, target="250,000")


def _import(site: Site, what: str, plain: float, file: Path, *words: str, target: str | None = None) -> Figure:
    """The command's time without Python's start, and the CPU of command and PostgreSQL together, which other work changes little."""
    if words:
        words = (*words, "--as-of", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "contracts", "import", str(file), "--json", *words]
    postmaster = site.database.server.pid or 0
    ours, theirs = _dead_children(), cpu_seconds(postmaster)
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    lines, theirs = done["lines"], cpu_seconds(postmaster) - theirs
    return Figure(
        what=f"{what}, {lines:,} lines",
        value=lines / done["seconds"],
        unit="lines/s",
        baseline=lines / plain,
        of="plain COPY",
        cpu_s_per_1000=(_dead_children() - ours + theirs) * 1000 / lines,
        database_cpu_s_per_1000=theirs * 1000 / lines,
        target=target,
    )


def _dead_children() -> float:
    """CPU seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _copy(site: Site, file: Path, columns: tuple[str, ...]) -> float:
    async with site.database.connect() as connection:
        types = ", ".join(f"{name} {TYPES.get(name, 'text')}" for name in columns)
        await connection.execute(f"CREATE TABLE plain ({types})")
        started = time.perf_counter()
        await connection.copy_to_table("plain", source=file, format="csv", header=True)
        seconds = time.perf_counter() - started
        await connection.execute("DROP TABLE plain")
        return seconds


def _write_snapshot(history: Path, path: Path) -> None:
    """The live contracts of a history."""
    with history.open() as rows, path.open("w") as file:
        next(rows)
        file.write(",".join(SNAPSHOT_COLUMNS) + "\n")
        for row in rows:
            msisdn, _, status, holder, end_user, started_at, ended_at, _ = row.split(",")
            if not ended_at:
                file.write(f"{msisdn},{holder},{end_user},{status},{started_at}\n")


def _change(first: Path, later: Path) -> int:
    """The same table later: in turn a number that is gone, another holder, another status, a new number; returns how many."""
    changes = 0
    with first.open() as rows, later.open("w") as file:
        file.write(next(rows))
        for place, row in enumerate(rows):
            if place % CHANGED_EVERY:
                file.write(row)
                continue
            msisdn, holder, end_user, status, _ = row.split(",")
            match changes % 4:
                case 0:
                    pass
                case 1:
                    file.write(f"{msisdn},{holder},{end_user},{status},{datetime.now(UTC):%Y-%m-%d}T00:00:00Z\n")
                case 2:
                    other = "active" if status == "suspended" else "suspended"
                    file.write(row.replace(f",{status},", f",{other},"))
                case 3:
                    file.write(row)
                    file.write(f"{NEW_NUMBERS_FROM + place},individual,not_required,active,2025-06-01T00:00:00Z\n")
            changes += 1
    return changes
