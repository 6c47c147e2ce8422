"""What is pushed: in which order, in how large batches, with which facts; and what keeps nothing back."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from importlib.metadata import version

import pytest
from aiohttp.web import Response
from structlog.testing import capture_logs

from registryd import observe
from registryd.delivery import settling
from registryd.delivery.timing import Timing
from registryd.domain.lane import SETTLE_MAX
from registryd.domain.reading import PAGE
from tests.conftest import PATIENCE_S, Site, client, daemon, eventually
from tests.delivery.conftest import (
    FIRST_NUMBER,
    Received,
    answer_after,
    codes,
    delivering,
    free_port,
    is_gated,
    is_idle,
    listening,
    looking,
)

OVERDUE = timedelta(hours=-1)
PENDING = "SELECT identification_code, attempts, last_error FROM registry.notification WHERE messenger_id = $1 ORDER BY deadline_at"


def test_pushes_carry_batch_max_at_most_and_earliest_deadlines_first(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            one, four = await site.add_messenger("one", endpoint.url), await site.add_messenger("four", endpoint.url, batch_max=4)
            await database.owe(one, *codes(5, "one-late-"))
            await database.owe(one, *codes(5, "one-early-"), first=FIRST_NUMBER + 10, deadline_in=timedelta(hours=1))
            await database.owe(one, *codes(5, "one-overdue-"), first=FIRST_NUMBER + 20, deadline_in=OVERDUE)
            await database.owe(four, *codes(10, "four-"), first=FIRST_NUMBER + 30)
            async with delivering(site, concurrency=1):
                await eventually(database.none_pending)
            by_one = [received.codes for received in endpoint.received if received.codes[0].startswith("one")]
            assert by_one == [[code] for code in [*codes(5, "one-overdue-"), *codes(5, "one-early-"), *codes(5, "one-late-")]]
            by_four = [received.codes for received in endpoint.received if received.codes[0].startswith("four")]
            assert by_four == [codes(10, "four-")[:4], codes(10, "four-")[4:8], codes(10, "four-")[8:]]
            assert await database.value("SELECT sum(notifications) FROM registry.delivery_attempt") == 25

    asyncio.run(run())


def test_notification_tells_the_facts_and_the_number_only_where_the_agreement_says_so(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            without = await site.add_messenger("without", endpoint.url)
            with_number = await site.add_messenger("with", endpoint.url, includes_phone_number=True)
            await database.owe(without, "w/o")
            await database.owe(with_number, "with", first=FIRST_NUMBER + 1)
            async with delivering(site):
                await eventually(database.none_pending)
            pushed = {received.codes[0]: received for received in endpoint.received}
            plain, told = pushed["w/o"].notifications[0], pushed["with"].notifications[0]
            assert set(plain) == {"notificationId", "identificationCode", "generation", "terminatedAt", "deadlineAt"}
            assert set(told) == {*plain, "phoneNumber"}
            assert told["phoneNumber"] == f"+{FIRST_NUMBER + 1}"
            assert str(FIRST_NUMBER).encode() not in pushed["w/o"].body
            assert pushed["w/o"].event["type"] == "binding.terminated"
            assert plain["generation"] == 1
            stored = await database.rows(
                'SELECT to_char(terminated_at, \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\'), to_char(deadline_at, \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\'),'
                " notification_id::text FROM registry.notification_delivered WHERE identification_code = 'w/o'"
            )
            assert stored == [(plain["terminatedAt"], plain["deadlineAt"], plain["notificationId"])]
            assert pushed["w/o"].headers["content-type"] == "application/json"
            assert pushed["w/o"].headers["user-agent"] == f"registryd/{version('registryd')}"

    asyncio.run(run())


def test_overdue_notifications_are_pushed_all_the_same_and_shouted_about(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            wanted = codes(20)
            await database.owe(messenger, *wanted, deadline_in=timedelta(days=-30))
            before = late()
            with capture_logs() as log:
                async with delivering(site):
                    await eventually(database.none_pending)
            assert sorted(endpoint.codes) == sorted(wanted)
            assert late() - before == 20
            shouted = [line["log_level"] for line in log if line["event"] == "notification_overdue"]
            assert shouted == ["error"], "a million that are late do not fill the log"

    asyncio.run(run())


def late() -> float:
    return observe.METRICS.get_sample_value("registryd_notifications_late_total", {"messenger": "messenger"}) or 0.0


def test_backlog_is_drained_with_each_notification_pushed_once(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url, batch_max=7)
            wanted = codes(3000)
            await database.bind(messenger, *wanted)
            # In one statement: thousands with one and the same deadline.
            await database.run("UPDATE registry.contract SET ended_at = now()")
            async with delivering(site, concurrency=16):
                await eventually(database.none_pending)
            assert Counter(endpoint.codes) == Counter(wanted)
            assert max(len(received.ids) for received in endpoint.received) == 7
            assert await database.delivered() == 3000
            assert await database.value("SELECT sum(notifications) FROM registry.delivery_attempt") == 3000

    asyncio.run(run())


@pytest.mark.parametrize("batch_max", [1, 10])
@pytest.mark.parametrize("deadline_in", [timedelta(hours=20), OVERDUE], ids=["in time", "overdue"])
def test_notifications_that_break_the_endpoint_cannot_stand_in_the_others_way(site: Site, batch_max: int, deadline_in: timedelta) -> None:
    poison = {"c0000", "c0001"}

    def answer(received: Received) -> int:
        return 500 if poison & set(received.codes) else 204

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url, batch_max=batch_max)
            await database.owe(messenger, *codes(30), deadline_in=deadline_in)
            # After a long outage: probes are rare, so that at each one everything is due, the bad ones first.
            await database.run("UPDATE registry.lane SET failures = 30")

            async def others_are_delivered() -> bool:
                if await is_gated(database):
                    await database.time_passes()
                return await database.delivered() == 28

            async with delivering(site, timing=Timing(poll_s=0.02)):
                await eventually(others_are_delivered)
            assert {code for code, _, _ in await database.rows(PENDING, messenger.messenger_id)} == poison
            assert len(endpoint.received) < 150

    asyncio.run(run())


def test_endpoint_that_hangs_delays_nobody_else(site: Site) -> None:
    forever = asyncio.Event()

    async def hang(_: Received) -> Response:
        await forever.wait()
        return Response(status=204)

    async def run() -> None:
        async with listening(hang) as hanging, listening() as healthy, looking(site.database) as database:
            stuck, well = await site.add_messenger("a", hanging.url), await site.add_messenger("b", healthy.url)
            await database.owe(stuck, *codes(50))
            await database.owe(well, *codes(50), first=FIRST_NUMBER + 100)
            async with delivering(site):
                await eventually(lambda: len(healthy.received) == 50)
                await eventually(lambda: hanging.received)
                assert len(hanging.received) <= 4, "its own concurrency bounds it"
                forever.set()

    asyncio.run(run())


WAITING = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_lanes_with_a_backlog_write_one_after_the_other_and_hold_up_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has locked the rows, so that who writes a receipt for them waits. The first turn does not end meanwhile."""
    monkeypatch.setattr(settling, "TURN_MAX_S", PATIENCE_S)

    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, site.database.connect() as somebody:
            for name in ("a", "b"):
                messenger = await site.add_messenger(name, endpoint.url, batch_max=5)
                await database.bind(messenger, *codes(600, name), first=FIRST_NUMBER + 1000 * (name == "b"))
            await database.run("UPDATE registry.contract SET ended_at = now()")
            async with delivering(site), somebody.transaction():
                await somebody.execute("SELECT FROM registry.notification FOR UPDATE")
                await eventually(lambda: len(endpoint.codes) == 1200)
                small = await site.add_messenger("small", endpoint.url)
                await database.owe(small, "x", first=FIRST_NUMBER + 5000)
                await eventually(lambda: "x" in endpoint.codes)
                await eventually(lambda: database.value("SELECT count(*) FROM registry.notification_delivered"))
                assert await database.value(f"SELECT count(*) {WAITING}") == 1
                assert await database.delivered() == 1
            async with delivering(site):
                await eventually(database.none_pending)
            assert len(endpoint.codes) == len(set(endpoint.codes)) == 1201

    asyncio.run(run())


def test_a_lane_whose_rows_somebody_has_locked_holds_up_no_other_s_backlog(site: Site) -> None:
    """The other's receipts are written while its first write still waits."""

    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, site.database.connect() as somebody:
            locked, other = [await site.add_messenger(name, endpoint.url, batch_max=5) for name in ("locked", "other")]
            await database.bind(locked, *codes(600, "locked"))
            await database.run("UPDATE registry.contract SET ended_at = now()")
            await database.bind(other, *codes(1600, "other"), first=FIRST_NUMBER + 1000)
            async with delivering(site), somebody.transaction():
                await somebody.execute("SELECT FROM registry.notification FOR UPDATE")
                await eventually(lambda: database.value(f"SELECT count(*) {WAITING}"))
                [first] = await database.rows(f"SELECT pid, query_start {WAITING}")
                await database.run("UPDATE registry.contract SET ended_at = now() WHERE ended_at IS NULL")

                async def others_are_delivered() -> bool:
                    assert await database.rows(f"SELECT pid, query_start {WAITING}") == [first]
                    return await database.delivered() == 1600

                await eventually(others_are_delivered)
            async with delivering(site):
                await eventually(database.none_pending)
            assert len(endpoint.codes) == len(set(endpoint.codes)) == 2200

    asyncio.run(run())


def test_receipts_beyond_what_one_transaction_takes_are_written_by_the_next(site: Site) -> None:
    """The last of them come without any push: those were few, and all in the first."""
    all_out = asyncio.Event()

    async def run() -> None:
        async def together(_: Received) -> Response:
            if len(endpoint.received) == 3:
                all_out.set()
            await all_out.wait()
            return Response(status=204)

        async with listening(together) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url, batch_max=1000)
            wanted = codes(3 * PAGE)
            assert len(wanted) > SETTLE_MAX
            await database.bind(messenger, *wanted)
            await database.run("UPDATE registry.contract SET ended_at = now()")
            async with delivering(site):
                await eventually(database.none_pending)
            assert Counter(endpoint.codes) == Counter(wanted)
            assert await database.value("SELECT sum(notifications) FROM registry.delivery_attempt") == 3 * PAGE

    asyncio.run(run())


def test_busy_lane_takes_up_a_new_endpoint_and_agreement(site: Site) -> None:
    async def slowly(_: Received) -> Response:
        await asyncio.sleep(0.02)
        return Response(status=204)

    async def run() -> None:
        async with listening(slowly) as old, listening() as new, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=old.url, includes_phone_number=True)
            await database.owe(messenger, *codes(150))
            async with delivering(site, concurrency=1, timing=Timing(turn_s=0.2)):
                await eventually(lambda: old.received)
                await database.run("UPDATE registry.messenger SET endpoint_url = $1, includes_phone_number = false", new.url)
                await eventually(database.none_pending)
            assert new.received
            assert all("phoneNumber" in notice for received in old.received for notice in received.notifications)
            assert not any("phoneNumber" in notice for received in new.received for notice in received.notifications)
            assert Counter(old.codes + new.codes) == Counter(codes(150))

    asyncio.run(run())


def test_owed_while_suspended_or_without_an_endpoint_pulled_while_it_is_down_and_nothing_twice(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            port = free_port()
            later = await site.add_messenger("later")
            down = await site.add_messenger("down", f"http://127.0.0.1:{port}/notices")
            suspended = await site.add_messenger("suspended", f"http://127.0.0.1:{port}/notices")
            await database.run("UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE name = 'suspended'")
            await database.owe(later, *codes(3, "later-"))
            await database.owe(down, *codes(10, "down-"), first=FIRST_NUMBER + 10)
            await database.owe(suspended, *codes(3, "suspended-"), first=FIRST_NUMBER + 30)
            with daemon(site, "answer", "deliver") as running:
                gated = "SELECT EXISTS (SELECT FROM registry.lane WHERE messenger_id = $1 AND gate_until IS NOT NULL)"
                await eventually(lambda: database.value(gated, down.messenger_id))
                async with client(running.api, down) as http:
                    async with http.get("/v1/notifications?limit=4") as answer:
                        first = await answer.json()
                    async with http.get(f"/v1/notifications?limit=4&after={first['next']}") as answer:
                        second = await answer.json()
                    pulled = [notice["notificationId"] for notice in first["notifications"] + second["notifications"]]
                    assert [n["identificationCode"] for n in first["notifications"] + second["notifications"]] == codes(10, "down-")[:8]
                    foreign = [str(await database.id_of("later-0000"))]
                    async with http.post("/v1/notifications/acknowledge", json={"notificationIds": pulled + foreign}) as answer:
                        assert (await answer.json()) == {"acknowledged": 8}
                async with listening(port=port) as endpoint:
                    await database.time_passes()
                    await database.run("UPDATE registry.messenger SET endpoint_url = $1 WHERE name = 'later'", endpoint.url)
                    await eventually(database.none_pending)
                    expected = [*codes(3, "later-"), *codes(10, "down-")[8:], *codes(3, "suspended-")]
                    assert Counter(endpoint.codes) == Counter(expected)
                assert await database.delivered("pull") == 8
                assert await database.delivered("push") == 8
                assert running.stop() == 0

    asyncio.run(run())


def test_acknowledging_while_the_push_is_out_settles_once(site: Site) -> None:
    hold = asyncio.Event()

    async def run() -> None:
        async with listening(answer_after(hold)) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, *codes(4))
            ids = [await database.id_of(code) for code in codes(4)]
            async with delivering(site):
                await eventually(lambda: len(endpoint.received) == 4)
                settled = await database.value("SELECT registry.settle_delivered($1, $2, 'pull')", messenger.messenger_id, ids[:2])
                hold.set()
                await eventually(database.none_pending)
                await eventually(lambda: is_idle(database))
            assert (settled, await database.delivered("pull"), await database.delivered("push")) == (2, 2, 2)
            assert len(endpoint.received) == 4

    asyncio.run(run())
