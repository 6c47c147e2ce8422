"""The daily digest: one a messenger and day, over what was delivered by whatever channel, pushed until received, beside the lane."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from aiohttp.web import Response

from registryd.client.receiver import Ledger, Receipt
from registryd.domain.digest import digest_event, digest_of
from tests.conftest import Site, TestMessenger, daemon, eventually
from tests.delivery.conftest import FIRST_NUMBER, Lookup, Received, delivering, is_verified, listening, looking, send_digests

YESTERDAY = "((now() AT TIME ZONE 'UTC' - interval '10 minutes')::date - 1)"
DIGESTS = "SELECT day, notifications, delivered_at IS NOT NULL, attempts, last_error FROM registry.digest ORDER BY messenger_id, day"


async def yesterday(database: Lookup) -> date:
    return date.fromisoformat(str(await database.value(f"SELECT {YESTERDAY}")))


async def known_for_long(site: Site, name: str = "messenger", endpoint: str | None = None) -> TestMessenger:
    """A messenger is told of days since it was added."""
    added = await site.add_messenger(name, endpoint)
    async with looking(site.database) as database:
        await database.run("UPDATE registry.messenger SET created_at = '2020-01-01'")
    return added


async def deliver_yesterday(database: Lookup, messenger: TestMessenger, *codes: str, first: int = FIRST_NUMBER, via: str = "push") -> None:
    await database.owe(messenger, *codes, first=first)
    await database.run(
        "SELECT registry.settle_delivered($1, array_agg(notification_id), $2::text::registry.delivery_channel) FROM registry.notification",
        messenger.messenger_id,
        via,
    )
    await database.run(
        f"UPDATE registry.notification_delivered SET delivered_at = ({YESTERDAY} + time '12:00') AT TIME ZONE 'UTC'"
        " WHERE identification_code = ANY ($1)",
        list(codes),
    )


def test_the_digest_of_a_day_is_over_what_was_delivered_that_day_and_by_any_channel(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger, other = await known_for_long(site, endpoint=endpoint.url), await known_for_long(site, "other")
            for n, via in enumerate(("push", "pull", "hand")):
                await deliver_yesterday(database, messenger, f"a{n}", f"b{n}", first=FIRST_NUMBER + 10 * n, via=via)
            await deliver_yesterday(database, other, "z", first=FIRST_NUMBER + 100)
            # What was replayed came again that day: a1 as well, and a3, which was delivered the day before.
            await deliver_yesterday(database, messenger, "a3", first=FIRST_NUMBER + 200)
            await database.run(
                "UPDATE registry.notification_delivered SET delivered_at = delivered_at - interval '1 day' WHERE identification_code = 'a3'"
            )
            await database.run(
                "INSERT INTO registry.replayed_notification (replay_id, messenger_id, notification_id, replayed_at, delivered_at, via)"
                f" SELECT r, d.messenger_id, d.notification_id, d.recorded_at, ({YESTERDAY} + time '23:59') AT TIME ZONE 'UTC', 'push'"
                " FROM registry.notification_delivered AS d, generate_series(1, 2) AS r WHERE d.identification_code IN ('a1', 'a3')"
            )
            await database.run(
                f"UPDATE registry.notification_delivered SET delivered_at = ({YESTERDAY} + 1)::timestamp AT TIME ZONE 'UTC'"
                " WHERE identification_code = 'b2'"
            )
            ids = [str(await database.id_of(code)) for code in ("a0", "b0", "a1", "b1", "a2", "a3")]
            await send_digests(site)
            [received] = endpoint.received
            assert is_verified(received, messenger.secret)
            day = await yesterday(database)
            assert received.headers["webhook-id"] == f"msg_digest_{messenger.messenger_id}_{day:%Y%m%d}"
            assert received.event["type"] == "notifications.digest"
            assert received.event["data"] == {
                "day": day.isoformat(),
                "count": 6,
                "firstNotificationId": min(ids),
                "lastNotificationId": max(ids),
                "sha256": hashlib.sha256("".join(f"{i}\n" for i in sorted(ids)).encode()).hexdigest(),
            }
            assert await database.rows(DIGESTS) == [(day, 6, True, 1, None)]

    asyncio.run(run())


def test_a_day_has_one_digest_whatever_the_workers_and_restarts(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await known_for_long(site, endpoint=endpoint.url)
            await known_for_long(site, "pulls")
            await deliver_yesterday(database, messenger, "a")
            await send_digests(site, workers=4)
            await send_digests(site)
            assert len(endpoint.received) == 1
            # Told late of a delivery, or pruned: what was said of the day stays said.
            await database.run("DELETE FROM registry.notification_delivered")
            await send_digests(site)
            assert [row[1:3] for row in await database.rows(DIGESTS)] == [(1, True)]

    asyncio.run(run())


def test_a_messenger_is_told_of_no_day_before_it_was_added(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint:
            await site.add_messenger(endpoint=endpoint.url)
            await send_digests(site)
            assert endpoint.received == []

    asyncio.run(run())


def test_days_missed_are_made_up_for_and_a_day_of_nothing_is_told(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await known_for_long(site, endpoint=endpoint.url)
            day = await yesterday(database)
            await send_digests(site)
            assert [received.event["data"]["count"] for received in endpoint.received] == [0]
            for ago, days in ((3, 3), (30, 7)):
                await database.run("DELETE FROM registry.digest")
                await database.run(
                    "INSERT INTO registry.digest (messenger_id, day, notifications, sha256, delivered_at) VALUES ($1, $2, 0, $3, now())",
                    messenger.messenger_id,
                    day - timedelta(days=ago),
                    bytes(32),
                )
                endpoint.received.clear()
                await send_digests(site)
                told = sorted(received.event["data"]["day"] for received in endpoint.received)
                assert told == [(day - timedelta(days=n)).isoformat() for n in reversed(range(days))]

    asyncio.run(run())


def test_a_digest_is_pushed_until_it_is_received_with_the_same_id_and_body(site: Site) -> None:
    answers = iter((500, 400, 302, 204))

    async def run() -> None:
        async with listening(lambda _: next(answers)) as endpoint, looking(site.database) as database:
            await known_for_long(site, endpoint=endpoint.url)
            for error in ("status 500", "status 400", "status 302", None):
                await send_digests(site)
                await send_digests(site)  # not due yet
                assert [row[2:] for row in await database.rows(DIGESTS)] == [(error is None, len(endpoint.received), error)]
                await database.run("UPDATE registry.digest SET not_before = now()")
            await send_digests(site)
            assert len(endpoint.received) == 4
            assert len({(received.headers["webhook-id"], received.body) for received in endpoint.received}) == 1

    asyncio.run(run())


def test_a_refused_digest_does_not_hold_up_the_lane(site: Site) -> None:
    def answer(received: Received) -> int:
        return 500 if received.event["type"] == "notifications.digest" else 204

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await known_for_long(site, endpoint=endpoint.url)
            await send_digests(site)
            await database.owe(messenger, "a")
            async with delivering(site):
                await eventually(database.none_pending)
            assert await database.rows("SELECT failures, gate_until FROM registry.lane") == [(0, None)]
            assert await database.value("SELECT count(*) FROM registry.delivery_attempt") == 1

    asyncio.run(run())


def test_digests_that_nobody_can_be_sent_keep_nobody_from_theirs(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            former = await known_for_long(site, "former")
            await database.run(
                "INSERT INTO registry.digest (messenger_id, day, notifications, sha256, not_before)"
                " SELECT $1, day, 0, $2, day FROM generate_series('2025-01-01'::date, '2025-06-01', interval '1 day') AS day",
                former.messenger_id,
                bytes(32),
            )
            await known_for_long(site, endpoint=endpoint.url)
            await send_digests(site)
            assert len(endpoint.received) == 1
            await database.run("UPDATE registry.messenger SET endpoint_url = $1", endpoint.url)
            await send_digests(site)
            assert len(endpoint.received) == 101, "a hundred at once, once they have an address"

    asyncio.run(run())


def test_a_hanging_endpoint_does_not_keep_another_from_its_digest(site: Site) -> None:
    received = asyncio.Event()

    async def hang(_: Received) -> Response:
        await received.wait()
        return Response(status=204)

    async def run() -> None:
        def note(_: Received) -> int:
            received.set()
            return 204

        async with listening(hang) as hanging, listening(note) as healthy:
            await known_for_long(site, "hanging", hanging.url)
            await known_for_long(site, "healthy", healthy.url)
            await send_digests(site)
            assert len(hanging.received) == len(healthy.received) == 1

    asyncio.run(run())


def test_the_daemon_sends_the_digest_soon_after_it_starts(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await known_for_long(site, endpoint=endpoint.url)
            await deliver_yesterday(database, messenger, "a")
            with daemon(site, "operate", "deliver") as running:
                await eventually(lambda: endpoint.received)
                assert running.stop() == 0
            [received] = endpoint.received
            assert received.event["data"]["count"] == 1

    asyncio.run(run())


def test_a_messenger_can_tell_from_the_digest_that_one_is_missing_or_one_too_many() -> None:
    day, noon = date(2026, 11, 24), datetime(2026, 11, 24, 12, tzinfo=UTC)
    ids = [UUID(int=n + 1) for n in range(3)]
    ledger = Ledger()
    for notification_id in (*ids, ids[0]):
        ledger.note(Receipt("", True, "", {"data": {"notifications": [{"notificationId": str(notification_id)}]}}), noon)

    def agrees(*delivered: UUID) -> bool:
        return ledger.agrees(digest_event(day, digest_of(delivered), noon)["data"])  # type: ignore[arg-type]

    assert agrees(*ids)
    assert ledger.received_on(day) == 3
    assert not agrees(*ids[:2])
    assert not agrees(*ids, UUID(int=9))
    assert not ledger.agrees(digest_event(day + timedelta(days=1), digest_of(ids), noon)["data"])  # type: ignore[arg-type]


def test_what_was_not_answered_2xx_is_not_received() -> None:
    ledger = Ledger()
    event = {"data": {"notifications": [{"notificationId": str(UUID(int=1))}]}}
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    for receipt in (Receipt("", True, "", event, 503), Receipt("", True, "", event, 0), Receipt("", False, "no", event, 401)):
        ledger.note(receipt, at)
    assert ledger.received_on(at.date()) == 0
