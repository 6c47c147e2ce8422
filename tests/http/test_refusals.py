"""Refusals are evidence: by day, messenger and reason, none lost and none counted twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import MessengerId
from registryd.http.refusals import Refusals
from registryd.store.messengers import Messenger, read_directory
from registryd.store.pool import Database
from tests.conftest import Site, wait_for
from tests.http.conftest import Service, ask
from tests.lost_answers import cut_at_commit


def test_what_was_refused_is_reported_by_day_messenger_and_reason(service: Service) -> None:
    messenger = service.messenger(daily_quota=1)
    two = {"queries": [{"phoneNumber": f"+{number}"} for number in service.contracts(2)]}
    for _ in range(3):
        assert ask(service.api, "POST", "/v1/presence/batch", two, headers=messenger.headers).status == 429
    assert ask(service.api, "POST", "/v1/presence", {"phoneNumber": "none"}, headers=messenger.headers).status == 400

    def reported() -> bool:
        rows = service.sql("SELECT reason, refusals FROM report.refusal_daily WHERE messenger = $1 ORDER BY reason", messenger.name)
        return [tuple(row) for row in rows] == [("invalid", 1), ("quota", 3)]

    wait_for(reported)


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_commit_whose_answer_is_lost_counts_once(site: Site, is_committed: bool) -> None:
    async def story() -> None:
        await site.add_messenger()
        async with cut_at_commit(site.database, is_committed) as (db, cut):
            alpha = await the_messenger(db)
            refusals = Refusals(db)
            for _ in range(5):
                refusals.count(alpha, "queue")
            cut.is_armed = True
            with pytest.raises(Unavailable):
                await refusals.flush()
            refusals.count(alpha, "queue")
            await refusals.flush()
            await refusals.flush()
        async with site.database.connect() as dba:
            assert await dba.fetchval("SELECT sum(refusals) FROM report.refusal_daily") == 6

    asyncio.run(story())


def test_what_a_messenger_was_refused_that_a_dba_deleted_meanwhile_stops_nobody_s(site: Site) -> None:
    async def story() -> None:
        await site.add_messenger()
        async with site.database.pool() as db, site.database.connect() as dba:
            alpha = await the_messenger(db)
            refusals = Refusals(db)
            refusals.count(alpha._replace(messenger_id=MessengerId(alpha.messenger_id + 1_000)), "queue")
            refusals.count(alpha, "queue")
            await refusals.flush()
            assert await dba.fetchval("SELECT sum(refusals) FROM report.refusal_daily") == 1

    asyncio.run(story())


def test_what_was_refused_in_an_outage_counts_on_its_day(site: Site) -> None:
    async def story() -> None:
        await site.add_messenger()
        now = [100_000.0]
        async with site.database.pool() as db, site.database.connect() as dba:
            alpha = await the_messenger(db)
            refusals = Refusals(db, lambda: now[0])
            refusals.count(alpha, "database")
            now[0] += 86_400
            refusals.count(alpha, "database")
            await refusals.flush()
            today = datetime.now(UTC).date()
            days = [row["day"] for row in await dba.fetch("SELECT day FROM report.refusal_daily ORDER BY day")]
            # A slot begins up to five minutes before its counts: just after midnight that is the day before.
            assert len(days) == 2
            assert today - days[1] <= timedelta(days=1)
            assert days[1] - days[0] == timedelta(days=1)

    asyncio.run(story())


async def the_messenger(db: Database) -> Messenger:
    async with db.connection() as connection:
        [messenger], _, _ = await read_directory(connection)
    return messenger
