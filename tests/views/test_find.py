"""What an id or a name stands for, and the views of schema report."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from registryd.domain.testnumbers import ID_PREFIX
from registryd.store.pool import Database
from registryd.views import find, reports
from registryd.views.find import Found
from registryd.views.shape import NothingThere, encode
from tests.conftest import TestDatabase
from tests.store.conftest import ask
from tests.views.conftest import CODE, FIRST, seen


def found(crowd: TestDatabase, text: str) -> Found:
    return seen(crowd, lambda db: find.find(db, text))


def owed(crowd: TestDatabase) -> str:
    """The id of an overdue notification."""

    async def run() -> str:
        async with crowd.connect() as dba:
            return str(await dba.fetchval("SELECT notification_id FROM registry.notification WHERE deadline_at < now() LIMIT 1"))

    return asyncio.run(run())


def test_a_notification_is_explained_without_its_number_or_code(crowd: TestDatabase) -> None:
    wanted = owed(crowd)
    told = found(crowd, wanted.upper())
    assert told.kind == "notification"
    assert told.notification is not None
    known = told.notification
    assert (known.notification_id, known.messenger, known.state, known.verdict) == (wanted, "m001", "pending", "overdue")
    assert (known.number[:6], known.identification_code[:4]) == ("+7916*", "zeb*")
    assert known.life[0].what.startswith("the contract ended (terminated)")
    assert CODE.encode() not in encode(told)
    assert str(FIRST)[:8].encode() not in encode(told)


def test_a_query_and_a_batch_are_found_by_their_ids(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            messenger_id = await dba.fetchval("INSERT INTO registry.messenger (name) VALUES ('alpha') RETURNING messenger_id")
            await dba.execute(
                "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
                f"VALUES ({FIRST}, 1, 'active', 'individual', 'not_required', '2020-01-01')"
            )
            await ask(db, messenger_id, (FIRST, None), (FIRST + 1, None))
            page = await dba.fetchval("SELECT page_id FROM registry.journal_page")
            first, second, beyond = [await find.find(db, str(UUID(int=page.int + place))) for place in range(3)]
            assert (first.kind, second.kind, beyond.kind) == ("batch", "query", "nothing")
            assert first.batch is not None
            assert (first.batch.batch_id, first.batch.queries, first.batch.messengers) == (str(page), 2, ["alpha"])
            assert first.query is not None
            assert second.query is not None
            assert [(q.messenger, q.present, q.bound, q.is_sealed) for q in (first.query, second.query)] == [
                ("alpha", True, False, False),
                ("alpha", False, False, False),
            ]
            assert first.query.waited_seconds == 0.003

    asyncio.run(run())


def test_a_messenger_is_found_by_its_name_with_all_that_concerns_it(crowd: TestDatabase) -> None:
    told = found(crowd, "m003")
    assert told.kind == "messenger"
    assert told.messenger is not None
    assert (told.messenger.messenger, told.messenger.state, told.messenger.lane.state) == ("m003", "active", "healthy")
    assert [a.kind for a in told.messenger.alarms] == ["canary"]
    six = found(crowd, "m006").messenger
    assert six is not None
    assert (six.today.queries, six.today.quota, len(six.today.refusals)) == (1000, 5000, 2)


@pytest.mark.parametrize("text", ["nobody", "", str(UUID(int=0)), "ffffffff-ffff-ffff-ffff-ffffffffffff", str(FIRST), f"{CODE}1", "m0\x00"])
def test_what_nobody_knows_is_nothing(crowd: TestDatabase, text: str) -> None:
    assert found(crowd, text).kind == "nothing"
    assert found(crowd, str(uuid4())).kind == "nothing"


def test_the_id_of_a_test_numbers_answer_is_told_as_that(crowd: TestDatabase) -> None:
    assert found(crowd, f"{ID_PREFIX}00000000000a".upper()).kind == "test"


def test_every_report_is_there_with_its_columns(crowd: TestDatabase) -> None:
    async def run(db: Database) -> list[reports.Report]:
        return [await reports.read(db, report.name) for report in (await reports.list_all(db)).reports]

    every = {report.name: report for report in seen(crowd, run)}
    backlog = every["notification_backlog"]
    assert len(backlog.rows) == 100
    assert not backlog.is_cut
    assert [c.name for c in backlog.columns][:3] == ["messenger", "pending", "overdue"]
    assert all(c.comment and c.type for report in every.values() for c in report.columns)
    assert all(len(row) == len(report.columns) for report in every.values() for row in report.rows)
    assert [row[:3] for row in backlog.rows if row[1]] == [["m001", 4, 3], ["m002", 1, 0]]
    with pytest.raises(NothingThere):
        seen(crowd, lambda db: reports.read(db, "no_such"))


def test_a_long_report_is_cut_and_says_so(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            await dba.execute(
                "INSERT INTO registry.feed_movement (day, type, outcome, events, lag_sum_s, worst_lag) "
                "SELECT '2020-01-01'::date + i, 'activated', 'applied', 1, 1, '1 second' FROM generate_series(1, 1001) AS i"
            )
            told = await reports.read(db, "feed_lag")
            assert (len(told.rows), told.is_cut) == (1000, True)
            assert told.rows[0][:4] == ["2020-01-02", "activated", "applied", 1]

    asyncio.run(run())
