"""A job's timer: it runs the job again and again, through every failure, and logs failures without flooding the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from registryd import observe
from registryd.domain.errors import Unavailable
from registryd.store.outage import Outage

END_S = 1.0
LAG_S = 0.25


class Job(NamedTuple):
    """`run` is called at once, and again `every_s` seconds after it ended. `name` is what the log calls it."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[object]]


async def repeat(job: Job, outage: Outage) -> None:
    """Runs the job until this task is cancelled.

    That the database is away is the outage's to tell, and when it is back the job runs at once. Any other failure is a fault of ours: it
    is logged at most once a minute for each kind of exception, and the job goes on.
    """
    repeats = observe.repeats()
    done = observe.job_done.labels(job.name)
    while True:
        try:
            await job.run()
        except Unavailable as error:
            outage.missed(job.name, error)
            await outage.pause(job.every_s)
            continue
        except Exception as error:
            kind = type(error).__name__
            repeats.tell("background_failed", "error", kind=kind, facts={"where": job.name, "kind": kind})
        else:
            outage.done(job.name)
            done.set_to_current_time()
        await asyncio.sleep(job.every_s)


def start(jobs: Iterable[Job], outage: Outage) -> list[asyncio.Task[None]]:
    """A task for each job; the caller cancels them."""
    jobs = list(jobs)
    for job in jobs:
        observe.job_interval.labels(job.name).set(job.every_s)
        observe.job_done.labels(job.name).set_to_current_time()  # one that never ends is late from now on
    return [asyncio.create_task(repeat(job, outage), name=job.name) for job in jobs]


async def _measure_lag() -> None:
    due = time.monotonic() + LAG_S
    await asyncio.sleep(LAG_S)
    observe.loop_lag.observe(max(time.monotonic() - due, 0))


LAG = Job("loop", 0, _measure_lag)
"""Measures how late the event loop is."""


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels the tasks until all have ended: one whose connection is lost while it is cancelled fails of that, and would go on."""
    left = [task for task in tasks if not task.done()]
    while left:
        for task in left:
            task.cancel()
        _, pending = await asyncio.wait(left, timeout=END_S)
        left = list(pending)
