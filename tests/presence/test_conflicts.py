"""Queries that name the same number or code: they end as in some order, and cost no other messenger its answer."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence

import pytest

from registryd.domain.binding import Outcome
from registryd.domain.identifiers import MessengerId
from registryd.presence import lines
from registryd.presence.answerer import PARTS_AT_ONCE, connections_needed
from registryd.presence.conflicts import GUILTY
from tests.conftest import Site, eventually
from tests.presence.registry import FIRST, binding_uncommitted, in_time, query, registry, waits_for_a_lock


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
