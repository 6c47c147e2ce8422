"""A job's timer and its lock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from registryd.domain.errors import Unavailable
from registryd.keep.timer import Job, end, repeat
from registryd.store.jobs import exclusively
from tests.conftest import TestDatabase


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

        task = asyncio.create_task(repeat(Job("a job", 0, work)))
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


def test_a_database_that_goes_and_comes_back_is_told_once_each_way() -> None:
    assert told([None, Unavailable, Unavailable, None, None, Unavailable]) == [
        ("database_away", ""),
        ("database_back", ""),
        ("database_away", ""),
    ]


def test_a_job_that_loses_its_database_while_it_is_cancelled_ends_all_the_same() -> None:
    async def run() -> None:
        running = asyncio.Event()

        async def work() -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise Unavailable from None

        task = asyncio.create_task(repeat(Job("a job", 3600, work)))
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
