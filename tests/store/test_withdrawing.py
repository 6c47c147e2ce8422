"""A notification is withdrawn by two persons, for a reason, where its messenger refuses it for ever or it is held; and by nobody else."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from registryd.domain.identifiers import MessengerId
from registryd.store import breakglass, notifications
from registryd.store.breakglass import BreakglassRefused, Notices
from tests.persons import Persons
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, bind, change_policy

REASON = "codes that it cannot read"


async def owe(connection: Connection, count: int) -> tuple[int, str, list[UUID]]:
    """A messenger that is owed some overdue notifications: its id, its name and theirs, the earliest first."""
    await add_contracts(connection, count)
    (messenger,) = await add_messengers(connection, 1)
    await bind(connection, messenger, count)
    await connection.execute("UPDATE registry.contract SET ended_at = now() - msisdn % 100 * interval '1 day' - interval '30 days'")
    rows = await connection.fetch("SELECT notification_id FROM registry.notification ORDER BY notification_id")
    name = await connection.fetchval("SELECT name FROM registry.messenger WHERE messenger_id = $1", messenger)
    return messenger, name, [row[0] for row in rows]


async def refuse(connection: Connection, *ids: UUID, error: str = "status 422") -> None:
    await connection.execute(
        "UPDATE registry.notification SET attempts = 9, last_error = $2 WHERE notification_id = ANY ($1)", list(ids), error
    )


async def withdraw(persons: Persons, notices: Notices) -> dict[str, int]:
    async with persons.session(persons.anna) as session:
        request = await breakglass.request_withdraw(session, notices, REASON)
    async with persons.session(persons.boris) as session:
        tried = await breakglass.withdraw(session, request, dry_run=True)
        await breakglass.approve(session, request)
    async with persons.session(persons.anna) as session:
        done = await breakglass.withdraw(session, request)
    assert done == tried
    return {row.outcome: row.notifications for row in done}


def test_what_a_messenger_refuses_is_withdrawn_and_the_rest_stays_owed(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection, persons.database.pool() as db:
            messenger, name, ids = await owe(connection, 5)
            await refuse(connection, ids[0], ids[1], ids[4])
            await refuse(connection, ids[2], error="timeout")
            deadline = await connection.fetchval("SELECT registry.time_of($1)", ids[3])
            assert await withdraw(persons, Notices(messenger=name, due_before=deadline)) == {"withdrawn": 2}
            owed = await connection.fetch("SELECT notification_id FROM registry.notification ORDER BY 1")
            assert [row[0] for row in owed] == ids[2:]
            kept = await connection.fetch(
                "SELECT notification_id, attempts, reason, request FROM registry.notification_withdrawn ORDER BY 1"
            )
            assert [tuple(row) for row in kept] == [(ids[0], 9, REASON, 1), (ids[1], 9, REASON, 1)]
            assert await notifications.acknowledge(db, MessengerId(messenger), ids[:2]) == 0
            assert await connection.fetchval("SELECT count(*) FROM registry.notification_delivered") == 0
            backlog = await connection.fetchrow("SELECT pending, overdue FROM report.notification_backlog")
            assert backlog is not None
            assert tuple(backlog) == (3, 3)
            told = await connection.fetchrow("SELECT messenger, request, reason, notifications FROM report.notification_withdrawn")
            assert told is not None
            assert tuple(told) == (name, 1, REASON, 2)
            step = await connection.fetchval("SELECT scope FROM registry.breakglass_event WHERE step = 'withdrawn'")
            assert json.loads(step) == {"owed": 2}

    asyncio.run(run())


def test_an_id_is_withdrawn_only_where_it_is_refused_and_overdue(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            _, name, ids = await owe(connection, 3)
            await refuse(connection, ids[0], ids[1])
            await connection.execute("ALTER TABLE registry.notification DISABLE TRIGGER refuse_changing")
            await connection.execute(  # it is refused, but there is still time
                "UPDATE registry.notification SET deadline_at = now() + interval '1 hour' WHERE notification_id = $1", ids[1]
            )
            assert await withdraw(persons, Notices(messenger=name, ids=ids)) == {"withdrawn": 1, "not_refused": 2}
            assert await connection.fetchval("SELECT count(*) FROM registry.notification") == 2

    asyncio.run(run())


def test_a_held_wave_is_withdrawn_as_a_whole_and_then_keeps_nothing_from_erasure(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            _, _, ids = await owe(connection, 2)
            wave = await connection.fetchval("INSERT INTO registry.wave (ends, notifications) VALUES (2, 2) RETURNING wave_id")
            columns = "messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, recorded_at, identification_code"
            await connection.execute(
                f"INSERT INTO registry.notification_held ({columns}, wave_id) SELECT {columns}, $1 FROM registry.notification", wave
            )
            await connection.execute(
                "ALTER TABLE registry.notification DISABLE TRIGGER refuse_losing; DELETE FROM registry.notification; "
                "ALTER TABLE registry.notification ENABLE TRIGGER refuse_losing"
            )
            await change_policy(connection, ended_kept="1 day")
            # A binding is never changed: the test makes them older than they are, as its owner.
            old = "UPDATE registry.binding SET ended_at = now() - interval '30 days'"
            await connection.execute(f"SET session_replication_role = 'replica'; {old}; RESET session_replication_role")
            purge = "SELECT ARRAY[bindings, contracts] FROM registry.purge_ended(100)"
            assert await connection.fetchval(purge) == [0, 0], "what is held is owed"
            assert await withdraw(persons, Notices(wave=wave)) == {"withdrawn": 2}
            assert await connection.fetchval(purge) == [2, 2]
            kept = await connection.fetch("SELECT notification_id FROM registry.notification_withdrawn ORDER BY 1")
            assert [row[0] for row in kept] == ids
            assert await connection.fetchval("SELECT withdrawn FROM registry.wave") == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("notices", "words"),
    [
        (Notices(), "a messenger or a wave"),
        (Notices(messenger="m", wave=1), "a messenger or a wave"),
        (Notices(wave=1, due_before=datetime.now(UTC)), "a messenger or a wave"),
        (Notices(messenger="nobody"), "no such messenger"),
        (Notices(wave=7), "no wave 7"),
    ],
)
def test_a_withdrawal_that_names_nothing_is_refused(persons: Persons, notices: Notices, words: str) -> None:
    async def run() -> None:
        with pytest.raises(BreakglassRefused, match=words):
            async with persons.session(persons.anna) as session:
                await breakglass.request_withdraw(session, notices, REASON)

    asyncio.run(run())


def test_withdrawn_notifications_and_numbers_of_lapsed_requests_are_forgotten(persons: Persons) -> None:
    async def run() -> None:
        async with persons.database.connect() as connection:
            _, name, ids = await owe(connection, 1)
            await refuse(connection, *ids)
            await withdraw(persons, Notices(messenger=name))
            async with persons.session(persons.anna) as session:
                await breakglass.request_reinstate(session, breakglass.Ends(numbers=[FIRST]), REASON)
            assert await connection.fetchval("SELECT registry.forget_records(100)") == 0
            await connection.execute("UPDATE registry.notification_withdrawn SET withdrawn_at = now() - $1::interval", timedelta(days=1200))
            await connection.execute("UPDATE registry.breakglass_event SET at = at - interval '27 hours'")
            assert await connection.fetchval("SELECT registry.forget_records(100)") == 1
            for table in ("notification_withdrawn", "breakglass_number"):
                assert await connection.fetchval(f"SELECT count(*) FROM registry.{table}") == 0, table

    asyncio.run(run())
