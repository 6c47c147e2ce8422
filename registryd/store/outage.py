"""The database's absence as one process sees it: told when it begins and when it ends, once, whoever meets it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from registryd import observe
from registryd.domain.errors import Unavailable
from registryd.store import failures


class Outage:
    """`lost` and `found` are for whoever looks whether the process can do its work; `missed`, `done` and `pause` are for its jobs."""

    def __init__(self) -> None:
        self._lost_at: float | None = None
        self._missed: dict[str, Unavailable] = {}
        """Jobs whose last run failed, and of what: an outage, or something of their own. The next look tells which."""
        self._again = asyncio.Event()
        self._repeats = observe.repeats()

    def lost(self, error: Unavailable, **facts: Any) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            observe.event("database_away", "error", reason=failures.explain(error), **facts)

    def found(self) -> None:
        """The process can do its work. A job that failed during an outage is run again now; one that failed alone is told."""
        if self._lost_at is not None:
            observe.event("database_back", seconds=round(time.monotonic() - self._lost_at, 1))
            self._lost_at = None
            self._again.set()
            self._again = asyncio.Event()
        else:
            for job, error in self._missed.items():
                facts = {"where": job, "reason": failures.explain(error)}
                self._repeats.tell("work_delayed", "warning", kind=job, facts=facts)
        self._missed.clear()

    def missed(self, job: str, error: Unavailable) -> None:
        """A run of the job has failed."""
        self._missed[job] = error

    def done(self, job: str) -> None:
        self._missed.pop(job, None)

    async def pause(self, seconds: float) -> None:
        """Waits until a job that failed is to run again: after its time, or when an outage ends."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._again.wait(), seconds)
