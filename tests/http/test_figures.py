"""What a process tells of its answers, minute by minute."""

from __future__ import annotations

import asyncio

import pytest

from registryd import observe
from registryd.domain.errors import Unavailable
from registryd.exposition import Known
from registryd.http.figures import AnswerFigures
from registryd.store import answering
from tests.conftest import TestDatabase


def answer(seconds: float, status: int = 200, route: str = "presence", api: str = "messenger") -> None:
    observe.child(observe.requests, api, route, status).inc()
    observe.child(observe.request_seconds, api, route).observe(seconds)


def test_two_processes_figures_add_up_in_their_minute(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db:
            one, other = AnswerFigures(db, lambda: 100.0), AnswerFigures(db, lambda: 200.0)
            observe.child(observe.queries, "a", "present").inc(7)
            observe.child(observe.queries, "b", "absent").inc(2)
            answer(0.0004)
            answer(0.0004, 429)
            answer(0.0024, 503)
            answer(5, route="presence_batch")
            answer(0.0004, route="bindings")
            answer(0.0004, route="presence", api="operator")
            await one.flush()
            await other.flush()
            await one.flush()
            async with database.connect() as dba:
                (row,) = await dba.fetch("SELECT queries, absent, requests, refused, failed, latencies FROM registry.answer_minute")
            assert tuple(row)[:5] == (18, 4, 8, 2, 2)
            assert row["latencies"] == [4, 2] + [0] * (len(observe.SECONDS) - 1), "a batch takes as long as it is large"

    asyncio.run(run())


def test_a_messenger_that_goes_takes_no_answers_back(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            known = Known("answer")
            known.keep(["renamed"])
            observe.child(observe.queries, "renamed", "absent").inc(1_000)
            figures = AnswerFigures(db, lambda: 100.0)
            answer(0.0004)
            known.keep(["anew"])
            await figures.flush()
            (row,) = await dba.fetch("SELECT queries, absent, requests FROM registry.answer_minute")
            assert tuple(row) == (0, 0, 1)

    asyncio.run(run())


def test_what_the_database_does_not_take_is_lost_and_what_is_a_day_old_goes(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            figures = AnswerFigures(db, lambda: 100.0)
            await dba.execute("INSERT INTO registry.answer_minute VALUES (now() - interval '25 hours', 1, 1, 1, 1, 1, '{1}')")
            answer(0.0004)
            async with dba.transaction():
                await dba.execute("LOCK registry.answer_minute")
                with pytest.raises(Unavailable):
                    await figures.flush()
            await figures.flush()
            assert await dba.fetchval("SELECT count(*) FROM registry.answer_minute") == 1, (
                "nothing was told, so nothing was cleaned up either"
            )
            answer(0.0004)
            await figures.flush()
            assert [m.requests for m in await answering.read_minutes(db, 2)] == [0, 0], "the minute is not over"
            assert await dba.fetchval("SELECT array_agg(requests) FROM registry.answer_minute") == [1]

    asyncio.run(run())
