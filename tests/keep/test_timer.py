"""A job's timer and its lock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from registryd.domain.errors import Unavailable
from registryd.keep.timer import Job, end, repeat, start
from registryd.store.jobs import exclusively
from registryd.store.outage import Outage
from tests.conftest import TestDatabase, eventually


def told(outcomes: list[type[Exception] | None]) -> list[tuple[str, str]]:
    """What a job's timer logs while its runs end so, one after another."""

    async def run() -> None:
        left: Iterator[type[Exception] | None] = iter(outcomes)
        over = asyncio.Event()

        async def work() -> None:
            outcome = next(left, over)
            if outcome is over:
                over.set()
                await asyncio.Event().wait()
            elif outcome is not None:
                assert isinstance(outcome, type)
                raise outcome

        task = asyncio.create_task(repeat(Job("a job", 0, work), Outage()))
        await over.wait()
        task.cancel()

    with capture_logs() as log:
        asyncio.run(run())
    return [(line["event"], line.get("kind", "")) for line in log]


def test_a_job_goes_on_through_every_failure_and_tells_each_once() -> None:
    assert told([None, KeyError, KeyError, ValueError, None, KeyError]) == [
        ("background_failed", "KeyError"),
        ("background_failed", "ValueError"),
    ]


def test_an_outage_is_told_once_each_way_and_every_job_that_it_stopped_runs_again_when_it_ends() -> None:
    runs: Counter[str] = Counter()

    async def run() -> None:
        outage = Outage()
        is_away = True

        def job(name: str) -> Job:
            async def work() -> None:
                runs[name] += 1
                if is_away:
                    raise Unavailable

            return Job(name, 3600, work)

        outage.lost(Unavailable())
        tasks = start([job("one"), job("other")], outage)
        await eventually(lambda: runs == {"one": 1, "other": 1})
        outage.lost(Unavailable())
        is_away = False
        outage.found()
        outage.found()
        await eventually(lambda: runs == {"one": 2, "other": 2})
        await end(tasks)

    with capture_logs() as log:
        asyncio.run(run())
    assert [line["event"] for line in log] == ["database_away", "database_back"]


def test_a_job_that_fails_of_the_database_alone_is_told_as_delayed() -> None:
    async def run() -> None:
        outage = Outage()
        outage.missed("a job", Unavailable())
        outage.missed("another", Unavailable())
        outage.done("another")
        outage.found()
        outage.found()

    with capture_logs() as log:
        asyncio.run(run())
    assert [(line["event"], line["where"]) for line in log] == [("work_delayed", "a job")]


def test_a_job_that_loses_its_database_while_it_is_cancelled_ends_all_the_same() -> None:
    async def run() -> None:
        running = asyncio.Event()

        async def work() -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise Unavailable from None

        task = asyncio.create_task(repeat(Job("a job", 3600, work), Outage()))
        await running.wait()
        await end([task])
        assert task.cancelled()

    with capture_logs():
        asyncio.run(run())


def test_a_job_is_done_by_one_process_at_a_time_and_freed_with_its_transaction(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as one, database.pool() as other:
            async with exclusively(one, "a job") as ours:
                assert ours is not None
                async with exclusively(other, "a job") as theirs, exclusively(other, "another job") as free:
                    assert theirs is None
                    assert free is not None
            with pytest.raises(KeyError):
                async with exclusively(one, "a job"):
                    raise KeyError
            async with exclusively(other, "a job") as theirs:
                assert theirs is not None

    asyncio.run(run())
