"""Group commit against the real database: who rides with whom, in which order, and what a stuck or lost statement means for the others."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from registryd.domain.binding import Outcome
from registryd.domain.errors import CodeInUse, Unavailable
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn, msisdn_digest
from registryd.domain.presence import Answer, PresenceQuery, by_columns
from registryd.presence import lines
from registryd.presence.answerer import PARTS_AT_ONCE, Answerer, BatchAnswer, connections_needed
from registryd.presence.conflicts import GUILTY
from registryd.store.digest_keys import DigestKey
from registryd.store.pool import Database
from tests.conftest import PATIENCE_S, Site, TestDatabase, eventually

KEY = bytes(range(32))
FIRST = 79_160_000_000


def query(number: int, code: str | None = None) -> PresenceQuery:
    return PresenceQuery(Msisdn(FIRST + number), IdentificationCode(code) if code is not None else None)


class Registry(NamedTuple):
    """An answerer, two messengers and 20 live contracts, numbers 0 to 19; 20 and up are absent."""

    database: TestDatabase
    answerer: Answerer
    one: MessengerId
    two: MessengerId
    db: Database
    """The answerer's connections."""

    async def answer(self, number: int, code: str | None = None, messenger: MessengerId | None = None) -> Answer:
        return await self.answerer.answer(messenger or self.one, query(number, code), time.monotonic())

    async def outcome(self, number: int, code: str | None = None, messenger: MessengerId | None = None) -> tuple[bool, str | None]:
        """As a batch tells it."""
        try:
            answer = await self.answer(number, code, messenger)
        except CodeInUse:
            return True, "code_in_use"
        return answer.present, answer.bound.outcome if answer.bound else None

    async def batch(self, queries: Sequence[PresenceQuery], messenger: MessengerId | None = None) -> BatchAnswer:
        return await self.answerer.answer_batch(messenger or self.one, by_columns(queries), time.monotonic())

    async def together(self, lane: str, queries: Sequence[tuple[int, str | None]]) -> list[tuple[bool, str | None]]:
        """Asks at once, as a batch or as single queries."""
        if lane == "single":
            return list(await asyncio.gather(*(self.outcome(number, code) for number, code in queries)))
        answers = (await self.batch([query(number, code) for number, code in queries])).answers
        return [(present, bound.outcome if bound else None) for present, bound in answers]

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.database.connect() as connection:
            return await connection.fetch(statement, *arguments)

    async def pages(self) -> list[int]:
        """How many queries each page of the journal holds, in the order of their commits."""
        return [row["queries"] for row in await self.fetch("SELECT queries FROM registry.journal_page ORDER BY answered_at")]

    async def live(self, messenger: MessengerId | None = None) -> dict[int, str]:
        rows = await self.fetch(
            "SELECT msisdn, identification_code FROM registry.binding WHERE messenger_id = $1 AND ended_at IS NULL", messenger or self.one
        )
        return {row["msisdn"] - FIRST: row["identification_code"] for row in rows}


@asynccontextmanager
async def registry(
    site: Site, *, in_flight: int = 2, group_max: int = 256, queue_max: int = 20_000, connections: int = 8
) -> AsyncIterator[Registry]:
    one, two = [MessengerId((await site.add_messenger(name)).messenger_id) for name in ("one", "two")]
    await site.add_contracts(*range(FIRST, FIRST + 20))
    async with site.database.pool(size=connections) as db:
        answerer = Answerer(db, DigestKey(1, KEY), statements_in_flight=in_flight, group_max=group_max, queue_max=queue_max)
        yield Registry(site.database, answerer, one, two, db)
        await answerer.drain()


@asynccontextmanager
async def binding_uncommitted(of: Registry, number: int, code: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Another transaction has bound the code and is not yet over: whoever binds it waits for its end. It is then rolled back."""
    async with of.database.connect() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, 1, $2, $3)",
            FIRST + number,
            of.one,
            code,
        )
        yield connection
        await transaction.rollback()


async def waits_for_a_lock(of: Registry, statements: int = 1) -> None:
    """Until so many statements of the answerer's stand still."""

    async def look() -> bool:
        rows = await of.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = $1 AND usename = 'registryd_app' AND wait_event_type = 'Lock'", of.database.name
        )
        return len(rows) >= statements

    await eventually(look)


async def in_time(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, PATIENCE_S)


def serially(
    queries: Sequence[tuple[int, str | None]], order: Sequence[int], bound: dict[int, str]
) -> tuple[list[tuple[bool, str | None]], dict[int, str]]:
    """What one messenger's queries are told one after another in this order, and what is bound then: the rule in its plainest form."""
    told: list[tuple[bool, str | None]] = [(number < 20, None) for number, _ in queries]
    bound = dict(bound)
    for place in order:
        number, code = queries[place]
        if number >= 20 or code is None:
            continue
        holder = next((held for held, of_held in bound.items() if of_held == code), None)
        if holder is None:
            told[place] = (True, "replaced" if number in bound else "recorded")
            bound[number] = code
        else:
            told[place] = (True, "unchanged" if holder == number else "code_in_use")
    return told, bound


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


@pytest.mark.parametrize("lane", ["single", "batch"])
@pytest.mark.parametrize("seed", range(2))
def test_what_is_asked_at_once_is_as_one_after_another(site: Site, seed: int, lane: str) -> None:
    """In some order: of few enough queries, all orders are tried. What binds, frees and takes codes conflicts without naming the same."""

    async def run() -> None:
        chance = random.Random(seed)
        bound: dict[int, str] = {}
        async with registry(site) as of:
            for _ in range(40):
                queries = [(chance.choice([0, 1, 2, 21]), chance.choice(["a", "b", "c", None])) for _ in range(5)]
                told = await of.together(lane, queries)
                found = await of.live()
                orders = itertools.permutations(range(len(queries)))
                assert any(serially(queries, order, bound) == (told, found) for order in orders), (bound, queries, told, found)
                bound = found
            assert sum(await of.pages()) == 40 * 5, "each is journaled once"

    asyncio.run(run())


@pytest.mark.parametrize("lane", ["single", "batch"])
def test_what_names_the_same_is_answered_in_its_order(site: Site, lane: str) -> None:
    async def run() -> None:
        async with registry(site, group_max=16) as of:
            queries = [(0, f"c{place // 2}") for place in range(40)] + [(number, "same") for number in range(1, 20)]
            told = [outcome for _, outcome in await of.together(lane, queries)]
            assert told == ["recorded", "unchanged", *["replaced", "unchanged"] * 19, "recorded", *["code_in_use"] * 18]
            assert await of.live() == {0: "c19", 1: "same"}

    asyncio.run(run())


def test_nobody_overtakes_one_who_waits_for_the_same(site: Site) -> None:
    async def run() -> None:
        async with registry(site) as of:
            async with binding_uncommitted(of, 0, "held"):
                running = asyncio.create_task(of.outcome(1, "held"))
                await waits_for_a_lock(of)
                waiting = asyncio.create_task(of.outcome(1, "next"))  # for its number
                await asyncio.sleep(0)
                behind = asyncio.create_task(of.outcome(2, "next"))  # for its code
                assert await in_time(of.outcome(3, "free")) == (True, "recorded")
                assert not running.done(), "it did not wait for the lock"
                assert not behind.done()
            assert list(await asyncio.gather(running, waiting, behind)) == [(True, "recorded"), (True, "replaced"), (True, "code_in_use")]

    asyncio.run(run())


def test_a_conflict_with_another_process_costs_no_other_messenger_its_answer(site: Site) -> None:
    """What another process has bound meanwhile undoes the group once; then what binds is asked apart, and goes on to be for a while."""

    async def run() -> None:
        async with registry(site, in_flight=1) as of, of.database.connect() as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute(
                "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, 1, $2, 'held')",
                FIRST,
                of.one,
            )
            binding = asyncio.create_task(of.outcome(1, "held"))
            riding = asyncio.create_task(of.outcome(5, None, of.two))
            await waits_for_a_lock(of)
            await transaction.commit()
            assert await in_time(asyncio.gather(binding, riding)) == [(True, "code_in_use"), (True, None)]
            assert await of.pages() == [1, 1]
            later = (of.outcome(2, "a"), of.outcome(6, None, of.two), of.outcome(3, "b"), of.outcome(7, "c", of.two))
            assert await in_time(asyncio.gather(*later)) == [(True, "recorded"), (True, None), (True, "recorded"), (True, "recorded")]
            assert await of.pages() == [1, 1, 2, 2], "each messenger in a statement of its own"

    asyncio.run(run())


BIND = "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, 1, $2, $3)"


def test_a_messenger_with_conflicts_takes_one_statement_at_a_time_from_the_others(site: Site) -> None:
    """Crossed codes on two processes: whatever of them waits for a lock, the other messengers' bindings go on."""

    async def run() -> None:
        async with registry(site, in_flight=2) as of, of.database.connect() as other:
            async with other.transaction():
                await other.execute(BIND, FIRST, of.one, "held")
                conflicting = asyncio.create_task(of.outcome(1, "held"))
                await waits_for_a_lock(of)
            assert await in_time(conflicting) == (True, "code_in_use")
            transaction = other.transaction()
            await transaction.start()
            for number in (2, 3, 4):
                await other.execute(BIND, FIRST + number, of.one, f"held {number}")
            stuck = []
            for number in (2, 3, 4):
                stuck.append(asyncio.create_task(of.outcome(number + 10, f"held {number}")))
                await waits_for_a_lock(of)
            for number in range(20):
                assert await in_time(of.outcome(number, f"c{number}", of.two)) == (True, "recorded")
            assert not any(task.done() for task in stuck)
            await transaction.rollback()
            assert list(await in_time(asyncio.gather(*stuck))) == [(True, "recorded")] * 3

    asyncio.run(run())


def test_groups_that_ask_again_leave_a_connection_to_what_admission_reads(site: Site) -> None:
    """Two groups of three messengers have a conflict each, and whatever of them is asked again waits for a lock."""
    in_flight = 2

    async def run() -> None:
        size = connections_needed(in_flight) - lines.BATCH_STATEMENTS_IN_FLIGHT + 1
        async with (
            registry(site, in_flight=in_flight, connections=size) as of,
            of.database.connect() as other,
            of.database.connect() as third,
        ):
            groups = [[of.one], [of.two]]
            for group in groups:
                for place in range(2):
                    group.append(MessengerId((await site.add_messenger(f"further-{place}-{group[0]}")).messenger_id))
            transaction = other.transaction()
            await transaction.start()
            for first, *_ in groups:
                await other.execute(BIND, FIRST, first, "held")
            asked = []
            for waiting, group in enumerate(groups, 1):
                asked += [asyncio.create_task(of.outcome(1, "held", messenger)) for messenger in group]
                await waits_for_a_lock(of, waiting)
            async with third.transaction():
                lock = asyncio.create_task(third.execute("LOCK TABLE registry.binding IN EXCLUSIVE MODE"))
                await eventually(lambda: of.fetch("SELECT FROM pg_locks WHERE relation = 'registry.binding'::regclass AND NOT granted"))
                await transaction.commit()
                await in_time(lock)
                await eventually(lambda: of.one in of.answerer._conflicts and of.two in of.answerer._conflicts)
                await waits_for_a_lock(of, PARTS_AT_ONCE)
                async with asyncio.timeout(1.0), of.db.connection() as read:
                    assert await read.fetchval("SELECT 1") == 1
            outcomes = [outcome for _, outcome in await in_time(asyncio.gather(*asked))]
            assert outcomes == ["code_in_use", "recorded", "recorded"] * 2

    asyncio.run(run())


def test_a_messenger_without_conflicts_shares_statements_again(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1) as of, of.database.connect() as other:
            async with other.transaction():
                await other.execute(BIND, FIRST, of.one, "held")
                asked = [asyncio.create_task(of.outcome(1, "held"))]
                await waits_for_a_lock(of)
            assert await in_time(asyncio.gather(*asked)) == [(True, "code_in_use")]
            for turn in range(GUILTY):
                assert (await of.answer(2, f"a{turn}")).bound
            before = len(await of.pages())
            await asyncio.gather(of.outcome(2, "last"), of.outcome(3, "last", of.two))
            assert len(await of.pages()) == before + 1

    asyncio.run(run())


def test_singles_and_batches_may_meet_on_the_same_codes(site: Site) -> None:
    """Codes in opposite orders over both lanes: no deadlock, no lost binding, and each code ends up on one number.

    PostgreSQL looks for deadlocks after an hour here, so one would end in lock_timeout, and that in Unavailable.
    """

    async def run() -> None:
        async with site.database.connect() as dba:
            await dba.execute(f"ALTER DATABASE {site.database.name} SET deadlock_timeout = '1h'")
        async with registry(site) as of:
            codes = [f"c{place}" for place in range(10)]
            asked = asyncio.create_task(of.batch([query(number, code) for number, code in zip(range(10), codes, strict=True)]))
            singles = await asyncio.gather(*(of.outcome(number, code) for number, code in zip(range(10, 20), reversed(codes), strict=True)))
            batch = await asked
            outcomes = [str(outcome.outcome) for _, outcome in batch.answers if outcome] + [str(told) for _, told in singles]
            assert sorted(outcomes) == [Outcome.CODE_IN_USE] * 10 + [Outcome.RECORDED] * 10
            assert sorted((await of.live()).values()) == codes

    asyncio.run(run())


def test_messengers_do_not_conflict(site: Site) -> None:
    async def run() -> None:
        async with registry(site, in_flight=1) as of:
            asked = (of.outcome(0, "a", of.one), of.outcome(0, "a", of.two), of.outcome(1, "b", of.one))
            assert list(await asyncio.gather(*asked)) == [(True, "recorded")] * 3
            assert await of.pages() == [3], "all in one statement"

    asyncio.run(run())


def test_a_hostile_batch_comes_to_its_end(site: Site) -> None:
    """300 codes for one number: one after another, and nobody else waits for it."""

    async def run() -> None:
        async with registry(site) as of:
            hostile = asyncio.create_task(of.batch([query(0, f"c{place}") for place in range(300)]))
            meanwhile = 0
            while not hostile.done():
                assert (await of.answer(1, "x", of.two)).present
                meanwhile += 1
            answers = (await hostile).answers
            assert [outcome.outcome for _, outcome in answers if outcome] == ["recorded"] + ["replaced"] * 299
            assert (await of.live())[0] == "c299"
            assert meanwhile > 20, "others were answered between its parts"

    asyncio.run(run())


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
