"""A reinstatement beside others' work: bindings, receipts, releases and billing's events that come meanwhile."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from registryd.store import breakglass
from registryd.store.breakglass import Undone
from tests.persons import Persons
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, bind, waits
from tests.store.undoing import LATER, approve, ask, bound_ends, end, listed, outcomes, recently

Found: TypeAlias = dict[tuple[str, str], int]


async def undo_while(persons: Persons, look: Connection, statement: str) -> tuple[Found, list[Undone]]:
    """Undoes all recent ends while another transaction has run a statement, which commits once the reinstatement waits for it."""
    request = await ask(persons, recently())
    await approve(persons, request)
    async with persons.database.connect() as other, persons.session(persons.anna) as session:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(statement)
        undoing = asyncio.create_task(breakglass.reinstate(session, request, with_list=True))
        await waits(look, session.get_server_pid())
        await transaction.commit()
        rows = await undoing
    return outcomes(rows), rows


def test_a_code_that_is_being_bound_elsewhere_is_left_to_who_binds_it(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 2)
            await add_contracts(connection, 1, LATER)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 2)
            await end(connection, FIRST, FIRST + 1)
            taking = (
                "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) "
                f"VALUES ({LATER}, 1, {messenger}, 'u-{FIRST}')"
            )
            found, rows = await undo_while(persons, connection, taking)
            assert (found["binding", "reinstated"], listed(rows)) == (1, {("binding", "code_taken", FIRST)})
            assert await connection.fetchval("SELECT undoes IS NULL FROM registry.notification WHERE msisdn = $1", FIRST)

    asyncio.run(run())


def test_a_receipt_that_comes_meanwhile_is_a_delivery_that_is_undone(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 2)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 2)
            await end(connection, FIRST, FIRST + 1)
            owed = await connection.fetchval("SELECT notification_id FROM registry.notification WHERE msisdn = $1", FIRST)
            receipt = f"SELECT registry.settle_delivered({messenger}, ARRAY['{owed}'::uuid], 'push')"
            found, _ = await undo_while(persons, connection, receipt)
            assert (found["notification", "delivered"], found["notification", "owed"]) == (1, 1)
            assert await connection.fetchval("SELECT count(*) FROM registry.notification WHERE undoes = $1", owed) == 1

    asyncio.run(run())


def test_a_wave_that_is_being_released_is_withdrawn_and_told(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 2)
            (messenger,) = await add_messengers(connection, 1)
            await bind(connection, messenger, 2)
            await bound_ends(connection, 0)
            await end(connection, FIRST, FIRST + 1)
            found, _ = await undo_while(persons, connection, "SELECT registry.release_wave(1, 'a test', 1)")
            assert (found["notification", "held"], found["notification", "owed"]) == (1, 1)
            wave = await connection.fetchrow("SELECT notifications, released, withdrawn FROM registry.wave")
            assert wave is not None
            assert tuple(wave) == (2, 1, 1)

    asyncio.run(run())


def test_billings_events_wait_for_a_reinstatement_and_it_for_them(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            await add_contracts(connection, 1)
            await end(connection, FIRST)
            lock = "SELECT pg_advisory_xact_lock(hashtextextended('registry.feed', 0))"
            found, _ = await undo_while(persons, connection, lock)
            assert found == {("contract", "reinstated"): 1}

    asyncio.run(run())
