"""Days are closed, kept as figures and dropped by policy: no report ever loses one, no query waits for it, nobody hastens it."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from registryd import observe
from registryd.domain.identifiers import MessengerId, Msisdn, query_id, time_ordered_id
from registryd.domain.presence import PresenceQuery
from registryd.keep.days import keep_days
from registryd.store import journal, presence
from registryd.store.journal import FAMILIES
from registryd.store.pool import PROBES
from tests.conftest import Site, TestDatabase, daemon, rewrite_policy, wait_for
from tests.store.conftest import FIRST, Connection, add_messengers, ask, explaining, waits

NOON = timedelta(hours=12)
REPORTS = ("presence_daily", "answer_deadline", "notification_deadline", "delivery_attempt_daily")


def day_before(days: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=days)


def at_noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


async def since(connection: Connection, days: int) -> None:
    """As if the registry had been started so many days ago: a partition for each, none closed."""
    await connection.execute("UPDATE registry.retention SET closed_through = $1", day_before(days + 1))
    await connection.execute("SELECT registry.make_partitions($1, $2)", day_before(days), days + 1)


async def keep(connection: Connection, days: int, since: timedelta = timedelta(0)) -> None:
    """A new row of the policy, in force from `since` ago."""
    await connection.execute(
        "INSERT INTO registry.policy SELECT now() - $2::interval, answer_within, notice_within, organisation_rule, suspended_is_present, "
        "$1, $1, 'a test' FROM registry.policy_in_force(now())",
        timedelta(days=days),
        since,
    )


async def leave_evidence(connection: Connection, messenger_id: int, at: datetime, wait: timedelta = timedelta(seconds=1)) -> None:
    """A page of three queries, a delivery and an attempt at a time, `wait` after their query or the contract's end."""
    await connection.execute(
        "INSERT INTO registry.journal_page "
        "(page_id, received_at, answered_at, messenger_id, queries, present_count, digest_key, digests, present) "
        "VALUES ($4, $1::timestamptz - $3::interval, $1, $2, 3, 2, 1, decode(repeat('ab', 48), 'hex'), B'110')",
        at,
        messenger_id,
        wait,
        time_ordered_id(int(at.timestamp() * 1000), secrets.token_bytes(10)),
    )
    await connection.execute(
        "INSERT INTO registry.notification_delivered VALUES ($2, 1, 1, $1::timestamptz + '1 minute' - $3::interval / 2, "
        "registry.id_at($1), 79160000000, $1::timestamptz - $3::interval, $1, $1, 'push', 'u')",
        at,
        messenger_id,
        wait,
    )
    await connection.execute(
        "INSERT INTO registry.delivery_attempt VALUES "
        "($2, $1, 2, 'acknowledged', 204, 7, NULL), ($2, $1, 1, 'failed', NULL, 30, 'timeout')",
        at,
        messenger_id,
    )


async def read_reports(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    return {name: [dict(row) for row in await connection.fetch(f"SELECT * FROM report.{name} ORDER BY 1, 2, 3, 4")] for name in REPORTS}


async def days_of(connection: Connection, family: str) -> list[date]:
    return [row["day"] for row in await connection.fetch("SELECT day FROM registry.day_partition WHERE family = $1 ORDER BY day", family)]


async def watch(database: TestDatabase, expected: list[dict[str, Any]]) -> None:
    """Reads a report as its role does, again and again until cancelled, while days are closed and dropped under it."""
    async with database.connect("registryd_report") as connection:
        while True:
            rows = await connection.fetch("SELECT * FROM report.presence_daily ORDER BY 1, 2, 3, 4")
            assert [dict(row) for row in rows] == expected


def test_no_report_changes_while_days_are_closed_and_dropped(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            one, other = await add_messengers(connection, 2)
            await since(connection, 5)
            await keep(connection, 2)
            for family in FAMILIES:  # a day that nobody made ahead: its rows lie in the default partition
                await connection.execute(f"DROP TABLE registry.{family}_{day_before(4):%Y%m%d}")
            for days in range(6):
                await leave_evidence(connection, one, at_noon(day_before(days)))
                await leave_evidence(connection, one, at_noon(day_before(days)), wait=timedelta(minutes=21))
            # Received before midnight and journaled after it; a clock that is wrong; a time before any policy.
            await leave_evidence(connection, other, at_noon(day_before(3)) - NOON + timedelta(seconds=1), wait=timedelta(seconds=2))
            await leave_evidence(connection, other, at_noon(day_before(40)))
            await leave_evidence(connection, other, at_noon(date(2021, 1, 1)))
            before = await read_reports(connection)
            assert sum(row["queries"] for row in before["presence_daily"]) == 3 * 15
            assert sum(row["queries"] for row in before["answer_deadline"]) == 3 * 14
            assert {(row["in_time"], row["late"]) for row in before["answer_deadline"]} >= {(3, 3)}
            assert sum(row["owed"] for row in before["notification_deadline"]) == 15
            assert sum(row["attempts"] for row in before["delivery_attempt_daily"]) == 30
            assert {row["mean_latency_ms"] for row in before["delivery_attempt_daily"]} == {7, 30}

            watching = asyncio.create_task(watch(database, before["presence_daily"]))
            closed, dropped = set(), set()
            for family in FAMILIES:
                while day := await app.fetchval("SELECT registry.close_day($1)", family):
                    closed.add((family, day))
                    assert await read_reports(connection) == before
                while day := await app.fetchval("SELECT registry.drop_day($1)", family):
                    dropped.add((family, day))
                    assert await read_reports(connection) == before
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
            over = datetime.now(UTC) - timedelta(hours=1)
            assert closed == {
                (family, day_before(days)) for family in FAMILIES for days in range(1 if over.date() == day_before(0) else 2, 6)
            }
            assert dropped == {(family, day_before(days)) for family in FAMILIES for days in (3, 4, 5)}
            # Nothing is left but the figures of what went: the default partition's old rows too.
            for family in FAMILIES:
                assert await connection.fetchval(f"SELECT count(*) FROM registry.{family}_default") == 0
                assert (await days_of(connection, family))[0] == day_before(2)

    asyncio.run(run())


def test_a_row_that_comes_after_its_day_was_closed_or_dropped_is_counted(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            await since(connection, 4)
            await keep(connection, 2)
            for days in (2, 4):
                await leave_evidence(connection, messenger_id, at_noon(day_before(days)))
            await keep_days(db)
            for days in (2, 4):
                before = await read_reports(connection)
                await leave_evidence(connection, messenger_id, at_noon(day_before(days)), wait=timedelta(minutes=21))
                after = await read_reports(connection)
                for name, sums in {
                    "presence_daily": {"queries": 3, "present": 2, "absent": 1},
                    "answer_deadline": {"queries": 3, "in_time": 0, "late": 3},
                    "notification_deadline": {"owed": 1, "in_time": 0, "late": 1},
                    "delivery_attempt_daily": {"attempts": 2, "notifications": 3},
                }.items():
                    rows = {column: [sum(row[column] for row in shown[name]) for shown in (before, after)] for column in sums}
                    assert {column: found[1] - found[0] for column, found in rows.items()} == sums
                    assert {row["day"] for row in after[name]} == {row["day"] for row in before[name]}
            # Those of a day that is gone lie in the default partition, get no partition anew, and go with their figures kept.
            assert await connection.fetchval("SELECT registry.make_partitions($1, 1)", day_before(4)) == 0
            state = {row["family"]: row["unplaced_rows"] for row in await connection.fetch("SELECT * FROM registry.retention_state()")}
            assert state == {"journal_page": 1, "notification_delivered": 1, "delivery_attempt": 2}
            before = await read_reports(connection)
            await keep_days(db)
            assert await read_reports(connection) == before
            assert {row["unplaced_rows"] for row in await connection.fetch("SELECT * FROM registry.retention_state()")} == {0}

    asyncio.run(run())


def test_a_page_of_the_daemons_own_counts_in_a_closed_day(database: TestDatabase) -> None:
    """Through the daemon's role and statement: one row a page, whatever partition it goes to."""

    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            await since(connection, 3)
            await keep_days(db)
            page_id = time_ordered_id(int(at_noon(day_before(3)).timestamp() * 1000), secrets.token_bytes(10))
            page = presence.Page(page_id, at_noon(day_before(3)), MessengerId(messenger_id))
            page.add([PresenceQuery(Msisdn(FIRST)), PresenceQuery(Msisdn(FIRST + 1))], bytes(32))
            await presence.answer(db, [page], 1)
            assert await connection.fetchval("SELECT queries FROM registry.presence_day WHERE day = $1", day_before(3)) == 2
            assert await connection.fetchval("SELECT queries FROM report.presence_daily") == 2

    asyncio.run(run())


def test_closing_waits_for_who_is_writing_the_day_and_counts_it(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as writer, database.connect("registryd_app") as app:
            (messenger_id,) = await add_messengers(connection, 1)
            await since(connection, 2)
            transaction = writer.transaction()
            await transaction.start()
            await leave_evidence(writer, messenger_id, at_noon(day_before(2)))
            closing = asyncio.create_task(app.fetchval("SELECT registry.close_day('journal_page')"))
            await waits(connection, app.get_server_pid())
            await transaction.commit()
            assert await closing == day_before(2)
            assert await connection.fetchval("SELECT sum(queries) FROM registry.presence_day") == 3
            for isolation in ("repeatable_read", "serializable"):
                with pytest.raises(asyncpg.PostgresError, match="READ COMMITTED"):
                    async with app.transaction(isolation=isolation):
                        await app.fetchval("SELECT registry.close_day('journal_page')")

    asyncio.run(run())


def test_a_day_is_closed_only_when_it_is_over_and_dropped_only_when_closed(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            await since(connection, 3)
            await keep(connection, 1)
            assert await app.fetchval("SELECT registry.drop_day('journal_page')") is None
            while day := await app.fetchval("SELECT registry.close_day('journal_page')"):
                assert day < datetime.now(UTC).date()
            assert await app.fetchval("SELECT registry.drop_day('journal_page')") == day_before(3)
            for call in ("close_day", "drop_day"):
                assert await app.fetchval(f"SELECT registry.{call}('contract')") is None
                assert await app.fetchval(f"SELECT registry.{call}(NULL)") is None

    asyncio.run(run())


def test_the_policy_in_force_says_what_goes_and_is_read_each_time(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await since(connection, 6)
            await keep_days(db)  # three years
            await keep(connection, 1, since=-timedelta(days=1))  # not yet in force
            await keep_days(db)
            assert {len(await days_of(connection, family)) for family in FAMILIES} == {6 + 1 + journal.DAYS_AHEAD}
            await keep(connection, 4)
            for first in (5, 4, 4):  # one day a call
                await keep_days(db)
                assert {(await days_of(connection, family))[0] for family in FAMILIES} == {day_before(first)}
            await keep(connection, 5, since=-timedelta(seconds=0))  # a longer one keeps what is there
            await keep_days(db)
            assert {(await days_of(connection, family))[0] for family in FAMILIES} == {day_before(4)}
            await rewrite_policy(connection, "effective_from = effective_from + interval '100 years'")  # none is in force
            await keep_days(db)
            assert {(await days_of(connection, family))[0] for family in FAMILIES} == {day_before(4)}

    asyncio.run(run())


def test_an_abused_daemon_cannot_make_evidence_vanish_before_its_time(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            await since(connection, 4)
            await connection.execute("SELECT registry.close_day('journal_page') FROM generate_series(1, 4)")
            partition = f"registry.journal_page_{day_before(4):%Y%m%d}"
            # What a session may set or make of its own does not move the horizon.
            await app.execute(
                "SET timezone = 'Etc/GMT+12'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET search_path = pg_temp; "
                "CREATE TEMPORARY TABLE policy AS SELECT now() AS effective_from, interval '1 day' AS journal_kept; "
                "CREATE TEMPORARY TABLE retention (family text, key text, closed_through date)"
            )
            assert await app.fetchval("SELECT registry.drop_day('journal_page')") is None
            for attempt in (
                f"DROP TABLE {partition}",
                f"ALTER TABLE registry.journal_page DETACH PARTITION {partition}",
                f"DELETE FROM {partition}",
                f"TRUNCATE {partition}",
                f"ALTER TABLE {partition} DISABLE TRIGGER ALL",
                "INSERT INTO registry.policy DEFAULT VALUES",
                "UPDATE registry.retention SET closed_through = '2099-01-01'",
                "UPDATE registry.presence_day SET queries = 0",
                "SELECT registry.count_late_entry()",
                "SELECT registry.kept_from('journal_page')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await app.execute(attempt)
            assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", partition)

    asyncio.run(run())


def test_one_worker_keeps_the_days_and_the_others_skip(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect() as busy, database.pool() as db, database.pool() as other:
            await since(connection, 4)
            await keep(connection, 1)
            transaction = busy.transaction()
            await transaction.start()
            assert await busy.fetchval("SELECT registry.close_day('journal_page')") == day_before(4)
            await keep_days(db)  # comes back at once, with nothing done
            assert {(await days_of(connection, family))[0] for family in FAMILIES} == {day_before(4)}
            await transaction.commit()
            await asyncio.gather(*(keep_days(pool) for pool in (db, other) for _ in range(3)))
            await keep_days(db)
            assert await connection.fetchval("SELECT min(closed_through) FROM registry.retention") >= day_before(2)

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
            await since(connection, 3)
            await keep(connection, 1)
            while await app.fetchval("SELECT registry.close_day('journal_page')"):
                pass
            transaction = writer.transaction()
            await transaction.start()
            await leave_evidence(writer, messenger_id, datetime.now(UTC))
            dropping = asyncio.create_task(app.fetchval("SELECT registry.drop_day('journal_page')"))
            # All the while it cannot have its lock, queries are answered: it stands before none of them for longer than its patience.
            answered = 0
            while not dropping.done():
                await ask(db, messenger_id, (FIRST, None))
                answered += 1
            assert await dropping is None
            assert answered >= 8
            assert day_before(3) in await days_of(connection, "journal_page")
            await transaction.commit()
            assert await app.fetchval("SELECT registry.drop_day('journal_page')") == day_before(3)

    asyncio.run(run())


def test_a_query_is_found_and_journaled_in_one_partition_of_thirty(shared: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(shared, PROBES) as explained:
            connection = explained.connection
            await since(connection, 29)
            (messenger_id,) = await add_messengers(connection, 1)
            await leave_evidence(connection, messenger_id, at_noon(day_before(20)))
            page_id = await connection.fetchval(f"SELECT page_id FROM registry.journal_page_{day_before(20):%Y%m%d}")
            name = f"journal_page_{day_before(20):%Y%m%d}"
            wanted = UUID(query_id(str(page_id), 2))
            for text, argument in (
                ("SELECT * FROM registry.find_query($1)", wanted),
                ("SELECT q.* FROM unnest($1::uuid[]) AS id, registry.find_query(id) AS q", [wanted]),
                (f"SELECT * FROM registry.find_query('{wanted}') WHERE $1", True),
            ):
                statement = await connection.prepare(text)
                for _ in range(7):  # past the five that PostgreSQL plans anew before it keeps a plan
                    explained.told.clear()
                    (found,) = await statement.fetch(argument)
                    assert (found["query_id"], found["present"], found["messenger_id"]) == (wanted, False, messenger_id)
                (probe,) = await explained.plans("FROM registry.journal_page AS p")
                (scan,) = probe.nodes
                assert (scan["Node Type"], scan["Relation Name"], scan["Index Name"]) == ("Index Scan", name, f"{name}_pkey")
                assert scan["Index Cond"].startswith("(page_id = ")
        # What a plan would hide is what it locks: journaling a page opens that day's partition and no other.
        async with shared.connect() as look, shared.pool(1) as db, db.transaction() as own:
            await since(look, 29)
            page = time_ordered_id(int(datetime.now(UTC).timestamp() * 1000), secrets.token_bytes(10))
            await own.fetch(presence.ANSWER.sql, [FIRST], [0], [page], [datetime.now(UTC)], [1], [bytes(16)], 1)
            locked = await look.fetch(
                "SELECT d.day FROM pg_locks AS l JOIN registry.day_partition AS d ON d.partition = l.relation WHERE l.pid = $1",
                own.get_server_pid(),
            )
            assert [row["day"] for row in locked] == [datetime.now(UTC).date()]

    asyncio.run(run())


PAGES = 400


@pytest.mark.parametrize("sizes", [(20, 40, 60), (1000,)], ids=["groups", "batches"])
def test_a_query_costs_at_most_25_bytes_of_journal(
    database: TestDatabase, sizes: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> float:
        queries = 0
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            await connection.execute("SELECT registry.make_partitions('2031-05-01', 1)")
            began = int(at_noon(date(2031, 5, 1)).timestamp() * 1000)
            for n in range(PAGES):
                size = sizes[n % len(sizes)]
                page_id = time_ordered_id(began + n * 5, secrets.token_bytes(10))
                page = presence.Page(page_id, datetime.now(UTC), MessengerId(messenger_id))
                page.add([PresenceQuery(Msisdn(FIRST + i)) for i in range(size)], secrets.token_bytes(16 * size))
                await presence.answer(db, [page], 1)
                queries += size
            return int(await connection.fetchval("SELECT pg_total_relation_size('registry.journal_page_20310501')")) / queries

    cost = asyncio.run(run())
    with capsys.disabled():
        sys.stdout.write(f" {cost:.1f} bytes a query ")
    assert 16 < cost <= 25


def test_what_should_be_zero_is_told(database: TestDatabase, capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        observe.configure("info")
        async with database.connect() as connection, database.pool() as db:
            (messenger_id,) = await add_messengers(connection, 1)
            await since(connection, 4)
            await keep(connection, 1)
            await leave_evidence(connection, messenger_id, datetime(2099, 1, 1, tzinfo=UTC))
            await keep_days(db)

    asyncio.run(run())
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(e["event"], e["family"], e["rows"]) for e in told if e["event"] == "rows_unplaced"] == [
        ("rows_unplaced", family, 2 if family == "delivery_attempt" else 1) for family in sorted(FAMILIES)
    ]
    assert [(e["family"], e["day"]) for e in told if e["event"] == "day_dropped"] == [(f, day_before(4).isoformat()) for f in FAMILIES]
    metrics = observe.exposition().decode()
    assert 'registryd_unplaced_rows{family="journal_page"} 1.0' in metrics
    assert 'registryd_days_over{family="journal_page"} 2.0' in metrics


def test_the_daemon_itself_drops_what_the_policy_no_longer_keeps(site: Site) -> None:
    async def prepare() -> None:
        async with site.database.connect() as connection:
            await since(connection, 3)
            await keep(connection, 1)

    asyncio.run(prepare())
    with daemon(site) as running:
        told = wait_for(lambda: [e for e in running.log() if e["event"] == "day_dropped"][2:] and running.log())
        assert {(e["family"], e["day"]) for e in told if e["event"] == "day_dropped"} == {(f, day_before(3).isoformat()) for f in FAMILIES}
        assert running.stop() == 0
        assert not [e for e in running.log() if e["event"] in ("background_failed", "database_away")]
