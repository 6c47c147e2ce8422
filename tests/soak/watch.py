"""What a process or a table must not gather while the service runs: memory, descriptors, connections, dead rows."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import linear_regression
from typing import NamedTuple

from tests.bench.measure import rss_mib
from tests.conftest import TestDatabase
from tests.served import Served

LOOK_S = 5.0
RSS_SLOPE_MAX_MIB_PER_MIN = 0.5
SETTLING = 0.3
"""The part of the time in which a process may still take what it needs: caches, pools, code that runs for the first time."""
DESCRIPTORS_MORE = 16
"""How many more there may be at the end than after settling: connections come and go."""
ENDED = (FileNotFoundError, ProcessLookupError, StopIteration, ValueError)
"""What looking at a process says that ended between its listing and now: no file, no such process, no line of memory, no command line."""
DEAD_FEW = 5_000
"""Fewer dead rows than that autovacuum leaves lying in a table that changes."""
DEAD_ROWS = "SELECT schemaname || '.' || relname, n_dead_tup FROM pg_stat_user_tables"
"""Of every table: one that has none was cleaned, which is what is looked for."""


class Verdict(NamedTuple):
    what: str
    found: str
    wanted: str
    is_good: bool


class Sample(NamedTuple):
    at_min: float
    value: float


class Watch:
    """Samples of every process and table. Use: `run` as a task, then `verdicts`."""

    def __init__(self, served: Served, database: TestDatabase) -> None:
        self._served = served
        self._database = database
        self._began = time.monotonic()
        self.rss: defaultdict[str, list[Sample]] = defaultdict(list)
        self.descriptors: defaultdict[str, list[Sample]] = defaultdict(list)
        self.dead: defaultdict[str, list[Sample]] = defaultdict(list)
        self.sessions: list[Sample] = []

    async def run(self) -> None:
        async with self._database.connect() as connection:
            while True:
                at = (time.monotonic() - self._began) / 60
                for name, pid in {"supervisor": self._served.process.pid, **self._pids()}.items():
                    self._look(name, pid, at)
                for table, dead in await connection.fetch(DEAD_ROWS):
                    self.dead[table].append(Sample(at, dead))
                sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                self.sessions.append(Sample(at, await connection.fetchval(sessions)))
                await asyncio.sleep(LOOK_S)

    def _pids(self) -> dict[str, int]:
        with suppress(*ENDED):
            return self._served.pids
        return {}

    def _look(self, name: str, pid: int, at: float) -> None:
        """A process that has just ended has no sample; that it ended is told elsewhere."""
        with suppress(*ENDED):
            memory, descriptors = rss_mib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))
            self.rss[name].append(Sample(at, memory))
            self.descriptors[name].append(Sample(at, descriptors))

    def verdicts(self) -> list[Verdict]:
        found = []
        for name, samples in self.rss.items():
            grows = slope(samples)
            told = f"{grows:+.2f} MiB/min, {samples[-1].value:.0f} MiB"
            found.append(Verdict(f"memory of {name}", told, f"<= {RSS_SLOPE_MAX_MIB_PER_MIN}", grows <= RSS_SLOPE_MAX_MIB_PER_MIN))
        for name, samples in self.descriptors.items():
            found.append(no_more(f"descriptors of {name}", samples))
        found.append(no_more("sessions of the database", self.sessions))
        for table, samples in sorted(self.dead.items()):
            is_good = is_bounded(samples)
            if not is_good or max(samples, key=lambda sample: sample.value).value > DEAD_FEW:
                told = f"{samples[-1].value:,.0f}, {max(s.value for s in samples):,.0f} at most"
                found.append(Verdict(f"dead rows of {table}", told, "fewer again in the last third", is_good))
        return found


def settled(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[int(len(samples) * SETTLING) :]


def slope(samples: Sequence[Sample]) -> float:
    """How much it grows a minute after settling."""
    late = settled(samples)
    return linear_regression([at for at, _ in late], [value for _, value in late]).slope


def no_more(what: str, samples: Sequence[Sample]) -> Verdict:
    """Whether there are not many more at the end than there were at most soon after settling."""
    late = settled(samples)
    before = max(sample.value for sample in late[: max(1, len(late) // 2)])
    after = min(sample.value for sample in late[-max(1, len(late) // 10) :])
    return Verdict(what, f"{before:.0f} -> {after:.0f}", f"<= {DESCRIPTORS_MORE} more", after <= before + DESCRIPTORS_MORE)


def is_bounded(samples: Sequence[Sample]) -> bool:
    """Whether dead rows were taken away in the last third: then there were fewer at some time than at most before."""
    third = len(samples) * 2 // 3
    last = min(sample.value for sample in samples[third:])
    return last <= DEAD_FEW or last < max((sample.value for sample in samples[:third]), default=0)
