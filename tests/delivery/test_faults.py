"""What goes wrong on our side: nothing is lost, nothing is pushed in a loop, and no other lane suffers."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from structlog.testing import capture_logs

from registryd.delivery.timing import Timing
from registryd.domain.identifiers import MessengerId
from registryd.domain.secret import SigningSecret
from registryd.store import messengers
from registryd.store.secretbox import SecretBox
from tests.conftest import Site, eventually
from tests.delivery.conftest import (
    FIRST_NUMBER,
    answer_after,
    codes,
    delivering,
    is_gated,
    listening,
    looking,
)


def test_secret_that_cannot_sign_gates_that_lane_alone(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            broken, well = await site.add_messenger("broken", endpoint.url), await site.add_messenger("well", endpoint.url)
            async with site.database.pool() as db, db.transaction() as connection:
                seed = SigningSecret("ed25519", b"too short to sign with")
                await messengers.add_secret(connection, SecretBox(site.secrets_key), MessengerId(broken.messenger_id), seed)
            await database.owe(broken, "a")
            await database.owe(well, "b", first=FIRST_NUMBER + 1)
            async with delivering(site):
                await eventually(lambda: is_gated(database))
                await eventually(lambda: endpoint.codes == ["b"])
                assert await database.value("SELECT last_error FROM registry.lane WHERE failures > 0") == "signing secrets cannot be used"
                await database.run("UPDATE registry.messenger_secret SET expires_at = now() WHERE kind = 'ed25519'")
                await database.time_passes()
                await eventually(database.none_pending)
            assert endpoint.codes == ["b", "a"]

    asyncio.run(run())


def test_dispatcher_outlives_an_error_it_does_not_know(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            with capture_logs() as log:
                async with delivering(site):
                    await database.run("ALTER TABLE registry.lane RENAME TO lane_away")
                    await eventually(lambda: any(line["event"] == "background_failed" for line in log))
                    await database.run("ALTER TABLE registry.lane_away RENAME TO lane")
                    await database.owe(messenger, "a")
                    await eventually(database.none_pending)
            assert endpoint.codes == ["a"]

    asyncio.run(run())


@pytest.mark.parametrize("rest_s", [3600.0, 0.05])
def test_lane_whose_work_failed_unexpectedly_rests_instead_of_pushing_the_same_again_and_again(site: Site, rest_s: float) -> None:
    async def run() -> None:
        async with listening() as endpoint, listening() as well, looking(site.database) as database:
            messenger, other = await site.add_messenger(endpoint=endpoint.url), await site.add_messenger("other", well.url)
            await database.owe(messenger, "a")
            # Its attempt cannot be written.
            await database.run("ALTER TABLE registry.delivery_attempt ADD CONSTRAINT fault CHECK (messenger_id <> 1)")
            with capture_logs() as log:
                async with delivering(site, timing=Timing(poll_s=0.02, rest_s=rest_s)):
                    await eventually(lambda: any(line["event"] == "background_failed" for line in log))
                    if rest_s < 1:
                        await eventually(lambda: len(endpoint.received) > 1)
                    else:
                        for look in range(3):  # each is found by a look that leaves the resting lane alone
                            await database.owe(other, f"c{look}", first=FIRST_NUMBER + 1 + look)
                            await eventually(lambda: len(well.received) == look + 1)  # noqa: B023
                        assert len(endpoint.received) == 1
            assert messenger.messenger_id == 1

    asyncio.run(run())


def test_notification_that_failed_more_often_than_is_counted_is_still_settled(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a")
            await database.run("UPDATE registry.notification SET attempts = 32767")
            async with delivering(site):
                await eventually(database.none_pending)
            assert endpoint.codes == ["a"]

    asyncio.run(run())


def test_receipts_are_kept_until_they_can_be_written(site: Site) -> None:
    """A DBA locks the table between the push and its settling, for longer than a statement waits."""
    hold = asyncio.Event()

    async def run() -> None:
        async with listening(answer_after(hold)) as endpoint, looking(site.database) as database, looking(site.database) as other:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, *codes(3))
            async with delivering(site):
                await eventually(lambda: len(endpoint.received) == 3)
                async with database.connection.transaction():
                    await database.run("LOCK TABLE registry.notification IN ACCESS EXCLUSIVE MODE")
                    hold.set()
                    waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'settle_delivered')"
                    await eventually(lambda: other.value(waits))
                    await eventually(lambda: other.value(f"SELECT NOT ({waits[7:]})"))  # it gave up
                await eventually(database.none_pending)
            assert Counter(endpoint.codes) == Counter(codes(3)), "nothing was pushed again"
            assert await database.delivered() == 3

    asyncio.run(run())
