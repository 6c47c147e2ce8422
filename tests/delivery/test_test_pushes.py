"""Test pushes: one at a time for a messenger, pushed once by whichever process claims it, and told to whoever asked."""

from __future__ import annotations

import asyncio

import pytest

from registryd.delivery.announcer import Announcer
from registryd.delivery.push import Pusher
from registryd.domain.errors import NotPushed, TooManyTests
from registryd.domain.identifiers import MessengerId
from registryd.domain.notification import PushTest
from registryd.store import test_pushes
from registryd.store.pool import Database
from registryd.store.secretbox import SecretBox
from tests.conftest import Site, eventually
from tests.delivery.conftest import LOOPBACK, is_verified, listening, looking


async def asked(db: Database, messenger_id: int) -> asyncio.Task[PushTest]:
    """A test is asked for, and its row is there."""
    task = asyncio.create_task(test_pushes.run(db, MessengerId(messenger_id)))
    await asyncio.sleep(0)
    return task


def test_a_test_is_pushed_once_and_its_result_is_told(site: Site) -> None:
    async def run() -> None:
        async with listening(lambda _: 500) as endpoint, looking(site.database) as database, site.database.pool() as db:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            task = await asked(db, messenger.messenger_id)
            await eventually(lambda: database.value("SELECT count(*) = 1 FROM registry.test_push"))
            async with Pusher(db, SecretBox(site.secrets_key), LOOPBACK) as pusher:
                await asyncio.gather(*(Announcer(db, pusher).push_due() for _ in range(3)))
            result = await task
            assert (result.delivered, result.status, result.error) == (False, 500, "status 500")
            [received] = endpoint.received
            assert received.event["type"] == "endpoint.test"
            assert is_verified(received, messenger.secret)
            assert await database.value("SELECT count(*) FROM registry.delivery_attempt") == 0

    asyncio.run(run())


def test_a_test_is_pushed_though_digests_cannot_be_claimed(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, site.database.pool() as db:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.run("REVOKE UPDATE ON registry.digest FROM registryd_app")
            async with Pusher(db, SecretBox(site.secrets_key), LOOPBACK) as pusher:
                announcing = asyncio.create_task(Announcer(db, pusher).run())
                assert (await test_pushes.run(db, MessengerId(messenger.messenger_id))).delivered
                announcing.cancel()

    asyncio.run(run())


def test_one_test_at_a_time_and_ten_a_minute(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database, site.database.pool() as db:
            one, other = await site.add_messenger("one", "http://127.0.0.1:9/"), await site.add_messenger("other", "http://127.0.0.1:9/")
            await database.run("INSERT INTO registry.test_push (messenger_id) VALUES ($1)", one.messenger_id)
            with pytest.raises(TooManyTests):
                await test_pushes.run(db, MessengerId(one.messenger_id))
            await database.run(
                "INSERT INTO registry.test_push (messenger_id, ended_at, delivered) SELECT $1, now(), true FROM generate_series(1, 10)",
                other.messenger_id,
            )
            with pytest.raises(TooManyTests):
                await test_pushes.run(db, MessengerId(other.messenger_id))

    asyncio.run(run())


def test_a_test_that_nobody_claims_is_told_as_such_and_bars_no_later_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_pushes, "WAIT_S", 0.05)

    async def run() -> None:
        async with looking(site.database) as database, site.database.pool() as db:
            messenger = await site.add_messenger(endpoint="http://127.0.0.1:9/")
            with pytest.raises(NotPushed):
                await test_pushes.run(db, MessengerId(messenger.messenger_id))
            await database.run("UPDATE registry.test_push SET asked_at = now() - interval '21 seconds'")
            assert await test_pushes.claim(db) == [], "nobody waits for it any more"
            with pytest.raises(NotPushed):
                await test_pushes.run(db, MessengerId(messenger.messenger_id))
            assert await database.value("SELECT count(*) FROM registry.test_push WHERE ended_at IS NULL") == 1

    asyncio.run(run())


def test_tests_are_forgotten_after_a_day(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database, site.database.pool() as db:
            messenger = await site.add_messenger()
            for days in (0, 2):
                await database.run(
                    "INSERT INTO registry.test_push (messenger_id, asked_at, ended_at, delivered)"
                    " VALUES ($1, now() - $2 * interval '1 day', now(), false)",
                    messenger.messenger_id,
                    days,
                )
            await test_pushes.forget(db)
            assert await database.value("SELECT count(*) FROM registry.test_push") == 1

    asyncio.run(run())
