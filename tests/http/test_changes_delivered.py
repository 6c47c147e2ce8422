"""Where notices go while a change is asked for, tried, and confirmed."""

from __future__ import annotations

import asyncio

from registryd.delivery.announcer import Announcer
from registryd.delivery.push import Pusher
from registryd.store import changes
from registryd.store.secretbox import SecretBox
from tests.conftest import Site, client, daemon, eventually
from tests.delivery.conftest import LOOPBACK, delivering, is_verified, listening, looking
from tests.http.test_changes import run


def test_an_endpoint_that_is_not_confirmed_receives_nothing(site: Site) -> None:
    async def story() -> None:
        async with listening() as former, listening() as wanted, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=former.url)
            with daemon(site, "answer", "deliver", "operate") as running:
                async with client(running.api, messenger) as session:
                    async with session.post("/v1/account/endpoint", json={"url": wanted.url}) as response:
                        change = (await response.json())["changeId"]
                    await database.owe(messenger, "a", "b")
                    await eventually(lambda: len(former.ids) == 2)
                    async with session.post("/v1/notifications/test") as response:
                        assert (await response.json())["delivered"] is True
                    assert (len(former.received), wanted.received) == (3, [])
                    await eventually(lambda: running.metrics("operate").find("registryd_changes_waiting 1.0") >= 0)
                    assert (await asyncio.to_thread(run, site, "confirm", str(change))).exit_code == 0
                    await database.owe(messenger, "c", first=79_160_000_900)
                    await eventually(lambda: wanted.codes == ["c"])
                    assert len(former.received) == 3

    asyncio.run(story())


def test_a_confirmation_with_a_test_needs_an_answer_of_the_new_endpoint(site: Site) -> None:
    answers = [500, 204]

    async def story() -> None:
        async with listening(lambda _: answers.pop(0)) as wanted, listening() as former, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=former.url)
            key_id = messenger.api_key.split("_")[1]
            async with site.database.pool() as db, delivering(site), Pusher(db, SecretBox(site.secrets_key), LOOPBACK) as pusher:
                await changes.publish(db, SecretBox(site.secrets_key))
                asked = await changes.request_endpoint(db, messenger.messenger_id, key_id, wanted.url)  # type: ignore[arg-type]
                announcing = asyncio.create_task(Announcer(db, pusher).run())
                failed = await asyncio.to_thread(run, site, "confirm", str(asked.change_id), "--test")
                assert (failed.exit_code, "status 500" in failed.stderr) == (1, True)
                assert await database.value("SELECT endpoint_url FROM registry.messenger") == former.url
                done = await asyncio.to_thread(run, site, "confirm", str(asked.change_id), "--test")
                announcing.cancel()
            assert done.exit_code == 0
            assert await database.value("SELECT endpoint_url FROM registry.messenger") == wanted.url
            assert [received.event["type"] for received in wanted.received] == ["endpoint.test"] * 2
            assert all(is_verified(received, messenger.secret) for received in wanted.received)
            assert former.received == []

    asyncio.run(story())
