"""Partitions are made ahead and dropped by policy: no report ever loses a figure, no query waits for it, nobody hastens it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest

from registryd import exposition, observe
from registryd.keep.days import keep_days
from registryd.store import days
from registryd.store.days import FAMILIES
from tests.conftest import Site, TestDatabase, daemon, rewrite_policy, wait_for
from tests.store.conftest import FIRST, add_messengers, ask, seal_all, write_page
from tests.store.kept import (
    LONG_AGO,
    at_noon,
    day_before,
    keep,
    leave_deliveries,
    leave_evidence,
    part_of,
    parts,
    parts_of,
    read_reports,
    since,
    watch,
)


def test_no_report_changes_while_windows_are_sealed_figures_folded_and_partitions_dropped(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            one, other = await add_messengers(connection, 2)
            await since(connection, LONG_AGO)
            await keep(connection, 1)
            for family in FAMILIES:  # a time that nobody made a partition for: its rows lie in the default partition
                await connection.execute(f"DROP TABLE registry.{family}_{part_of(family, day_before(LONG_AGO)):%Y%m%d}")
            for age in (0, 1, 12, 30, LONG_AGO):
                at = min(at_noon(day_before(age)), datetime.now(UTC))
                await leave_evidence(connection, one, at)
                await leave_evidence(connection, one, at, wait=timedelta(minutes=21))
            # Received before midnight and answered after it; a delivery by a clock that is wrong.
            await leave_evidence(connection, other, at_noon(day_before(3)) - timedelta(hours=12), wait=timedelta(seconds=2))
            await leave_deliveries(connection, other, at_noon(day_before(400)))
            before = await read_reports(connection)
            assert sum(row["queries"] for row in before["presence_daily"]) == 3 * 11
            assert {(row["in_time"], row["late"]) for row in before["answer_deadline"]} == {(3, 3), (3, 0)}
            assert sum(row["owed"] for row in before["notification_deadline"]) == 12
            assert sum(row["attempts"] for row in before["delivery_attempt_daily"]) == 24
            assert {row["mean_latency_ms"] for row in before["delivery_attempt_daily"]} == {7, 30}

            watching = asyncio.create_task(watch(database, before["presence_daily"]))
            await seal_all(connection)
            assert await read_reports(connection) == before
            assert await app.fetchval("SELECT registry.fold_movements()") is True
            assert await read_reports(connection) == before
            assert await connection.fetchval("SELECT count(*) FROM registry.delivered_day") == 7
            for family in FAMILIES:
                dropped = []
                while day := await app.fetchval("SELECT registry.drop_part($1)", family):
                    dropped.append(day)
                    assert await read_reports(connection) == before
                # Its last call took what lay in the default partition with it.
                assert dropped == parts(family, day_before(LONG_AGO), day_before(1))[1:]
                assert await connection.fetchval(f"SELECT count(*) FROM registry.{family}_default") == 0
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching

    asyncio.run(run())


def test_a_delivery_that_comes_after_its_partition_went_is_counted(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            await since(connection, LONG_AGO)
            await keep(connection, 1)
            await leave_deliveries(connection, messenger_id, at_noon(day_before(LONG_AGO)))
            await keep_days(db)
            before = await read_reports(connection)
            await leave_deliveries(connection, messenger_id, at_noon(day_before(LONG_AGO)), wait=timedelta(minutes=21))
            after = await read_reports(connection)
            for name, sums in {
                "notification_deadline": {"owed": 1, "in_time": 0, "late": 1},
                "delivery_attempt_daily": {"attempts": 2, "notifications": 3},
            }.items():
                total = {column: sum(row[column] for row in after[name]) - sum(row[column] for row in before[name]) for column in sums}
                assert total == sums, name
            assert max(row["worst_delay"] for row in after["notification_deadline"]) == timedelta(minutes=21)
            state = {row["family"]: row["unplaced_rows"] for row in await connection.fetch("SELECT * FROM registry.retention_state()")}
            assert state == {"journal_page": 0, "notification_delivered": 1, "delivery_attempt": 2}
            await keep_days(db)
            assert await read_reports(connection) == after
            assert {row["unplaced_rows"] for row in await connection.fetch("SELECT * FROM registry.retention_state()")} == {0}

    asyncio.run(run())


def test_a_partition_goes_once_all_of_it_is_over_and_pages_once_they_are_sealed(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            await since(connection, LONG_AGO)
            await keep(connection, 1)
            assert await app.fetchval("SELECT registry.drop_part('journal_page')") is None, "nothing is sealed"
            await seal_all(connection)
            expected = parts("journal_page", day_before(LONG_AGO), day_before(1))
            assert [await app.fetchval("SELECT registry.drop_part('journal_page')") for _ in expected] == expected
            for family in ("journal_page", "contract", None):
                assert await app.fetchval("SELECT registry.drop_part($1)", family) is None
            # What the policy still keeps of a week keeps the whole week.
            assert (await parts_of(connection, "journal_page"))[0] == part_of("journal_page", day_before(1))

    asyncio.run(run())


def test_the_policy_in_force_says_what_goes_and_is_read_each_time(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await since(connection, LONG_AGO, sealed=True)
            first = {family: part_of(family, day_before(LONG_AGO)) for family in FAMILIES}

            async def first_parts() -> dict[str, date]:
                return {family: (await parts_of(connection, family))[0] for family in FAMILIES}

            await keep_days(db)  # three years
            planned = 'SELECT registry.change_policy(\'{"journal_kept": "1 day", "notification_kept": "1 day"}\', $1, \'planned\')'
            await connection.execute(planned, datetime.now(UTC) + timedelta(days=2))
            await keep_days(db)
            assert await first_parts() == first
            await keep(connection, 31)
            await keep_days(db)  # one partition a call
            assert (await first_parts())["journal_page"] == first["journal_page"] + timedelta(days=7)
            for _ in range(3):
                await keep_days(db)
            kept = {family: max(part_of(family, day_before(31)), first[family]) for family in FAMILIES}
            assert await first_parts() == kept
            await keep(connection, 40)  # a longer one keeps what is there
            await keep_days(db)
            await rewrite_policy(connection, "effective_from = effective_from + interval '100 years'")  # none is in force
            await keep_days(db)
            assert await first_parts() == kept

    asyncio.run(run())


def test_partitions_are_made_a_week_ahead_and_three_years_of_all_are_below_500(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            made = await connection.fetchval("SELECT count(*) FROM registry.day_partition")
            assert await days.make_partitions(db) == 0
            assert await connection.fetchval("SELECT registry.make_partitions(current_date - 1095, 1103)") > 200
            assert 200 < await connection.fetchval("SELECT count(*) FROM registry.day_partition") < 500
            for family in FAMILIES:
                there = await parts_of(connection, family)
                assert part_of(family, day_before(0)) in there
                assert part_of(family, day_before(-days.DAYS_AHEAD)) == there[-1]
            assert made in range(5, 8)
            # A page of 400 queries of 100 messengers lies in one piece.
            options = await connection.fetch(
                "SELECT DISTINCT reloptions FROM pg_class WHERE oid IN (SELECT partition FROM registry.day_partition)"
            )
            assert [row["reloptions"] for row in options] == [["toast_tuple_target=8160"]]

    asyncio.run(run())


def test_no_partition_is_truncated_by_its_own_name(shared: TestDatabase) -> None:
    async def run() -> None:
        async with shared.connect() as connection:
            made = [row["name"] for row in await connection.fetch("SELECT partition::text AS name FROM registry.day_partition")]
            assert len(made) >= 4
            for name in (*made, *(f"registry.{family}_default" for family in FAMILIES)):
                with pytest.raises(asyncpg.RestrictViolationError, match="it is evidence"):
                    await connection.execute(f"TRUNCATE {name}")

    asyncio.run(run())


def test_an_abused_daemon_cannot_make_evidence_vanish_before_its_time(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            await since(connection, 10, sealed=True)
            partition = f"registry.journal_page_{part_of('journal_page', day_before(10)):%Y%m%d}"
            # What a session may set or make of its own does not move the horizon.
            await app.execute(
                "SET timezone = 'Etc/GMT+12'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET search_path = pg_temp; "
                "CREATE TEMPORARY TABLE policy AS SELECT now() AS effective_from, interval '1 day' AS journal_kept; "
                "CREATE TEMPORARY TABLE partitioned (family text, key text, period text)"
            )
            assert await app.fetchval("SELECT registry.drop_part('journal_page')") is None
            for attempt in (
                f"DROP TABLE {partition}",
                f"ALTER TABLE registry.journal_page DETACH PARTITION {partition}",
                f"DELETE FROM {partition}",
                f"TRUNCATE {partition}",
                f"ALTER TABLE {partition} DISABLE TRIGGER ALL",
                "INSERT INTO registry.policy DEFAULT VALUES",
                "UPDATE registry.presence_day SET queries = 0",
                "UPDATE registry.delivered_day SET late = 0",
                "SELECT registry.forget_seals(current_date)",
                "SELECT registry.kept_from('journal_page')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await app.execute(attempt)
            assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", partition)

    asyncio.run(run())


def test_one_process_keeps_the_days_and_the_others_skip(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as busy, database.pool() as db, database.pool() as other:
            await since(connection, LONG_AGO, sealed=True)
            await keep(connection, 1)
            there = await parts_of(connection, "journal_page")
            async with busy.transaction():
                await busy.execute("SELECT pg_advisory_xact_lock(hashtextextended('registry.retention', 0))")
                await keep_days(db)  # comes back at once, with nothing dropped
                assert await parts_of(connection, "journal_page") == there
            await asyncio.gather(*(keep_days(pool) for pool in (db, other) for _ in range(3)))
            for _ in there:  # one partition a call
                await keep_days(db)
            assert (await parts_of(connection, "journal_page"))[0] == part_of("journal_page", day_before(1))

    asyncio.run(run())


def test_a_drop_gives_way_to_the_queries_and_comes_later(database: TestDatabase) -> None:
    async def run() -> None:
        async with (
            database.connect() as connection,
            database.connect() as writer,
            database.connect("registryd_app") as app,
            database.pool() as db,
        ):
            (messenger_id,) = await add_messengers(connection, 1)
            await since(connection, LONG_AGO, sealed=True)
            await keep(connection, 1)
            transaction = writer.transaction()
            await transaction.start()
            await write_page(writer, datetime.now(UTC), messenger_id)
            dropping = asyncio.create_task(app.fetchval("SELECT registry.drop_part('journal_page')"))
            # All the while it cannot have its lock, queries are answered: it stands before none of them for longer than its patience.
            answered = 0
            while not dropping.done():
                await ask(db, messenger_id, (FIRST, None))
                answered += 1
            assert await dropping is None
            assert answered >= 8
            first = part_of("journal_page", day_before(LONG_AGO))
            assert first in await parts_of(connection, "journal_page")
            await transaction.commit()
            assert await app.fetchval("SELECT registry.drop_part('journal_page')") == first

    asyncio.run(run())


def test_what_should_be_zero_is_told(database: TestDatabase, capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        observe.configure("info")
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            await since(connection, LONG_AGO, sealed=True)
            await keep(connection, 1)
            await leave_evidence(connection, messenger_id, datetime(2099, 1, 1, tzinfo=UTC))
            await keep_days(db)

    asyncio.run(run())
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(e["event"], e["family"], e["rows"]) for e in told if e["event"] == "rows_unplaced"] == [
        ("rows_unplaced", family, 2 if family == "delivery_attempt" else 1) for family in sorted(FAMILIES)
    ]
    first = {family: part_of(family, day_before(LONG_AGO)).isoformat() for family in FAMILIES}
    assert {e["family"]: e["day"] for e in told if e["event"] == "partition_dropped"} == first
    metrics = asyncio.run(exposition.exposition()).decode()
    assert 'registryd_unplaced_rows{family="journal_page"} 1.0' in metrics
    left = len(parts("journal_page", day_before(LONG_AGO), day_before(1))) - 1
    assert f'registryd_partitions_over{{family="journal_page"}} {left}.0' in metrics


def test_the_daemon_itself_seals_and_drops_what_the_policy_no_longer_keeps(site: Site) -> None:
    async def prepare() -> None:
        async with site.database.connect() as connection:
            await since(connection, 10)
            await keep(connection, 1)

    asyncio.run(prepare())
    with daemon(site, "operate") as running:
        wait_for(
            lambda: site.database.psql("-tAc", "SELECT max(until_at) > now() - interval '61 minutes' FROM registry.seal").stdout == "t\n"
        )
        assert running.stop() == 0
    with daemon(site, "operate") as running:
        told = wait_for(lambda: [e for e in running.log() if e["event"] == "partition_dropped"] and running.log())
        assert {(e["family"], e["day"]) for e in told if e["event"] == "partition_dropped"} >= {
            ("journal_page", part_of("journal_page", day_before(10)).isoformat())
        }
        assert running.stop() == 0
        assert not [e for e in running.log() if e["event"] in ("background_failed", "database_away")]
