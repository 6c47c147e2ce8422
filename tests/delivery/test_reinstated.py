"""That an end was a mistake is told in pushes of its own, which are delivered, split and handed over as all others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from aiohttp.web import Response

from registryd.delivery import export, exported, signing
from registryd.domain.digest import digest_of
from registryd.store import breakglass, messengers
from registryd.store.breakglass import Ends
from registryd.store.secretbox import SecretBox
from tests.conftest import PATIENCE_S, Site, eventually
from tests.delivery.conftest import codes, delivering, is_verified, listening, looking
from tests.persons import Persons, acting

UNDO = "UPDATE registry.notification SET undoes = gen_random_uuid() WHERE identification_code LIKE 'again-%'"


def test_a_push_carries_one_type_and_every_one_arrives(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("m", endpoint.url, batch_max=4)
            await database.owe(messenger, *codes(6, "ended-"))
            await database.owe(messenger, *codes(6, "again-"), first=79_160_000_100)
            await database.run(UNDO)
            undone = dict(await database.rows("SELECT notification_id, undoes FROM registry.notification WHERE undoes IS NOT NULL"))
            async with delivering(site):
                await eventually(database.none_pending)
            told: dict[str, set[str]] = {"binding.terminated": set(), "binding.reinstated": set()}
            for push in endpoint.received:
                assert is_verified(push, messenger.secret)
                told[push.event["type"]].update(push.codes)
                for item in push.notifications:
                    if push.event["type"] == "binding.reinstated":
                        assert undone[UUID(item["reinstatementId"])] == UUID(item["notificationId"])
                        assert "terminatedAt" not in item
            assert told == {"binding.terminated": set(codes(6, "ended-")), "binding.reinstated": set(codes(6, "again-"))}
            kept = dict(await database.rows("SELECT notification_id, undoes FROM registry.notification_delivered WHERE undoes IS NOT NULL"))
            assert kept == undone

    asyncio.run(run())


def test_a_mistake_that_was_on_its_way_is_no_delivery_and_is_told_afterwards(site: Site) -> None:
    """The endpoint has the mistake in its hands while it is undone. Its receipt counts for nothing, and it hears what holds."""

    async def run() -> None:
        arrived, answer = asyncio.Event(), asyncio.Event()

        async def slowly() -> Response:
            arrived.set()
            await answer.wait()
            return Response(status=204)

        async with listening(lambda _: slowly()) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("m", endpoint.url)
            await database.bind(messenger, "c")
            await database.run("UPDATE registry.contract SET ended_at = now()")
            mistake = await database.id_of("c")
            async with delivering(site):
                await asyncio.wait_for(arrived.wait(), PATIENCE_S)
                await undo(persons)
                endpoint.answer = lambda _: 204
                answer.set()
                await eventually(lambda: database.value("SELECT count(*) = 1 FROM registry.delivery_attempt"))
                assert await database.value("SELECT count(*) FROM registry.notification_delivered") == 0
                assert await database.value("SELECT not_before > now() + interval '1 minute' FROM registry.notification")
                await database.time_passes()
                await eventually(database.none_pending)
            assert [push.event["type"] for push in endpoint.received] == ["binding.terminated", "binding.reinstated"]
            [told] = endpoint.received[1].notifications
            assert (told["notificationId"], told["identificationCode"], told["generation"]) == (str(mistake), "c", 2)
            assert await database.rows("SELECT undoes FROM registry.notification_delivered") == [(mistake,)]

    with acting(site.database) as persons:
        asyncio.run(run())


async def undo(persons: Persons) -> None:
    async with persons.session(persons.anna) as anna, persons.session(persons.boris) as boris:
        ends = Ends(recorded_from=datetime.now(UTC) - timedelta(hours=1))
        request = await breakglass.request_reinstate(anna, ends, "they had not ended")
        await breakglass.approve(boris, request)
        await breakglass.reinstate(anna, request)


def test_a_batch_of_reinstatements_is_split_to_find_the_one_that_is_refused(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("m", endpoint.url, batch_max=4)
            await database.owe(messenger, *codes(4, "again-"))
            await database.run(UNDO)
            endpoint.answer = lambda push: 422 if codes(4, "again-")[2] in push.codes else 204
            async with delivering(site):
                await eventually(lambda: database.value("SELECT count(*) = 3 FROM registry.notification_delivered"))
            assert await database.value("SELECT identification_code FROM registry.notification") == codes(4, "again-")[2]

    asyncio.run(run())


def test_a_file_for_delivery_by_hand_holds_both_and_is_acknowledged_by_the_ids_in_it(site: Site, tmp_path: Path) -> None:
    async def run() -> None:
        async with looking(site.database) as database, site.database.pool() as db:
            added = await site.add_messenger("m", None)
            await database.owe(added, *codes(3, "ended-"))
            await database.owe(added, *codes(3, "again-"), first=79_160_000_100)
            await database.run(UNDO)
            ids = [row[0] for row in await database.rows("SELECT notification_id FROM registry.notification")]
            async with db.connection() as connection:
                messenger = await messengers.named(connection, added.name)
            live = await messengers.signing_secrets(db, SecretBox(site.secrets_key), messenger.messenger_id)
            path = tmp_path / "notices"
            digest = await export.write(db, messenger, live, path)
            assert digest == digest_of(ids)
            lines = list(exported.verify(path, signing.key_from_shown(signing.shown(added.secret))))
            assert {line.event["type"] for line in lines} == {"binding.terminated", "binding.reinstated"}
            assert sorted(exported.ids_in(path)) == sorted(ids)

    asyncio.run(run())
