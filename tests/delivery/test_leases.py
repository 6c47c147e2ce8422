"""Who works a lane: leases and their loss, and what makes a process look for one."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from registryd.delivery.dispatcher import rest_s
from registryd.delivery.timing import Timing
from registryd.domain.identifiers import MessengerId
from registryd.store import lanes
from tests.conftest import Site, eventually
from tests.delivery.conftest import (
    FIRST_NUMBER,
    answer_after,
    codes,
    delivering,
    is_idle,
    lanes_at_work,
    listening,
    looking,
    steal,
)


def test_lease_is_renewed_while_the_endpoint_is_slow(site: Site) -> None:
    hold = asyncio.Event()

    async def run() -> None:
        async with listening(answer_after(hold)) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a")
            async with delivering(site, timing=Timing(renew_s=0.1)):
                await eventually(lambda: endpoint.received)
                token, until = (await database.rows("SELECT token, lease_until FROM registry.lane"))[0]
                assert timedelta(seconds=40) < until - await database.value("SELECT now()") <= timedelta(seconds=45)
                await eventually(lambda: database.value("SELECT lease_until > $1 FROM registry.lane", until))
                assert await database.value("SELECT token FROM registry.lane") == token
                hold.set()
                await eventually(database.none_pending)
            assert len(endpoint.received) == 1

    asyncio.run(run())


@pytest.mark.parametrize("status", [204, 500, 422])
def test_receipt_of_a_lost_lane_is_recorded_and_its_failure_is_not(site: Site, status: int) -> None:
    hold = asyncio.Event()

    async def run() -> None:
        async with listening(answer_after(hold, status)) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("m", endpoint.url)
            await database.owe(messenger, "a")
            lane = "SELECT owner, token, lease_until, gate_until, failures, last_error FROM registry.lane"
            notice = "SELECT attempts, not_before, last_error FROM registry.notification"
            async with delivering(site):
                await eventually(lambda: endpoint.received)
                await steal(database, "m")
                before = await database.rows(lane), await database.rows(notice)
                hold.set()
                await eventually(lambda: database.value("SELECT EXISTS (SELECT FROM registry.delivery_attempt)"))
            assert await database.rows(lane) == before[0], "the lane is the thief's"
            if status == 204:
                assert await database.delivered() == 1
                assert await database.pending() == 0
            else:
                assert await database.rows(notice) == before[1]
            assert await database.value("SELECT count(*) FROM registry.delivery_attempt") == len(endpoint.received)

    asyncio.run(run())


def test_lane_of_a_dead_worker_is_taken_once_its_lease_lapses(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            living, dead = await site.add_messenger("living", endpoint.url), await site.add_messenger("dead", endpoint.url)
            await database.owe(living, "of the living")
            await database.owe(dead, "of the dead", first=FIRST_NUMBER + 1)
            await steal(database, "living")
            await steal(database, "dead")
            await database.run("UPDATE registry.lane SET lease_until = now() WHERE messenger_id = $1", dead.messenger_id)
            async with delivering(site):
                await eventually(lambda: database.value("SELECT count(*) = 1 FROM registry.notification"))
                assert endpoint.codes == ["of the dead"]
                await database.run("UPDATE registry.lane SET lease_until = now() WHERE messenger_id = $1", living.messenger_id)
                await eventually(database.none_pending)

    asyncio.run(run())


def test_two_workers_share_lanes_and_push_nothing_twice(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            for index in range(6):
                messenger = await site.add_messenger(f"m{index}", endpoint.url, batch_max=3)
                await database.owe(messenger, *codes(100, f"{index}-"), first=FIRST_NUMBER + 1000 * index)
            async with delivering(site, owner="a"), delivering(site, owner="b"):
                await eventually(database.none_pending)
                await eventually(lambda: is_idle(database))
            assert Counter(endpoint.codes) == Counter(code for index in range(6) for code in codes(100, f"{index}-"))

    asyncio.run(run())


def test_stop_gives_back_what_is_being_leased(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, looking(site.database) as other:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            async with database.connection.transaction():
                await database.owe(messenger, "a")
                await database.run("LOCK TABLE registry.lane IN ACCESS EXCLUSIVE MODE")
                async with delivering(site) as dispatcher:
                    leasing = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'lease_lanes')"
                    await eventually(lambda: other.value(leasing))
                    stopping = asyncio.create_task(dispatcher.stop())
                    await asyncio.sleep(0)
                    await database.run("COMMIT")
                    await stopping
                    assert await other.value("SELECT owner IS NULL AND token = 1 FROM registry.lane"), "it was leased, and given back"
                    assert lanes_at_work() == []
                    assert endpoint.received == []
                    await database.run("BEGIN")

    asyncio.run(run())


LISTENS = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query ~ 'LISTEN' AND pid <> pg_backend_pid()"


def test_new_notification_wakes_deliver_processes_at_its_commit(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            async with delivering(site, timing=Timing(poll_s=3600.0)):
                await eventually(lambda: database.value(LISTENS))
                await database.owe(messenger, "a")
                await eventually(database.none_pending)
                await eventually(lambda: is_idle(database))
                # Its deadline lies below the mark, which has passed the first one's.
                await database.owe(messenger, "backdated", first=FIRST_NUMBER + 1, deadline_in=timedelta(hours=1))
                await eventually(database.none_pending)
            assert endpoint.codes == ["a", "backdated"]

    asyncio.run(run())


def test_without_a_notify_polling_finds_what_is_owed_above_the_mark_and_below(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.run("ALTER TABLE registry.notification DISABLE TRIGGER wake_delivery")
            async with delivering(site, timing=Timing(poll_s=0.02)):
                await database.owe(messenger, "a")
                await eventually(database.none_pending)
                await eventually(lambda: is_idle(database))
                assert await database.value("SELECT look_back_at > now() FROM registry.lane")
                await database.owe(messenger, "backdated", first=FIRST_NUMBER + 1, deadline_in=timedelta(hours=1))
                await database.owe(messenger, "later", first=FIRST_NUMBER + 2)
                await eventually(lambda: "later" in endpoint.codes)
                await eventually(lambda: is_idle(database))
                await database.run("UPDATE registry.lane SET look_back_at = now()")
                await eventually(database.none_pending)
            assert set(endpoint.codes) == {"a", "backdated", "later"}

    asyncio.run(run())


WAITS = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ $1 AND now() - query_start > $2)"
"""Whether a statement waits for a lock, and has for so long."""
NOW = timedelta(0)
UNTOLD = (
    "ALTER TABLE registry.notification DISABLE TRIGGER wake_delivery; UPDATE registry.lane SET look_back_at = now() + interval '1 hour'"
)
"""Nobody looks below a lane's mark unless the test says so."""


def test_a_lease_begins_when_the_lane_is_taken_and_not_when_it_was_asked_for(site: Site) -> None:
    """What is written of its pushes would else be as much too early as the lane was waited for."""

    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, looking(site.database) as other:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            async with delivering(site, timing=Timing(poll_s=0.02)):
                await database.owe(messenger, "a")
                await eventually(database.none_pending)
                await eventually(lambda: is_idle(database))
                await database.run("BEGIN; LOCK TABLE registry.lane IN ACCESS EXCLUSIVE MODE")
                await database.owe(messenger, "b", first=FIRST_NUMBER + 1)
                await eventually(lambda: other.value(WAITS, "lease_lanes", timedelta(seconds=0.5)))
                free_at = await database.value("SELECT clock_timestamp()")
                await database.run("COMMIT")
                await eventually(database.none_pending)
                assert await database.value("SELECT max(attempted_at) > $1 FROM registry.delivery_attempt", free_at)

    asyncio.run(run())


def test_what_is_told_of_a_lane_while_it_is_being_leased_is_not_forgotten(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, looking(site.database) as other:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.run(UNTOLD)
            async with delivering(site, timing=Timing(poll_s=0.02)) as dispatcher:
                await database.owe(messenger, "a")
                await eventually(database.none_pending)
                await eventually(lambda: database.value(LISTENS))
                token = await database.value("SELECT token FROM registry.lane")
                dispatcher.look_back()  # as it does once it listens, so that all that this asks for is done
                await eventually(lambda: database.value("SELECT token > $1 AND owner IS NULL FROM registry.lane", token))
                await database.run("BEGIN; LOCK TABLE registry.lane IN ACCESS EXCLUSIVE MODE")
                await database.owe(messenger, "backdated", first=FIRST_NUMBER + 1, deadline_in=timedelta(hours=1))
                await database.owe(messenger, "later", first=FIRST_NUMBER + 2)
                await eventually(lambda: other.value(WAITS, "lease_lanes", NOW))
                dispatcher.wake(MessengerId(messenger.messenger_id), below_mark=True)
                await database.run("COMMIT")
                await eventually(database.none_pending)
            assert set(endpoint.codes) == {"a", "backdated", "later"}

    asyncio.run(run())


def test_what_is_told_of_a_lane_while_it_is_being_given_back_is_not_forgotten(site: Site) -> None:
    hold = asyncio.Event()

    async def run() -> None:
        async with listening(answer_after(hold)) as endpoint, looking(site.database) as database, looking(site.database) as other:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.run(UNTOLD)
            await database.owe(messenger, "a")
            async with delivering(site, timing=Timing(poll_s=3600.0)) as dispatcher:
                await eventually(lambda: endpoint.received)
                await database.run("BEGIN; LOCK TABLE registry.lane IN ACCESS EXCLUSIVE MODE")
                hold.set()
                await eventually(lambda: other.value(WAITS, "release_lane", NOW))
                dispatcher.wake(MessengerId(messenger.messenger_id), below_mark=True)
                await eventually(lambda: other.value(WAITS, "lease_lanes", NOW))
                await database.owe(messenger, "backdated", first=FIRST_NUMBER + 1, deadline_in=timedelta(hours=1))
                await database.run("COMMIT")
                await eventually(database.none_pending)
            assert endpoint.codes == ["a", "backdated"]

    asyncio.run(run())


def test_looking_for_what_is_due_takes_a_tenth_of_the_time_at_most_and_rests_five_seconds_at_most() -> None:
    assert [rest_s(took_s) for took_s in (0.001, 0.3, 60.0)] == [pytest.approx(0.01), 3.0, 5.0]


def test_no_lane_starves_where_there_are_more_than_one_process_works(site: Site) -> None:
    async def run() -> None:
        async with site.database.connect("registryd_app") as connection, looking(site.database) as database:
            for index in range(8):
                messenger = await site.add_messenger(f"m{index}", "http://127.0.0.1:9/")
                await database.owe(messenger, f"c{index}", first=FIRST_NUMBER + index)
            leased: set[str] = set()
            for _ in range(200):
                leased |= {lease.name for lease in await lanes.lease(connection, "this", 1, [])}
            assert len(leased) == 8

    asyncio.run(run())
