"""What holds when bindings and ends meet: real connections, real waits, nothing lost and nothing twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

import asyncpg
import pytest

from registryd.domain.errors import Unavailable
from registryd.store import contracts
from registryd.store.pool import Database
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, ask, bind, waits

"""The daemon's own, in store/pool.py."""

END = "UPDATE registry.contract SET ended_at = clock_timestamp() WHERE ended_at IS NULL AND msisdn = ANY ($1::bigint[])"
NEXT_HOLDERS = """
INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)
SELECT msisdn, max(generation) + 1, 'active', 'individual', 'not_required', now()
  FROM registry.contract WHERE msisdn = ANY ($1::bigint[]) GROUP BY msisdn"""
LIVE_ON_ENDED = """
SELECT count(*) FROM registry.binding AS b JOIN registry.contract AS c USING (msisdn, generation)
 WHERE b.ended_at IS NULL AND c.ended_at IS NOT NULL"""
UNNOTIFIED = """
SELECT count(*) FROM registry.binding AS b
  FULL JOIN registry.notification AS n
    ON (n.msisdn, n.generation, n.messenger_id, n.identification_code) = (b.msisdn, b.generation, b.messenger_id, b.identification_code)
   AND b.end_reason = 'terminated'
 WHERE (b.end_reason = 'terminated' AND n.notification_id IS NULL) OR b.msisdn IS NULL"""
BOUND_TWICE = """
SELECT count(*) FROM (SELECT FROM registry.binding WHERE ended_at IS NULL GROUP BY messenger_id, identification_code HAVING count(*) > 1
                      UNION ALL
                      SELECT FROM registry.binding WHERE ended_at IS NULL GROUP BY messenger_id, msisdn HAVING count(*) > 1) AS twice"""


def test_no_binding_survives_the_end_it_raced_and_every_ended_one_is_notified(database: TestDatabase) -> None:
    """Binders, ends, next holders and a DBA's own bindings, all on forty numbers at once."""
    numbers = range(FIRST, FIRST + 40)
    wanted = {"recorded": 300, "replaced": 30, "busy": 10, "ended": 300, "by hand": 10}

    async def run() -> None:
        outcomes: Counter[str | None] = Counter()
        give_up = time.monotonic() + 30

        def met() -> bool:
            """Whether they have met often enough; without that this would show nothing."""
            assert time.monotonic() < give_up, outcomes
            return all(outcomes[what] >= often for what, often in wanted.items())

        async def binds(db: Database, messenger_id: int, draw: random.Random) -> None:
            while not met():
                chosen = draw.sample(numbers, 8)
                codes = draw.sample(range(60), 8)
                try:
                    told, _ = await ask(db, messenger_id, *((number, f"u-{code}") for number, code in zip(chosen, codes, strict=True)))
                    outcomes.update(told)
                except Unavailable:
                    outcomes["unavailable"] += 1

        async def ends(connection: Connection, draw: random.Random) -> None:
            while not met():
                chosen = sorted(draw.sample(numbers, 5))
                try:
                    async with connection.transaction():
                        ended = [row["msisdn"] for row in await connection.fetch(f"{END} RETURNING msisdn", chosen)]
                        await connection.execute(NEXT_HOLDERS, ended)
                    outcomes["ended"] += len(ended)
                except asyncpg.DeadlockDetectedError:
                    outcomes["deadlock"] += 1

        async def binds_by_hand(connection: Connection, messenger_id: int, draw: random.Random) -> None:
            while not met():
                try:
                    await bind(connection, messenger_id, 1, draw.choice(numbers))
                    outcomes["by hand"] += 1
                except (asyncpg.UniqueViolationError, asyncpg.RestrictViolationError, asyncpg.DeadlockDetectedError):
                    outcomes["by hand, refused"] += 1

        async with database.connect() as connection:
            await add_contracts(connection, len(numbers))
            one, other = await add_messengers(connection, 2)
        async with database.pool(4) as db, database.connect() as a, database.connect() as b:
            async with database.connect() as hand:
                await asyncio.gather(
                    *(binds(db, messenger_id, random.Random(seed)) for seed, messenger_id in enumerate((one, other, one, other))),
                    ends(a, random.Random(8)),
                    ends(b, random.Random(9)),
                    binds_by_hand(hand, one, random.Random(10)),
                )
            assert await a.fetchval(LIVE_ON_ENDED) == 0
            assert await a.fetchval(UNNOTIFIED) == 0
            assert await a.fetchval(BOUND_TWICE) == 0

    asyncio.run(run())


def test_an_end_waits_for_a_binding_in_the_making_and_notifies_it(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as dba, database.connect() as look:
            await add_contracts(connection, 1)
            (messenger_id,) = await add_messengers(connection, 1)
            binding = connection.transaction()
            await binding.start()
            await bind(connection, messenger_id, 1)
            ending = asyncio.create_task(dba.execute(END, [FIRST]))
            await waits(look, dba.get_server_pid())
            await binding.commit()
            await ending
            assert await look.fetchval("SELECT count(*) FROM registry.notification WHERE msisdn = $1", FIRST) == 1
            assert await look.fetchval(LIVE_ON_ENDED) == 0

    asyncio.run(run())


def test_a_binding_by_hand_waits_for_an_end_in_the_making_and_is_then_refused(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as dba, database.connect() as look:
            await add_contracts(connection, 1)
            (messenger_id,) = await add_messengers(connection, 1)
            ending = dba.transaction()
            await ending.start()
            await dba.execute(END, [FIRST])
            binding = asyncio.create_task(bind(connection, messenger_id, 1))
            await waits(look, connection.get_server_pid())
            await ending.commit()
            with pytest.raises(asyncpg.RestrictViolationError, match="needs a live contract"):
                await binding

    asyncio.run(run())


def test_a_group_does_not_wait_for_an_open_termination(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as dba, database.pool(2) as db:
            await add_contracts(dba, 3)
            (messenger_id,) = await add_messengers(dba, 1)
            ending = dba.transaction()
            await ending.start()
            await dba.execute(END, [FIRST, FIRST + 1])
            asked = [(FIRST, "a"), (FIRST + 1, None), (FIRST + 2, "c")]
            assert await ask(db, messenger_id, *asked) == (["busy", None, "recorded"], "111")
            await ending.commit()
            assert await ask(db, messenger_id, *asked) == ([None, None, "unchanged"], "001")

            undone = dba.transaction()
            await undone.start()
            await dba.execute(END, [FIRST + 2])
            assert await ask(db, messenger_id, (FIRST + 2, "d")) == (["busy"], "1")
            await undone.rollback()
            assert await ask(db, messenger_id, (FIRST + 2, "d")) == (["replaced"], "1")
            assert await dba.fetchval("SELECT count(*) FROM registry.journal_page") == 4

    asyncio.run(run())


def test_two_binders_of_one_code_or_one_number_end_as_some_order_of_them(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(2) as one, database.pool(2) as other:
            await add_contracts(connection, 80)
            (messenger_id,) = await add_messengers(connection, 1)
            for i in range(0, 80, 2):
                number, neighbour = FIRST + i, FIRST + i + 1
                told = await asyncio.gather(
                    ask(one, messenger_id, (number, f"code-{i}")), ask(other, messenger_id, (neighbour, f"code-{i}"))
                )
                assert sorted(str(outcomes[0]) for outcomes, _ in told) == ["code_in_use", "recorded"]
                free = number if told[0][0] == ["code_in_use"] else neighbour
                told = await asyncio.gather(ask(one, messenger_id, (free, f"x-{i}")), ask(other, messenger_id, (free, f"y-{i}")))
                assert sorted(str(outcomes[0]) for outcomes, _ in told) == ["recorded", "replaced"]
                told = await asyncio.gather(ask(one, messenger_id, (free, f"z-{i}")), ask(other, messenger_id, (free, f"z-{i}")))
                assert sorted(str(outcomes[0]) for outcomes, _ in told) == ["replaced", "unchanged"]
            assert await connection.fetchval(BOUND_TWICE) == 0
            assert await connection.fetchval("SELECT count(*) FROM registry.binding WHERE ended_at IS NULL") == 80

    asyncio.run(run())


def test_a_code_may_move_on_once_its_number_has_ended(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(2) as db:
            await add_contracts(connection, 2)
            (messenger_id,) = await add_messengers(connection, 1)
            assert await ask(db, messenger_id, (FIRST, "code")) == (["recorded"], "1")
            assert await ask(db, messenger_id, (FIRST + 1, "code")) == (["code_in_use"], "1")
            await connection.execute(END, [FIRST])
            assert await ask(db, messenger_id, (FIRST + 1, "code")) == (["recorded"], "1")

    asyncio.run(run())


def test_one_statement_answers_and_binds_for_several_messengers_in_the_order_asked(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(2) as db:
            await add_contracts(connection, 3)
            one, other = await add_messengers(connection, 2)
            asked: Sequence[tuple[int, str | None]] = [(FIRST + 2, "c"), (FIRST + 9, "absent"), (FIRST, None), (FIRST + 1, "b")]
            assert await ask(db, one, *asked) == (["recorded", None, None, "recorded"], "1011")
            assert await ask(db, other, *asked[::-1]) == (["recorded", None, None, "recorded"], "1101")
            swapped = [(FIRST + 2, "b"), (FIRST + 1, "b2"), (FIRST, "c")]
            assert await ask(db, one, *swapped) == (["code_in_use", "replaced", "code_in_use"], "111")

    asyncio.run(run())


def test_calls_of_the_feed_take_turns(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as look, database.connect("registryd_app") as one, database.connect("registryd_app") as other:
            first, second = one.transaction(), other.transaction()
            await first.start()
            await contracts.lock_feed(one)
            await second.start()
            waiting = asyncio.create_task(contracts.lock_feed(other))
            await waits(look, other.get_server_pid())
            await first.rollback()
            await waiting
            await second.rollback()

    asyncio.run(run())
