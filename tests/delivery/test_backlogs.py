"""The watch over backlogs: it shows each as it is, alarms once a crossing whichever process looks, and costs the same before millions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from registryd import observe
from registryd.keep.backlogs import BacklogWatch
from registryd.store import backlogs as store
from tests.conftest import Site, daemon, eventually
from tests.delivery.conftest import DAY, delivering, listening, looking

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def metrics_of_this_test() -> Iterator[None]:
    yield
    for gauge in observe.BACKLOG:
        gauge.clear()


def shown(name: str, messenger: str = "messenger") -> float | None:
    return observe.METRICS.get_sample_value(name, {"messenger": messenger})


def low(log: list[Any]) -> list[float]:
    """Below which slack each alarm was raised, in hours."""
    return [line["below_h"] for line in log if line["event"] == "slack_low"]


def test_a_look_that_took_long_is_not_repeated_at_once(site: Site) -> None:
    times = iter((0.0, 3.0, 3.0, 10.0, 33.1, 33.2, 33.2))

    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger = await site.add_messenger()
            watch = BacklogWatch(db, lambda: next(times))
            await watch.look()
            await database.owe(messenger, "a")
            await watch.look()
            assert shown("registryd_notifications_pending") == 0, "a look of 3 s is followed by a rest of 30"
            await watch.look()
            assert shown("registryd_notifications_pending") == 1

    asyncio.run(run())


def test_metrics_tell_each_backlog_as_it_is(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            owing = await site.add_messenger("owing", "http://127.0.0.1:9/")
            await site.add_messenger("idle")
            await database.owe(owing, "late", first=1_000_001, deadline_in=-HOUR)
            await database.owe(owing, "b", "c", first=2_000_001, deadline_in=5 * HOUR)
            await database.run(
                "INSERT INTO registry.delivery_attempt VALUES ($1, now() - interval '1 minute', 30, 'acknowledged', 204, 5),"
                " ($1, now() - interval '2 minutes', 9, 'failed', 500, 5), ($1, now() - interval '6 minutes', 9, 'acknowledged', 204, 5)",
                owing.messenger_id,
            )
            await database.run("UPDATE registry.lane SET gate_until = now(), failures = 1 WHERE messenger_id = $1", owing.messenger_id)
            with capture_logs():
                await BacklogWatch(db).look()
            assert (shown("registryd_notifications_pending", "owing"), shown("registryd_notifications_overdue", "owing")) == (3, 1)
            assert shown("registryd_notifications_slack_seconds", "owing") == pytest.approx(-3600, abs=20)
            assert shown("registryd_notifications_oldest_age_seconds", "owing") == pytest.approx(0, abs=20)
            assert shown("registryd_notifications_eta_seconds", "owing") == pytest.approx(3 / (30 / 300))
            assert shown("registryd_lane_gated", "owing") == 1
            assert (shown("registryd_notifications_pending", "idle"), shown("registryd_notifications_eta_seconds", "idle")) == (0, 0)
            assert shown("registryd_notifications_slack_seconds", "idle") == float("inf")
            assert shown("registryd_lane_gated", "idle") == 0

    asyncio.run(run())


def test_an_alarm_is_raised_once_a_crossing_and_again_only_after_the_slack_was_above(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger = await site.add_messenger()
            await database.bind(messenger, "fresh", "hours", "overdue")

            async def alarmed(code: str | None = None, slack: timedelta = DAY) -> list[float]:
                if code is not None:
                    await database.terminate(code, await database.value("SELECT now() - $1::interval", DAY - slack))
                with capture_logs() as log:
                    await BacklogWatch(db).look()
                    await BacklogWatch(db).look()
                return low(log)

            assert await alarmed() == []
            assert await alarmed("fresh", 23 * HOUR) == []
            assert await alarmed("hours", 11 * HOUR) == [22, 12]
            assert await alarmed("overdue", -HOUR) == [1, 0]
            ids = [await database.id_of(code) for code in ("hours", "overdue")]
            await database.run("SELECT registry.settle_delivered($1, $2, 'pull')", messenger.messenger_id, ids)
            assert await alarmed() == []
            await database.run("""SELECT registry.change_policy('{"alarm_slack": ["23:30", "1:00"]}', now(), 'sooner')""")
            assert await alarmed() == [23.5]

    asyncio.run(run())


def test_the_second_channel_is_called_for_once_when_pushes_have_failed_for_six_hours(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint="http://127.0.0.1:9/")
            await database.owe(messenger, "a")
            await database.run("UPDATE registry.lane SET gate_until = now(), failures = 9, last_error = 'no connection'")
            with capture_logs() as log:
                await BacklogWatch(db).look()
                await database.run("UPDATE registry.notification SET recorded_at = now() - interval '7 hours'")
                await BacklogWatch(db).look()
                await BacklogWatch(db).look()
            assert [(line["messenger"], line["error"]) for line in log if line["event"] == "second_channel_due"] == [
                ("messenger", "no connection")
            ]

    asyncio.run(run())


def test_a_backlog_is_counted_to_a_bound_and_estimated_beyond_it(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            messenger = await site.add_messenger()
            await database.run(
                "INSERT INTO registry.notification (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at,"
                " identification_code) SELECT $1, 1, d, registry.id_at(d), 79160000000 + n, d - interval '1 day', 'u' || n"
                " FROM generate_series(1, 30000) AS n, LATERAL (SELECT date_trunc('milliseconds', now()) - n * interval '1 s' AS d) AS at",
                messenger.messenger_id,
            )
            await database.run(
                "INSERT INTO registry.delivery_attempt SELECT $1, now() - n * interval '1 ms', 1, 'acknowledged', 204, 5"
                " FROM generate_series(1, 9000) AS n",
                messenger.messenger_id,
            )
        async with site.database.pool() as db:
            [backlog] = await store.read(db)
            # The table fits the sample whole, so that the estimate is exact; the overdue ones are told to the bound.
            assert (backlog.pending, backlog.overdue, backlog.replayed) == (30_000, store.COUNTED_MAX, 0)
            assert backlog.received == 2000
            assert backlog.per_second == pytest.approx(1000, rel=0.5)

    asyncio.run(run())


def test_every_field_of_a_backlog_is_read(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db:
            await site.add_messenger()
            [backlog] = await store.read(db)
            nothing: tuple[Any, ...] = (
                False,
                0,
                0,
                0,
                0,
                0,
                False,
                None,
                None,
                0,
                timedelta(minutes=5),
                False,
                None,
                None,
                [],
                False,
                False,
            )
            assert tuple(backlog) == (backlog.messenger_id, "messenger", *nothing, backlog.seen_at)

    asyncio.run(run())


def test_an_alarm_is_told_once_whichever_process_sees_it_and_whoever_restarts(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger = await site.add_messenger()
            await database.owe(messenger, "a", deadline_in=HOUR / 2)
            with capture_logs() as log:
                await asyncio.gather(*(BacklogWatch(db).look() for _ in range(4)))
                await BacklogWatch(db).look()
            assert low(log) == [22, 12, 1]

    asyncio.run(run())


def test_the_daemon_watches_backlogs(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            messenger = await site.add_messenger()
            await database.owe(messenger, "a", deadline_in=HOUR / 2)
            with daemon(site, "operate") as running:
                await eventually(lambda: 'registryd_notifications_pending{messenger="messenger"} 1.0' in running.metrics())
                await eventually(lambda: low(running.log()) == [22, 12, 1])
                assert running.stop() == 0

    asyncio.run(run())


def test_delivering_again_is_not_late(site: Site) -> None:
    """A replayed notification's deadline may be long past; only a first delivery can be late."""

    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a", deadline_in=-HOUR)
            await database.run("UPDATE registry.notification SET replayed = true")
            with capture_logs() as log:
                async with delivering(site):
                    await eventually(database.none_pending)
            assert not [line for line in log if line["event"] == "notification_overdue"]
            assert endpoint.codes == ["a"]

    asyncio.run(run())


def test_content_that_is_overdue_and_refused_is_told_as_such_and_hides_no_other_alarm(site: Site) -> None:
    async def run() -> None:
        async with site.database.pool() as db, looking(site.database) as database:
            messenger = await site.add_messenger("owing", "http://127.0.0.1:9/")
            await database.owe(messenger, "poison", "gone", first=1_000_001, deadline_in=-HOUR)
            await database.run("UPDATE registry.notification SET attempts = 9, last_error = 'status 422'")

            async def told() -> tuple[list[tuple[str, int]], list[float]]:
                with capture_logs() as log:
                    await BacklogWatch(db).look()
                    await BacklogWatch(db).look()
                refused = [(line["messenger"], line["notifications"]) for line in log if line["event"] == "content_refused"]
                return refused, low(log)

            assert await told() == ([("owing", 2)], [])
            await database.owe(messenger, "fresh", first=2_000_001, deadline_in=23 * HOUR)
            assert await told() == ([], [])
            await database.owe(messenger, "late", first=3_000_001, deadline_in=-HOUR)
            assert await told() == ([], [22, 12, 1, 0]), "what is not refused raises its own alarm"
            assert (shown("registryd_notifications_refused", "owing"), shown("registryd_notifications_overdue", "owing")) == (2, 3)
            assert await database.rows("SELECT overdue, refused FROM report.notification_backlog") == [(3, 2)]
            await database.run(
                "SELECT registry.settle_delivered($1, array_agg(notification_id), 'pull') FROM registry.notification",
                messenger.messenger_id,
            )
            assert await told() == ([], [])
            await database.owe(messenger, "again", first=4_000_001, deadline_in=-HOUR)
            await database.run("UPDATE registry.notification SET attempts = 9, last_error = 'status 400'")
            assert await told() == ([("owing", 1)], [])

    asyncio.run(run())
