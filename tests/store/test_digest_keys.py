"""A month's digests can be tied to a number as long as its journal is kept, and by nobody afterwards."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, date, datetime, timedelta

import pytest

from registryd import observe
from registryd.domain.identifiers import MessengerId, Msisdn, msisdn_digest
from registryd.domain.presence import PresenceQuery
from registryd.keep.days import keep_days
from registryd.presence.answerer import Answerer
from registryd.store import digest_keys
from registryd.store.secretbox import SecretBox, WrongSecretsKey
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, Connection, add_messengers, begin_chain, change_policy

BOX = SecretBox(bytes(32))


async def months(connection: Connection) -> list[tuple[date, bool]]:
    """Each key's month, and whether there is still a key."""
    rows = await connection.fetch("SELECT month, ciphertext IS NOT NULL AS live FROM registry.digest_key ORDER BY month")
    return [(row["month"], row["live"]) for row in rows]


def test_workers_share_each_months_key_and_make_it_ahead(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            december = await asyncio.gather(*(digest_keys.read_of(db, BOX, date(2026, 12, 1 + n)) for n in range(4)))
            assert len(set(december)) == 1
            assert await months(connection) == [(date(2026, 12, 1), True), (date(2027, 1, 1), True)]
            january = await digest_keys.read_of(db, BOX, date(2027, 1, 31))
            assert (january.key_id, december[0].key_id) == (27 * 12 + 1, 26 * 12 + 12)
            assert january.key != december[0].key
            assert january.key not in (await connection.fetchval("SELECT string_agg(ciphertext, '') FROM registry.digest_key"))
            with pytest.raises(WrongSecretsKey):
                await digest_keys.read_of(db, SecretBox(bytes(31) + b"1"), date(2027, 1, 31))
            # One month's ciphertext does not pass for another's.
            await connection.execute(
                "UPDATE registry.digest_key AS k SET ciphertext = o.ciphertext FROM registry.digest_key AS o "
                "WHERE k.month = '2027-01-01' AND o.month = '2026-12-01'"
            )
            with pytest.raises(WrongSecretsKey):
                await digest_keys.read_of(db, BOX, date(2027, 1, 31))

    asyncio.run(run())


def test_a_page_names_the_key_of_the_moment_it_was_written(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            keys = [await digest_keys.read_of(db, BOX, date(2026, 12, 31)), await digest_keys.read_of(db, BOX, date(2027, 1, 1))]
            answerer = Answerer(db, keys[0], statements_in_flight=1, group_max=10, queue_max=10)
            for key in keys:
                answerer.digest_key = key
                await answerer.answer(MessengerId(messenger_id), PresenceQuery(Msisdn(FIRST)), time.monotonic())
            rows = await connection.fetch("SELECT digest_key, digests FROM registry.journal_page ORDER BY answered_at")
            assert [tuple(row) for row in rows] == [(key.key_id, msisdn_digest(key.key, Msisdn(FIRST))) for key in keys]

    asyncio.run(run())


def test_autovacuum_takes_at_once_what_a_destroyed_key_was(shared: TestDatabase) -> None:
    """By default some dead rows of a small table stay for years, and each base backup would hold the key with them."""

    async def run() -> None:
        async with shared.connect() as connection:
            options = await connection.fetch(
                "SELECT o.option_name AS name, o.option_value::float8 AS value FROM pg_class AS c, pg_options_to_table(c.reloptions) AS o "
                "WHERE c.oid = 'registry.digest_key'::regclass"
            )
        dead_rows = {"autovacuum_vacuum_threshold": 50.0, "autovacuum_vacuum_scale_factor": 0.2} | {o["name"]: o["value"] for o in options}
        months = 12 * 3
        assert dead_rows["autovacuum_vacuum_threshold"] + dead_rows["autovacuum_vacuum_scale_factor"] * months < 1

    asyncio.run(run())


def test_a_key_is_destroyed_when_nothing_of_its_month_is_left_and_not_before(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            this = datetime.now(UTC).date().replace(day=1)
            last = (this - timedelta(days=1)).replace(day=1)
            before = (last - timedelta(days=1)).replace(day=1)
            for month in (before, last, this):
                await digest_keys.read_of(db, BOX, month)
            live = [(month, True) for month in (before, last, this)]
            # The journal of the month before last is over with the first week that begins a day or more after it.
            over = next(day for n in range(1, 8) if (day := last + timedelta(days=n)).weekday() == 0)
            kept = (datetime.now(UTC).date() - over).days
            await begin_chain(connection, datetime.now(UTC))
            await change_policy(connection, journal_kept=f"{kept + 1} days")
            await keep_days(db)
            assert (await months(connection))[:3] == live
            await change_policy(connection, journal_kept=f"{kept} days")
            await connection.execute("SELECT registry.make_partitions($1, 1)", last)  # its last week is still there
            await db.fetch(digest_keys.DESTROY_KEYS)
            assert (await months(connection))[:3] == live
            count = observe.digest_keys_destroyed._value.get()
            await keep_days(db)
            assert (await months(connection))[:3] == [(before, False), (last, True), (this, True)]
            assert observe.digest_keys_destroyed._value.get() - count == 1
            assert await connection.fetchval(
                "SELECT destroyed_at > now() - interval '1 minute' FROM registry.digest_key WHERE month = $1", before
            )

    asyncio.run(run())
