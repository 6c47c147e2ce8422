"""Group commit against the real database: who rides with whom, in which order, and what a stuck or lost statement means for the others."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import Msisdn, msisdn_digest
from tests.conftest import Site, eventually
from tests.presence.registry import FIRST, KEY, binding_uncommitted, in_time, query, registry, waits_for_a_lock


def test_a_lone_query_goes_at_once(site: Site) -> None:
    async def run() -> None:
        async with registry(site) as of:
            for number in (0, 20, 1):
                assert (await in_time(of.answer(number))).present is (number < 20)
            assert await of.pages() == [1, 1, 1]

    asyncio.run(run())


def test_queries_that_arrive_together_ride_together(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1) as of:
            numbers = [number % 40 for number in range(200)]
            answers = await asyncio.gather(*(of.answer(number, messenger=(of.one, of.two)[number % 2]) for number in numbers))
            assert await of.pages() == [200], "one page for all of them, in one statement"
            rows = await of.fetch("SELECT q.* FROM unnest($1::uuid[]) AS id, registry.find_query(id) AS q", [a.query_id for a in answers])
            found = {row["query_id"]: row for row in rows}
            assert len(found) == 200
            for number, answer in zip(numbers, answers, strict=True):
                row = found[UUID(answer.query_id)]
                assert answer.present is row["present"] is (number < 20)
                assert row["messenger_id"] == (of.one, of.two)[number % 2]
                assert row["msisdn_digest"] == msisdn_digest(KEY, Msisdn(FIRST + number))
                assert row["received_at"] <= row["answered_at"] == answer.answered_at

    asyncio.run(run())


def test_a_group_is_bounded(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1, group_max=64) as of:
            await asyncio.gather(*(of.answer(number % 40) for number in range(200)))
            assert await of.pages() == [64, 64, 64, 8]

    asyncio.run(run())


def test_queries_gather_while_a_statement_runs(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1) as of:
            async with binding_uncommitted(of, 0, "held"):
                first = asyncio.create_task(of.outcome(1, "held"))
                await waits_for_a_lock(of)
                rest = [asyncio.create_task(of.answer(number % 40)) for number in range(100)]
                await asyncio.sleep(0)
                assert not any(task.done() for task in rest)
            assert await first == (True, "recorded")
            await asyncio.gather(*rest)
            assert await of.pages() == [1, 100]

    asyncio.run(run())


def test_queries_go_past_a_statement_that_is_stuck(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=2) as of:
            async with binding_uncommitted(of, 0, "held"):
                stuck = asyncio.create_task(of.outcome(1, "held"))
                await waits_for_a_lock(of)
                for number in range(2, 12):
                    assert (await in_time(of.answer(number))).present
                assert not stuck.done()
            assert await stuck == (True, "recorded")

    asyncio.run(run())


def test_a_page_tells_of_each_messenger_how_long_its_oldest_query_waited(site: Site) -> None:
    """Not the one that stands first: a query that is asked again, because its contract was being changed, comes behind newer ones."""

    async def run() -> None:
        async with registry(site) as of:
            now = time.monotonic()
            await asyncio.gather(*(of.answerer.answer(of.one, query(0), now - wait_s) for wait_s in (10, 70, 30)))
            [page] = await of.fetch("SELECT queries, waited_ms FROM registry.journal_page")
            assert (page["queries"], page["waited_ms"][0] // 1_000) == (3, 70)

    asyncio.run(run())


@pytest.mark.parametrize("ends", [True, False], ids=["commit", "rollback"])
def test_a_contract_that_is_being_ended_is_waited_for_by_its_own_query_alone(site: Site, ends: bool) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1) as of, of.database.connect() as billing:
            transaction = billing.transaction()
            await transaction.start()
            await billing.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST)
            busy = asyncio.create_task(of.outcome(0, "a"))
            others = [of.outcome(number, f"c{number}") for number in range(1, 20)]
            assert await in_time(asyncio.gather(*others)) == [(True, "recorded")] * 19
            assert await in_time(of.outcome(0)) == (True, None), "what is not committed has not happened"
            assert await in_time(of.batch([query(1), query(21)]))
            assert not busy.done()
            await (transaction.commit() if ends else transaction.rollback())
            assert await in_time(busy) == ((False, None) if ends else (True, "recorded"))
            assert (0 in await of.live()) is not ends
            owed = await of.fetch("SELECT FROM registry.notification")
            assert owed == [], "there was no binding to notify of"

    asyncio.run(run())


def test_a_batch_waits_for_a_contract_that_is_being_ended(site: Site) -> None:
    async def run() -> None:
        async with registry(site) as of, of.database.connect() as billing:
            transaction = billing.transaction()
            await transaction.start()
            await billing.execute("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", FIRST)
            batch = asyncio.create_task(of.batch([query(number, f"c{number}") for number in range(10)]))
            await eventually(of.live)
            assert not batch.done()
            await transaction.commit()
            answers = (await in_time(batch)).answers
            assert [present for present, _ in answers] == [False] + [True] * 9
            assert await of.live() == {number: f"c{number}" for number in range(1, 10)}

    asyncio.run(run())


def test_a_contract_that_stays_locked_is_unavailable_and_never_absent(site: Site) -> None:
    async def run() -> None:
        async with registry(site) as of, of.database.connect() as billing, billing.transaction():
            await billing.execute("SELECT FROM registry.contract WHERE msisdn = $1 FOR UPDATE", FIRST)
            with pytest.raises(Unavailable):
                await of.answer(0, "a")

    asyncio.run(run())


def test_a_lost_connection_fails_its_group_and_no_other(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1) as of:
            async with binding_uncommitted(of, 0, "held") as other:
                lost = [asyncio.create_task(of.answer(number, "held" if number == 1 else None)) for number in (1, 2, 3)]
                await waits_for_a_lock(of)
                behind = asyncio.create_task(of.outcome(4))
                its_own = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = 'registryd_app'"
                await other.execute(its_own, of.database.name)
                for task in lost:
                    with pytest.raises(Unavailable):
                        await task
                assert await in_time(behind) == (True, None)
            assert await of.pages() == [1], "what was not answered is not journaled"
            assert await of.outcome(1, "held") == (True, "recorded")

    asyncio.run(run())


def test_a_caller_that_has_gone_takes_nobody_with_it(site: Site) -> None:
    async def run() -> None:
        with capture_logs() as logs:
            async with registry(site, in_flight=1) as of:
                async with binding_uncommitted(of, 0, "held"):
                    first = asyncio.create_task(of.outcome(1, "held"))
                    await waits_for_a_lock(of)
                    gone = [asyncio.create_task(of.outcome(number, f"c{number}")) for number in range(2, 6)]
                    await asyncio.sleep(0)
                    for task in gone:
                        task.cancel()
                    await asyncio.wait(gone)
                assert await first == (True, "recorded")
                await of.answerer.drain()
                assert await in_time(of.outcome(2, "c2")) == (True, "recorded"), "its number and code are free"
            assert await of.pages() == [1, 1], "who left before the statement is not in it"
        assert [line for line in logs if line["log_level"] == "error"] == []

    asyncio.run(run())


def test_draining_answers_everybody_that_was_admitted(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1, group_max=10) as of:
            tasks = [asyncio.create_task(of.outcome(number % 40)) for number in range(100)]
            await asyncio.sleep(0)
            await of.answerer.drain()
            assert [task.result() for task in tasks] == [(number % 40 < 20, None) for number in range(100)]

    asyncio.run(run())


def test_a_query_s_id_begins_with_the_time_it_was_taken_up(site: Site) -> None:
    async def run() -> None:
        async with registry(site) as of:
            before = datetime.now(UTC)
            answers = [await of.answer(0) for _ in range(20)]
            after = datetime.now(UTC)
            for answer in answers:
                assert UUID(answer.query_id).version == 7
                assert answer.query_id.endswith("0000"), "the first of its page"
                at = datetime.fromtimestamp((UUID(answer.query_id).int >> 80) / 1000, UTC)
                assert before - timedelta(milliseconds=1) <= at <= after
            firsts = [UUID(answer.query_id).int >> 80 for answer in answers]
            assert all(earlier <= later for earlier, later in itertools.pairwise(firsts))

    asyncio.run(run())
