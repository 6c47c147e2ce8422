"""A mistaken end has a way back: two persons undo it, nobody is told who need not be, and who may have been told hears of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from registryd.delivery.push import PUSH_MAX_S
from registryd.delivery.timing import TIMING
from registryd.domain.identifiers import MessengerId
from registryd.store import notifications, replays
from registryd.store.breakglass import Ends
from registryd.store.notifications import BEGINNING
from registryd.store.replays import EVER, Choice
from tests.persons import Persons
from tests.store.conftest import FIRST, add_contracts, add_messengers, bind, explaining
from tests.store.undoing import LATER, REASON, approve, ask, bound_ends, end, listed, live_bindings, outcomes, recently, start, take, undo


def test_every_contract_and_binding_of_a_mistaken_end_is_there_again(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 4)
            one, other = await add_messengers(connection, 2)
            await bind(connection, one, 3)
            await bind(connection, other, 2)
            before = await live_bindings(connection)
            await end(connection, FIRST, FIRST + 1, FIRST + 3)
            ended_at = await connection.fetchval("SELECT ended_at FROM registry.contract WHERE msisdn = $1", FIRST)
            rows = await undo(persons, recently())
            assert outcomes(rows) == {("contract", "reinstated"): 3, ("binding", "reinstated"): 4, ("notification", "owed"): 4}
            assert await live_bindings(connection) == before
            again = await connection.fetchrow(
                "SELECT generation, status, holder::text, end_user::text, started_at, recorded_at > started_at AS late "
                "FROM registry.contract WHERE msisdn = $1 AND ended_at IS NULL",
                FIRST,
            )
            assert again is not None
            assert tuple(again) == (2, "active", "individual", "not_required", ended_at, True)
            counted = await connection.fetchrow("SELECT sum(activated), sum(terminated) FROM registry.contract_movement")
            assert counted is not None
            assert tuple(counted) == (7, 3)

    asyncio.run(run())


def test_what_was_held_is_withdrawn_and_nobody_hears_of_it(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 3)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 2)
            await bound_ends(connection, 2)
            await end(connection, FIRST, FIRST + 1, FIRST + 2)
            wave = await connection.fetchval("SELECT wave_id FROM registry.wave")
            rows = await undo(persons, Ends(wave=wave))
            assert outcomes(rows) == {("contract", "reinstated"): 3, ("binding", "reinstated"): 2, ("notification", "held"): 2}
            assert await connection.fetchval("SELECT count(*) FROM registry.notification") == 0
            assert await connection.fetchval("SELECT count(*) FROM registry.notification_held") == 0
            assert await connection.fetchval("SELECT withdrawn FROM registry.wave") == 2
            assert await connection.fetchval("SELECT pending + held FROM report.notification_backlog") == 0
            withdrawn = await connection.fetch("SELECT DISTINCT request, reason, attempts FROM registry.notification_withdrawn")
            assert [tuple(row) for row in withdrawn] == [(1, REASON, 0)]

    asyncio.run(run())


def test_whoever_may_have_been_told_is_told_that_it_was_a_mistake(persons: Persons) -> None:
    """A delivered notification stays as it is; one that is owed may be on its way, so it is withdrawn."""

    async def run() -> None:
        async with persons.database.connect() as connection, persons.database.pool() as db:
            await add_contracts(connection, 2)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 2)
            await end(connection, FIRST, FIRST + 1)
            ids = {row["msisdn"]: row["notification_id"] for row in await connection.fetch("SELECT * FROM registry.notification")}
            await notifications.acknowledge(db, MessengerId(messenger), [ids[FIRST]])
            rows = await undo(persons, recently())
            assert outcomes(rows)["notification", "delivered"] == outcomes(rows)["notification", "owed"] == 1
            events = await connection.fetch(
                "SELECT msisdn, undoes, generation, identification_code, "
                "deadline_at = date_trunc('milliseconds', terminated_at + interval '24 hours') AS in_time, "
                "extract(epoch FROM not_before - recorded_at) AS waits_s FROM registry.notification ORDER BY msisdn"
            )
            assert [tuple(row)[:5] for row in events] == [
                (FIRST, ids[FIRST], 2, f"u-{FIRST}", True),
                (FIRST + 1, ids[FIRST + 1], 2, f"u-{FIRST + 1}", True),
            ]
            # A lane that had read the mistake may push it for a turn and one push more.
            assert events[0]["waits_s"] == 0
            assert events[1]["waits_s"] > TIMING.turn_s * 1.5 + PUSH_MAX_S
            assert await connection.fetchval("SELECT notification_id FROM registry.notification_withdrawn") == ids[FIRST + 1]
            # A receipt of the mistake that comes now finds nothing: no delivery is recorded that the registry does not owe.
            assert await notifications.acknowledge(db, MessengerId(messenger), [ids[FIRST + 1]]) == 0
            assert await connection.fetchval("SELECT count(*) FROM registry.notification_delivered") == 1

    asyncio.run(run())


def test_what_moved_on_meanwhile_stays_as_it_is_and_its_notice_stays_owed(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 4)
            await add_contracts(connection, 1, LATER)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 4)
            await end(connection, *range(FIRST, FIRST + 4))
            await start(connection, FIRST + 1)
            await start(connection, FIRST + 2)
            await connection.execute(
                "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, 2, $4, 'new'), "
                "($2, 1, $4, 'u-' || $3::bigint)",
                FIRST + 2,
                LATER,
                FIRST + 3,
                messenger,
            )
            rows = await undo(persons, recently(), with_list=True)
            assert outcomes(rows) == {
                ("contract", "reinstated"): 2,
                ("contract", "moved_on"): 2,
                ("binding", "reinstated"): 1,
                ("binding", "moved_on"): 1,
                ("binding", "number_taken"): 1,
                ("binding", "code_taken"): 1,
                ("notification", "owed"): 1,
            }
            assert listed(rows) == {
                ("contract", "moved_on", FIRST + 1),
                ("contract", "moved_on", FIRST + 2),
                ("binding", "moved_on", FIRST + 1),
                ("binding", "number_taken", FIRST + 2),
                ("binding", "code_taken", FIRST + 3),
            }
            owed = await connection.fetch("SELECT msisdn, undoes IS NOT NULL AS undoes FROM registry.notification ORDER BY msisdn")
            assert [tuple(row) for row in owed] == [(FIRST, True), (FIRST + 1, False), (FIRST + 2, False), (FIRST + 3, False)]

    asyncio.run(run())


def test_a_code_that_ended_on_two_numbers_returns_to_the_later_one(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 2)
            (messenger,) = await add_messengers(connection, 1)
            for number in (FIRST, FIRST + 1):
                await connection.execute(
                    "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, 1, $2, 'same')",
                    number,
                    messenger,
                )
                await end(connection, number)
            rows = await undo(persons, recently(), with_list=True)
            assert listed(rows) == {("binding", "code_taken", FIRST)}
            assert await live_bindings(connection) == [(messenger, FIRST + 1, "same")]

    asyncio.run(run())


def test_the_next_snapshot_sees_no_change(persons: Persons, tmp_path: Path) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 3)
            await end(connection, FIRST + 1)
            await undo(persons, recently())
            took = await take(persons, tmp_path, [FIRST, FIRST + 1, FIRST + 2], datetime.now(UTC))
            assert (took.live, took.activated, took.terminated, took.holder_changed, took.updated, took.newer) == (3, 0, 0, 0, 0, 0)
            live = await connection.fetch("SELECT msisdn, generation FROM registry.contract WHERE ended_at IS NULL ORDER BY 1")
            assert [tuple(row) for row in live] == [(FIRST, 1), (FIRST + 1, 2), (FIRST + 2, 1)]

    asyncio.run(run())


def test_undone_ends_no_longer_fill_the_bound_of_the_hour(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 12)
            (messenger,) = await add_messengers(connection, 1)
            await bound_ends(connection, 5)
            for number in range(3):
                await end(connection, FIRST + number)
            await connection.execute("SELECT registry.fold_ends()")
            await end(connection, FIRST + 3)
            await bind(connection, messenger, 7, FIRST + 5)
            await end(connection, *range(FIRST + 5, FIRST + 12))  # more than the bound, so they are held and never counted
            assert await connection.fetchval("SELECT registry.ends_left()") == 1
            assert outcomes(await undo(persons, Ends(numbers=[FIRST, FIRST + 3, FIRST + 9])))["contract", "reinstated"] == 3
            assert await connection.fetchval("SELECT registry.ends_left()") == 3

    asyncio.run(run())


def test_undone_ends_of_a_released_wave_do_not_widen_the_bound(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 12)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 12, FIRST)
            await bound_ends(connection, 3)
            await end(connection, FIRST, FIRST + 1)
            await end(connection, *range(FIRST + 5, FIRST + 10))
            assert await connection.fetchval("SELECT registry.ends_left()") == 1, "the wave is held, and so it is not counted"
            await connection.execute("SELECT registry.release_wave(max(wave_id), 'right after all', 100) FROM registry.wave")
            await undo(persons, Ends(numbers=[*range(FIRST + 5, FIRST + 10)]))
            assert await connection.fetchval("SELECT registry.ends_left()") == 1

    asyncio.run(run())


def test_ends_that_a_snapshot_brought_are_named_by_its_time(persons: Persons, tmp_path: Path) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 3)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 3)
            await connection.execute("SET session_replication_role = 'replica'; UPDATE registry.contract SET recorded_at = NULL")
            as_of = datetime.now(UTC) - timedelta(hours=2)
            await take(persons, tmp_path, [FIRST], as_of)
            assert await connection.fetchval("SELECT count(*) FROM registry.contract WHERE ended_at IS NULL") == 1
            rows = await undo(persons, Ends(recorded_from=as_of, recorded_until=as_of + timedelta(seconds=1)))
            assert outcomes(rows)["binding", "reinstated"] == 2

    asyncio.run(run())


def test_a_replay_tells_no_mistake_again_that_was_undone(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection, persons.database.pool() as db:
            await add_contracts(connection, 2)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 2)
            await end(connection, FIRST, FIRST + 1)
            ids: list[UUID] = [row[0] for row in await connection.fetch("SELECT notification_id FROM registry.notification ORDER BY 1")]
            await notifications.acknowledge(db, MessengerId(messenger), ids)
            replay = await connection.fetchval(
                "INSERT INTO registry.replay (messenger_id, per_second) VALUES ($1, 1) RETURNING replay_id", messenger
            )
            await connection.execute(
                "INSERT INTO registry.replayed_notification (replay_id, messenger_id, notification_id) SELECT $1, $2, unnest($3::uuid[])",
                replay,
                messenger,
                ids,
            )
            await connection.execute("SELECT registry.owe_again($1, 1)", replay)
            assert outcomes(await undo(persons, recently()))["notification", "repeated"] == 1
            await connection.execute("SELECT registry.owe_again($1, 10)", replay)
            owed = await connection.fetch("SELECT undoes FROM registry.notification ORDER BY undoes")
            assert [row["undoes"] for row in owed] == sorted(ids)
            choice = Choice(MessengerId(messenger), EVER, datetime.now(UTC) + timedelta(hours=1), None)
            assert await replays.ask(connection, choice, 20) == 0, "nor one that is asked for later"
            events: list[UUID] = [row[0] for row in await connection.fetch("SELECT notification_id FROM registry.notification")]
            await notifications.acknowledge(db, MessengerId(messenger), events)
            assert await replays.ask(connection, choice, 20) == 2, "what undid them is repeated as all that was delivered"
            await connection.execute("SELECT registry.owe_again(max(replay_id), 10) FROM registry.replay")
            assert {row.notification_id for row in await notifications.read_owed(db, MessengerId(messenger), BEGINNING, 10)} == set(events)
            assert {row.type for row in await notifications.read_owed(db, MessengerId(messenger), BEGINNING, 10)} == {"binding.reinstated"}

    asyncio.run(run())


def test_a_mass_of_ends_is_undone_by_work_that_grows_with_it_alone(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 6_000)
            for messenger in await add_messengers(connection, 2):
                await bind(connection, messenger, 3_000)
            await end(connection, *range(FIRST, FIRST + 3_000))
            await connection.execute(  # a third of it was delivered
                "SELECT registry.settle_delivered(messenger_id, array_agg(notification_id), 'push') FROM registry.notification "
                "WHERE msisdn % 3 = 0 GROUP BY messenger_id"
            )
        request = await ask(persons, recently())
        await approve(persons, request)
        async with explaining(persons.database) as explained:
            await explained.connection.execute(f"SET SESSION AUTHORIZATION {persons.anna}")
            await explained.connection.fetch("SELECT * FROM breakglass.reinstate($1)", request)
            touched = {plan.statement.strip()[:60]: plan.rows_touched() for plan in await explained.plans("")}
        assert max(touched.values()) < 60 * 6_000, touched

    asyncio.run(run())
