"""`contracts import` at its three moments: the first load, a snapshot that changes nothing, one that changes 0.5 %; histories too."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registryd import resources
from registryd.demo import population
from registryd.feed.lines import HISTORY_COLUMNS, SNAPSHOT_COLUMNS
from tests.conftest import Site

CHANGED_EVERY = 200
NEW_NUMBERS_FROM = 79_990_000_000

TYPES = {"msisdn": "bigint", "generation": "smallint", "started_at": "timestamptz", "ended_at": "timestamptz"}


def bench_import(site: Site, contracts: int) -> Iterator[dict[str, Any]]:
    """Each import beside a plain COPY of its file into a table without keys or checks."""
    history, first, later = (site.directory / name for name in ("history.csv", "first.csv", "later.csv"))
    ranges = population.read_ranges(resources.path("tests/data/numbering_ranges.csv"))
    population.write_csv(history, population.generate(ranges, contracts))
    lines = _write_snapshot(history, first)
    changed = _change(first, later)
    plain = asyncio.run(_copy(site, first, SNAPSHOT_COLUMNS))
    yield _figure(f"first snapshot, {lines:,} lines", _seconds(site, first, "--snapshot"), lines, plain)
    yield _figure(f"unchanged snapshot, {lines:,} lines", _seconds(site, first, "--snapshot"), lines, plain)
    site.database.psql("-c", "VACUUM ANALYZE registry.contract")
    yield _figure("the same, analysed", _seconds(site, first, "--snapshot"), lines, plain)
    yield _figure(f"snapshot with {changed:,} changes", _seconds(site, later, "--snapshot"), lines, plain)
    site.database.psql("-c", "ALTER TABLE registry.contract DISABLE TRIGGER USER; TRUNCATE registry.contract")
    site.database.psql("-c", "ALTER TABLE registry.contract ENABLE TRIGGER USER")
    plain = asyncio.run(_copy(site, history, HISTORY_COLUMNS))
    yield _figure(f"contracts with history, {contracts:,} lines", _seconds(site, history), contracts, plain)


def _figure(what: str, seconds: float, lines: int, plain: float) -> dict[str, Any]:
    return {"what": what, "rate": lines / seconds, "unit": "lines/s", "baseline": lines / plain, "of": "plain COPY"}


def _seconds(site: Site, file: Path, *words: str) -> float:
    """The whole command's time but Python's own start."""
    if words:
        words = (*words, "--as-of", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "contracts", "import", str(file), "--json", *words]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["seconds"])


async def _copy(site: Site, file: Path, columns: tuple[str, ...]) -> float:
    async with site.database.connect() as connection:
        types = ", ".join(f"{name} {TYPES.get(name, 'text')}" for name in columns)
        await connection.execute(f"CREATE TABLE plain ({types})")
        started = time.perf_counter()
        await connection.copy_to_table("plain", source=file, format="csv", header=True)
        seconds = time.perf_counter() - started
        await connection.execute("DROP TABLE plain")
        return seconds


def _write_snapshot(history: Path, path: Path) -> int:
    """The live contracts of a history; returns how many lines."""
    lines = 0
    with history.open() as rows, path.open("w") as file:
        next(rows)
        file.write(",".join(SNAPSHOT_COLUMNS) + "\n")
        for row in rows:
            msisdn, _, status, holder, end_user, started_at, ended_at, _ = row.split(",")
            if not ended_at:
                file.write(f"{msisdn},{holder},{end_user},{status},{started_at}\n")
                lines += 1
    return lines


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
