"""What every bench needs: figures, alternating rounds, and the CPU seconds of processes from /proc."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from registryd.demo import embedded
from tests.conftest import Site, TestDatabase, make_site, prepare_database

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
ROUNDS = 3


SERVER_SETTINGS = {"shared_buffers": "4GB", "max_wal_size": "8GB", "checkpoint_timeout": "15min", "max_connections": "200"}
"""What a DBA would set for a registry of this size on this machine, with connections for our processes beside 64 of pgbench; all else
is PostgreSQL's default, durability too."""


@contextmanager
def bench_site(server: embedded.Server, directory: Path) -> Iterator[Site]:
    """A registry of its own on the bench's durable server."""
    name = f"bench_{secrets.token_hex(4)}"
    asyncio.run(prepare_database(server, name))
    site = make_site(TestDatabase(server, name), directory / name)
    # Half of the numbers asked for are absent here: the enumeration guard works as ever, on a policy under which that is honest.
    change = """SELECT registry.change_policy('{"honest_absent_ratio": 0.5, "scan_absent_ratio": 0.9}', now(), 'the bench')"""
    site.database.psql("-c", change)
    site.write_config(log='level = "info"')
    yield site


class Figure(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A row of the table; `target` says what was set out to be reached."""

    what: str
    value: float
    unit: str
    baseline: float | None = None
    of: str | None = None
    """What the baseline is."""
    cpu_s_per_1000: float | None = None
    database_cpu_s_per_1000: float | None = None
    """PostgreSQL's part of it."""
    p99_ms: float | None = None
    target: str | None = None
    plan: str | None = None
    """PostgreSQL's, for --json."""

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None


class Sample(NamedTuple):
    """One contender in one round: a rate, and CPU seconds for 1,000 of what it counts."""

    rate: float
    cpu_s_per_1000: float = 0.0
    database_cpu_s_per_1000: float = 0.0
    p99_ms: float = 0.0
    p50_ms: float = 0.0


def alternate(contenders: Mapping[str, Callable[[], Sample]], rounds: int = ROUNDS) -> dict[str, Sample]:
    """Measures each contender once a round, and returns the medians: what slows the machine for a while slows them all."""
    taken: dict[str, list[Sample]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            taken[name].append(measure())
    return {name: Sample(*map(statistics.median, zip(*samples, strict=True))) for name, samples in taken.items()}


def cpu_seconds(root: int) -> float:
    """User and system time of a process and of all below it, dead children included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sum(ticks.get(pid, 0) for pid in found) / CLOCK_TICKS


def children_cpu_seconds() -> float:
    """User and system time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rss_mib(pid: int) -> float:
    """The resident memory of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
