"""Who waits for whom: batches beside single queries, messengers in turns, and what is refused because it would wait for too long."""

from __future__ import annotations

import asyncio

import pytest

from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.presence import lines
from tests.conftest import PATIENCE_S, Site
from tests.presence.registry import binding_uncommitted, in_time, query, registry, waits_for_a_lock


def test_a_batch_does_not_hold_up_single_queries(site: Site) -> None:
    async def run() -> None:
        async with registry(site) as of:
            async with binding_uncommitted(of, 0, "held"):
                batch = asyncio.create_task(of.batch([query(number, f"c{number}") for number in range(1, 9)] + [query(9, "held")]))
                await waits_for_a_lock(of)
                for number in range(10, 20):
                    assert await in_time(of.outcome(number, f"c{number}")) == (True, "recorded")
                assert await in_time(of.outcome(5, "mine", of.two)) == (True, "recorded"), "another messenger's number of the same name"
                same = asyncio.create_task(of.outcome(5, "c5"))
                assert await in_time(of.outcome(6)) == (True, None), "a query without a code binds nothing"
                assert not batch.done()
                assert not same.done(), "what names the batch's numbers comes after it"
            assert all(outcome and outcome.outcome == "recorded" for _, outcome in (await batch).answers)
            assert await same == (True, "unchanged")

    asyncio.run(run())


def test_a_batch_goes_in_smaller_statements_while_single_queries_come(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a single query waits for is a batch's statement to end. Without single queries it would only be dearer."""

    async def run() -> None:
        async with registry(site) as of:
            queries = [query(number % 40) for number in range(1_000)]
            alone = await of.batch(queries)
            assert await of.pages() == [1_000]
            monkeypatch.setattr(lines, "SINGLES_ASKED_S", PATIENCE_S)  # what the machine does meanwhile must not count
            single, beside = await asyncio.gather(of.answer(0), of.batch(queries))
            assert single.present
            assert beside.present == alone.present
            assert sorted(await of.pages()) == [1, 250, 250, 250, 250, 1_000]

    asyncio.run(run())


def test_a_large_batch_does_not_hold_up_another_messengers_small_one(site: Site) -> None:
    async def run() -> None:
        async with registry(site) as of:
            await asyncio.gather(*(of.batch([query(number) for number in range(1_000)]) for _ in range(2)))  # both connections are open
            large = asyncio.create_task(of.batch([query(number) for number in range(10_000)]))
            await asyncio.sleep(0)
            assert [present for present, _ in (await of.batch([query(0), query(20)], of.two)).answers] == [True, False]
            assert not large.done()
            assert sum(present for present, _ in (await large).answers) == 20

    asyncio.run(run())


def test_a_batch_is_let_in_whole_or_not_at_all(site: Site) -> None:
    async def run() -> None:
        async with registry(site, queue_max=100) as of:  # 10,000 of batches
            told = await asyncio.gather(*(of.batch([query(number) for number in range(6_000)]) for _ in range(3)), return_exceptions=True)
            assert [isinstance(answer, Unavailable) for answer in told] == [False, True, True]
            assert sum(await of.pages()) == 6_000, "what is refused is not journaled"

    asyncio.run(run())


def test_more_than_may_wait_is_refused_at_once(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1, group_max=5, queue_max=10) as of:
            told = await asyncio.gather(*(of.outcome(number % 40) for number in range(100)), return_exceptions=True)
            refused = [answer for answer in told if isinstance(answer, Unavailable)]
            assert [isinstance(answer, Unavailable) for answer in told] == [False] * 10 + [True] * 90
            assert all(error.retry_after_s >= 1 for error in refused)
            assert await of.pages() == [5, 5], "what is refused is not journaled"
            assert await of.outcome(0) == (True, None), "and there is room again"

    asyncio.run(run())


def test_messengers_take_turns(site: Site) -> None:
    """One who asks a hundred times and one who asks twice share the statements evenly; the twice are not behind the hundred."""

    async def run() -> None:
        async with registry(site, in_flight=1, group_max=4) as of:
            done: list[MessengerId] = []

            async def ask(messenger: MessengerId, number: int) -> None:
                await of.answer(number % 20, messenger=messenger)
                done.append(messenger)

            many = [asyncio.create_task(ask(of.one, number)) for number in range(100)]
            await asyncio.sleep(0)
            few = [asyncio.create_task(ask(of.two, number)) for number in range(2)]
            await asyncio.gather(*many, *few)
            assert sum(messenger == of.two for messenger in done[:8]) == 2
            assert len(done) == 102

    asyncio.run(run())


def test_a_full_queue_shuts_nobody_out_but_the_one_who_filled_it(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1, group_max=5, queue_max=10) as of:
            asked = [of.outcome(number, messenger=of.one) for number in range(100)]
            asked += [of.outcome(number, messenger=of.two) for number in range(3)]
            told = await asyncio.gather(*asked, return_exceptions=True)
            assert [isinstance(answer, Unavailable) for answer in told] == [False] * 10 + [True] * 90 + [False] * 3

    asyncio.run(run())


def test_what_cannot_be_answered_soon_is_refused_with_the_time_to_come_back(site: Site) -> None:
    """After statements of 4 s a queue of three groups lasts too long; one that is asked alone is let in, and mends the measure."""

    async def run() -> None:
        async with registry(site, in_flight=1, group_max=1) as of:
            of.answerer._single.statement_s = 4.0
            told = await asyncio.gather(*(of.answer(number) for number in range(6)), return_exceptions=True)
            refused = [answer.retry_after_s for answer in told if isinstance(answer, Unavailable)]
            assert [isinstance(answer, Unavailable) for answer in told] == [False, *[True] * 5]
            assert all(10 < seconds <= 16 for seconds in refused)
            for number in range(20):
                await of.answer(number)
            assert not [a for a in await asyncio.gather(*(of.answer(n) for n in range(6))) if not a.present]

    asyncio.run(run())


def test_the_wait_is_reckoned_by_as_many_statements_as_may_run(site: Site) -> None:
    """Three statements of batches at once, or one while single queries come."""

    async def run() -> None:
        async with registry(site) as of:

            async def refused_batches() -> list[bool]:
                of.answerer._batch.statement_s = 4.0
                told = await asyncio.gather(*(of.batch([query(n) for n in range(1_000)]) for _ in range(2)), return_exceptions=True)
                return [isinstance(answer, Unavailable) for answer in told]

            assert await refused_batches() == [False, False]
            single = asyncio.create_task(of.answer(0))
            await asyncio.sleep(0)
            assert await refused_batches() == [False, True]
            assert (await single).present

    asyncio.run(run())
