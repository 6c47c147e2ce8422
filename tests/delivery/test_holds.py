"""The brake: while a person holds notifications no push begins, in no process; a held wave is told of until a person decides."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp.web import Response
from structlog.testing import capture_logs

from registryd.delivery.timing import Timing
from registryd.domain.identifiers import MessengerId
from registryd.keep import waves
from registryd.store import holds, lanes
from tests.conftest import Site, eventually
from tests.delivery.conftest import FIRST_NUMBER, Received, codes, delivering, is_idle, listening, looking


def test_a_hold_ends_the_pushes_of_its_messenger_alone_and_a_release_goes_on(site: Site) -> None:
    async def slow(_: Received) -> Response:
        await asyncio.sleep(0.05)
        return Response(status=204)

    async def run() -> None:
        async with listening(slow) as endpoint, listening() as other, looking(site.database) as database, site.database.pool() as db:
            held, free = await site.add_messenger("held", endpoint.url), await site.add_messenger("free", other.url)
            await database.owe(held, *codes(100, "held-"))
            async with delivering(site, concurrency=2, timing=Timing(poll_s=0.01)):
                await eventually(lambda: bool(endpoint.received))
                assert await holds.hold(db, MessengerId(held.messenger_id), "a test")
                assert not await holds.hold(db, MessengerId(held.messenger_id), "once more"), "it is held already"
                await eventually(lambda: is_idle(database))
                left = await database.pending()
                assert left > 50, "all of them would take two seconds and a half"
                await database.owe(free, "free", first=FIRST_NUMBER + 100)
                await eventually(lambda: other.codes == ["free"])
            async with delivering(site, owner="another"):  # as after a restart
                await database.owe(free, "more", first=FIRST_NUMBER + 200)
                await eventually(lambda: other.codes == ["free", "more"])
                assert len(endpoint.received) == 100 - left
                assert await holds.release(db, MessengerId(held.messenger_id), "it is over")
                await eventually(database.none_pending)
            assert sorted(endpoint.codes) == codes(100, "held-"), "each once"

    asyncio.run(run())


def test_a_hold_of_all_lets_no_lane_be_leased(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, site.database.pool() as db:
            messenger = await site.add_messenger("one", endpoint.url)
            assert await holds.hold(db, None, "a test")
            await database.owe(messenger, "a")
            async with db.connection() as connection:
                assert await lanes.lease(connection, "another", 10, (), None) == []
            async with delivering(site, timing=Timing(poll_s=0.01)):
                await database.owe(messenger, "b", first=FIRST_NUMBER + 1)
                assert (await holds.find(db, MessengerId(messenger.messenger_id))).by_hand
                assert await holds.release(db, None, "over")
                await eventually(database.none_pending)
            assert [received.codes for received in endpoint.received] == [["a"], ["b"]]

    asyncio.run(run())


def test_a_held_wave_is_told_at_once_and_at_half_of_the_notice_period_and_once_each(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, site.database.pool() as db:
            messenger = await site.add_messenger("one", endpoint.url)
            await database.run("SELECT registry.change_policy('{\"ends_max\": 1, \"ends_max_share\": 0}', now(), 'a test')")
            await database.bind(messenger, *codes(3))
            await database.run("UPDATE registry.contract SET ended_at = now()")
            times: list[list[Any]] = []
            for _ in range(2):
                with capture_logs() as log:
                    await waves.watch(db)
                    await waves.watch(db)
                times.append([(line["notifications"], line["half_is_gone"]) for line in log if line["event"] == "wave_held"])
                await database.run("UPDATE registry.notification_held SET recorded_at = recorded_at - interval '26 hours'")
            assert times == [[(3, False)], [(3, True)]]
            async with delivering(site):
                (wave,) = await holds.waves(db)
                async with db.connection() as connection:
                    assert await holds.release_wave(connection, wave.wave_id, "right after all") == 3
                await eventually(database.none_pending)
            assert sorted(endpoint.codes) == codes(3)
            assert await holds.waves(db) == []

    asyncio.run(run())


def test_too_many_ends_are_told_though_no_messenger_knew_the_contracts(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database, site.database.pool() as db:
            await database.run("SELECT registry.change_policy('{\"ends_max\": 1, \"ends_max_share\": 0}', now(), 'a test')")
            await site.add_contracts(FIRST_NUMBER, FIRST_NUMBER + 1)
            await database.run("UPDATE registry.contract SET ended_at = now()")
            with capture_logs() as log:
                await waves.watch(db)
                await waves.watch(db)
            assert [(line["ends"], line["notifications"]) for line in log if line["event"] == "wave_held"] == [(2, 0)]

    asyncio.run(run())
