"""Lanes: how each answer of an endpoint settles, gates, splits or waits; leases and their loss; nothing stuck, nothing pushed in a loop."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import Counter
from datetime import timedelta

import pytest
from aiohttp.web import Response
from structlog.testing import capture_logs

from registryd.delivery import dispatcher as dispatching
from registryd.delivery import lane as working
from registryd.delivery import push
from registryd.domain.identifiers import MessengerId
from registryd.domain.secret import SigningSecret
from registryd.store import messengers
from registryd.store.secretbox import SecretBox
from tests.conftest import Site, TestMessenger, client, daemon, eventually
from tests.delivery.conftest import FIRST_NUMBER, Lookup, Received, delivering, listening, looking

OVERDUE = timedelta(hours=-1)
SUCCESSES = (200, 201, 202, 204, 299)
FAILURES = (302, 307, 401, 403, 404, 410, 418, 429, 500, 502, 503)
LANE = "SELECT failures, gate_until > now() AS gated, last_error, owner FROM registry.lane WHERE messenger_id = $1"
ATTEMPTS = (
    "SELECT notifications, outcome::text, http_status, error FROM registry.delivery_attempt WHERE messenger_id = $1 ORDER BY attempted_at"
)
PENDING = "SELECT identification_code, attempts, last_error FROM registry.notification WHERE messenger_id = $1 ORDER BY deadline_at"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def codes(count: int, prefix: str = "c") -> list[str]:
    return [f"{prefix}{n:04}" for n in range(count)]


async def is_idle(database: Lookup) -> bool:
    """No lane is leased: whatever was to be settled, is."""
    return bool(await database.value("SELECT NOT EXISTS (SELECT FROM registry.lane WHERE owner IS NOT NULL)"))


async def is_gated(database: Lookup) -> bool:
    return bool(await database.value("SELECT EXISTS (SELECT FROM registry.lane WHERE gate_until IS NOT NULL AND owner IS NULL)"))


# -- What an answer does --------------------------------------------------------------------------------------------------------------


def test_every_2xx_is_a_receipt_and_every_other_answer_but_a_refusal_of_content_gates_the_lane(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "TOTAL_TIMEOUT_S", 0.5)

    async def answer(received: Received) -> Response:
        code = received.codes[0]
        if code == "hangs":
            await asyncio.sleep(5)
        return Response(status=int(code), headers={"Location": "/elsewhere"})

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            added: dict[str, TestMessenger] = {}
            for index, code in enumerate([*map(str, SUCCESSES + FAILURES), "hangs", "refused"]):
                url = f"http://127.0.0.1:{free_port()}/" if code == "refused" else endpoint.url
                added[code] = await site.add_messenger(f"m{code}", url)
                await database.owe(added[code], code, first=FIRST_NUMBER + index)
            failing = [*map(str, FAILURES), "hangs", "refused"]
            with capture_logs() as log:
                async with delivering(site):

                    async def all_are_done() -> bool:
                        done = await database.value("SELECT count(*) FROM registry.lane WHERE owner IS NULL AND token > 0")
                        return bool(done == len(added))

                    await eventually(all_are_done)
                    assert await database.value("SELECT count(*) FROM registry.lane WHERE gate_until IS NOT NULL") == len(failing)

            for status in SUCCESSES:
                messenger = added[str(status)].messenger_id
                assert await database.rows(ATTEMPTS, messenger) == [(1, "acknowledged", status, None)]
                assert await database.rows(LANE, messenger) == [(0, None, None, None)]
            delivered = await database.rows("SELECT identification_code, via::text, attempts FROM registry.notification_delivered")
            assert sorted(delivered) == sorted((str(status), "push", 1) for status in SUCCESSES)
            errors = {str(status): f"status {status}" for status in FAILURES} | {"hangs": "timeout", "refused": "no connection"}
            for code in failing:
                messenger = added[code].messenger_id
                answered = int(code) if code.isdigit() else None
                assert await database.rows(ATTEMPTS, messenger) == [(1, "failed", answered, errors[code])]
                [(failures, _, error, owner)] = await database.rows(LANE, messenger)
                assert (failures, error, owner) == (1, errors[code], None)
                assert await database.rows(PENDING, messenger) == [(code, 1, errors[code])]
            assert [line["messenger"] for line in log if line["event"] == "endpoint_gone"] == ["m410"]
            assert sorted(line["messenger"] for line in log if line["event"] == "lane_gated") == sorted(f"m{code}" for code in failing)

    asyncio.run(run())


def test_dead_endpoint_costs_one_row_and_comes_back_by_one_canary(site: Site) -> None:
    status = 500
    in_flight = 0
    seen: list[tuple[int, int]] = []
    """(others in flight, notifications) of each push."""

    async def answer(received: Received) -> Response:
        nonlocal in_flight
        answers = status
        seen.append((in_flight, len(received.ids)))
        in_flight += 1
        await asyncio.sleep(0.01)
        in_flight -= 1
        return Response(status=answers)

    async def run() -> None:
        nonlocal status
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url, batch_max=5)
            await database.owe(messenger, *codes(200))
            async with delivering(site, concurrency=4):
                await eventually(lambda: is_gated(database))
                assert len(seen) == 4, "what was in flight, and not a push more"
                assert await database.value("SELECT count(*) FROM registry.notification WHERE attempts > 0") == 20
                for failures in (2, 3):
                    await database.time_passes()
                    await eventually(functools.partial(database.value, "SELECT failures = $1 FROM registry.lane", failures))
                    assert seen[4:] == [(0, 1)] * (failures - 1), "each probe is one notification in one push"
                await eventually(lambda: is_gated(database))
                status = 204
                seen.clear()
                await database.time_passes()
                await eventually(database.none_pending)
            assert seen[0] == (0, 1), "the canary"
            assert seen[1][0] == 0
            assert max(others for others, _ in seen) == 3
            assert max(size for _, size in seen) == 5
            assert Counter(endpoint.codes[-200:]) == Counter(codes(200)), "each once since it is back"
            assert await database.rows(LANE, messenger.messenger_id) == [(0, None, None, None)]
            assert await database.value("SELECT last_success_at IS NOT NULL FROM registry.lane")

    asyncio.run(run())


def test_failing_endpoint_is_probed_within_a_minute_whatever_it_owes_and_whatever_it_asks_for(site: Site) -> None:
    def answer(received: Received) -> Response:
        return Response(status=503, headers={"Retry-After": received.codes[0]})

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            lanes = {}
            # (code: Retry-After, failures of the lane, attempts of its one notification) -> seconds until the gate opens
            for index, (asked, failures, attempts, least, most) in enumerate(
                [("never", 0, 0, 0, 1), ("30", 0, 0, 28, 30), ("900", 0, 0, 58, 60), ("no", 25, 25, 28, 60), ("x", 0, 25, 0, 1)]
            ):
                messenger = await site.add_messenger(f"m{index}", endpoint.url)
                lanes[messenger.messenger_id] = (least, most)
                await database.owe(messenger, asked, first=FIRST_NUMBER + index)
                await database.run("UPDATE registry.lane SET failures = $2 WHERE messenger_id = $1", messenger.messenger_id, failures)
                await database.run(
                    "UPDATE registry.notification SET attempts = $2 WHERE messenger_id = $1", messenger.messenger_id, attempts
                )
            async with delivering(site, jitter=lambda: 1.0):
                await eventually(lambda: database.value("SELECT count(gate_until) = 5 AND count(owner) = 0 FROM registry.lane"))
                found = await database.rows(
                    "SELECT l.messenger_id, extract(epoch FROM gate_until - attempted_at)::float,"
                    "       extract(epoch FROM greatest(not_before, gate_until) - attempted_at)::float"
                    "  FROM registry.lane AS l JOIN registry.notification USING (messenger_id)"
                    "  JOIN (SELECT messenger_id, min(attempted_at) AS attempted_at FROM registry.delivery_attempt GROUP BY 1) AS a"
                    "       USING (messenger_id)"
                )
            for messenger_id, gate_s, due_s in found:
                least, most = lanes[messenger_id]
                assert least <= gate_s <= most + 0.5
                assert due_s <= 60.5, "there is something to probe with"

    asyncio.run(run())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused_content_is_split_until_the_one_item_is_found_and_the_rest_is_delivered(site: Site, status: int) -> None:
    refuses = True

    def answer(received: Received) -> int:
        return status if refuses and "c0005" in received.codes else 204

    async def run() -> None:
        nonlocal refuses
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url, batch_max=8)
            await database.owe(messenger, *codes(8))
            async with delivering(site, concurrency=1):
                await eventually(lambda: is_idle(database) if len(endpoint.received) == 7 else False)
                halves = await database.rows(ATTEMPTS, messenger.messenger_id)
                assert [(size, outcome) for size, outcome, _, _ in halves] == [
                    (8, "rejected"),
                    (4, "acknowledged"),
                    (4, "rejected"),
                    (2, "rejected"),
                    (1, "acknowledged"),
                    (1, "rejected"),
                    (2, "acknowledged"),
                ]
                assert {(code, error) for _, outcome, code, error in halves if outcome == "rejected"} == {(status, f"status {status}")}
                assert await database.rows(PENDING, messenger.messenger_id) == [("c0005", 1, f"status {status}")]
                assert await database.delivered() == 7
                assert await database.rows(LANE, messenger.messenger_id) == [(0, None, None, None)], "the endpoint lives"
                refuses = False
                await database.time_passes()
                await eventually(database.none_pending)
            assert endpoint.received[-1].codes == ["c0005"]
            assert max(Counter(r.headers["webhook-id"] for r in endpoint.received if r.codes == ["c0005"]).values()) == 2

    asyncio.run(run())


def test_refused_content_is_not_pushed_in_a_loop(site: Site) -> None:
    """Neither while the lane is ours, nor when it was lost and the refusal could not be written."""

    async def run() -> None:
        async with looking(site.database) as database, looking(site.database) as thief:

            async def refuse(received: Received) -> Response:
                if "stolen" in received.codes:
                    await steal(thief, "stolen")
                return Response(status=422)

            async with listening(refuse) as endpoint:
                kept, stolen = await site.add_messenger("kept", endpoint.url), await site.add_messenger("stolen", endpoint.url)
                await database.owe(kept, *codes(20))
                await database.owe(stolen, "stolen", first=FIRST_NUMBER + 20)
                async with delivering(site):
                    await eventually(lambda: len(endpoint.received) >= 21)
                    await eventually(lambda: not lanes_at_work())
                pushed = Counter(endpoint.codes)
                assert {pushed[code] for code in codes(20)} == {1}
                assert pushed["stolen"] <= 2

    asyncio.run(run())


def lanes_at_work() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("lane ")]


async def steal(database: Lookup, name: str) -> None:
    """Another worker takes the lane."""
    await database.run(
        "UPDATE registry.lane AS l SET owner = 'thief', token = token + 1, lease_until = now() + interval '1 hour'"
        " FROM registry.messenger AS m WHERE m.messenger_id = l.messenger_id AND m.name = $1",
        name,
    )


# -- What is pushed -------------------------------------------------------------------------------------------------------------------


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

    asyncio.run(run())


def test_overdue_notifications_are_pushed_all_the_same_and_shouted_about(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a", "b", deadline_in=timedelta(days=-30))
            with capture_logs() as log:
                async with delivering(site):
                    await eventually(database.none_pending)
            assert endpoint.codes == ["a", "b"]
            shouted = [line for line in log if line["event"] == "notification_overdue"]
            assert sum(line["notifications"] for line in shouted) == 2
            assert {line["log_level"] for line in shouted} == {"error"}

    asyncio.run(run())


def test_backlog_is_drained_with_each_notification_pushed_once(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url, batch_max=7)
            wanted = codes(3000)
            await database.bind(messenger, *wanted)
            # In one statement: thousands with one and the same deadline.
            await database.run("UPDATE registry.contract SET ended_at = now()")
            async with delivering(site, concurrency=16):
                await eventually(database.none_pending, 20)
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

            async with delivering(site) as dispatcher:
                waking = asyncio.create_task(keep_waking(dispatcher))
                await eventually(others_are_delivered, 15)
                waking.cancel()
            assert {code for code, _, _ in await database.rows(PENDING, messenger.messenger_id)} == poison
            assert len(endpoint.received) < 150

    asyncio.run(run())


async def keep_waking(dispatcher: dispatching.Dispatcher) -> None:
    while True:
        dispatcher.wake()
        await asyncio.sleep(0.02)


# -- Leases ---------------------------------------------------------------------------------------------------------------------------


def test_lease_is_renewed_while_the_endpoint_is_slow(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "RENEW_S", 0.1)
    hold = asyncio.Event()

    async def answer(_: Received) -> Response:
        await hold.wait()
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a")
            async with delivering(site):
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

    async def answer(_: Received) -> Response:
        await hold.wait()
        return Response(status=status)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
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


def test_busy_lane_takes_up_a_new_endpoint_and_agreement(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "TURN_S", 0.2)

    async def slowly(_: Received) -> Response:
        await asyncio.sleep(0.02)
        return Response(status=204)

    async def run() -> None:
        async with listening(slowly) as old, listening() as new, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=old.url, includes_phone_number=True)
            await database.owe(messenger, *codes(150))
            async with delivering(site, concurrency=1):
                await eventually(lambda: old.received)
                await database.run("UPDATE registry.messenger SET endpoint_url = $1, includes_phone_number = false", new.url)
                await eventually(database.none_pending)
            assert new.received
            assert all("phoneNumber" in notice for received in old.received for notice in received.notifications)
            assert not any("phoneNumber" in notice for received in new.received for notice in received.notifications)
            assert Counter(old.codes + new.codes) == Counter(codes(150))

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
                await eventually(lambda: len(healthy.received) == 50, 3)
                assert len(hanging.received) == 4, "its own concurrency bounds it"
                forever.set()

    asyncio.run(run())


def test_waking_the_dispatcher_delivers_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "POLL_S", 60.0)
    looked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query ~ 'read_echo_bound' AND pid <> pg_backend_pid())"  # asked after it

    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            async with delivering(site) as dispatcher:
                await eventually(lambda: database.value(looked))
                await database.owe(messenger, "a")
                dispatcher.wake()
                await eventually(database.none_pending, 2)

    asyncio.run(run())


def test_slow_look_is_followed_by_a_rest_that_waking_does_not_cut_short(site: Site) -> None:
    looks = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query ~ 'lease_lanes' AND wait_event_type = 'Lock')"

    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database, site.database.connect() as other:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            async with delivering(site) as dispatcher:
                async with other.transaction():
                    await other.execute("LOCK TABLE registry.lane")
                    await eventually(lambda: database.value(looks))
                    await asyncio.sleep(0.2)
                await eventually(lambda: database.value(f"SELECT NOT ({looks})"))
                await asyncio.sleep(0.1)
                await database.owe(messenger, "a")
                waking = asyncio.create_task(keep_waking(dispatcher))
                await asyncio.sleep(1)
                assert not await database.none_pending(), "it rests ten times as long as it looked"
                await eventually(database.none_pending, 20)
                waking.cancel()

    asyncio.run(run())


# -- What goes wrong on our side ------------------------------------------------------------------------------------------------------


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


def test_lane_whose_work_failed_unexpectedly_rests_instead_of_pushing_the_same_again_and_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "REST_S", 0.6)

    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a")
            await database.run("ALTER TABLE registry.delivery_attempt RENAME TO attempt_away")
            with capture_logs() as log:
                async with delivering(site) as dispatcher:
                    waking = asyncio.create_task(keep_waking(dispatcher))
                    await eventually(lambda: any(line["event"] == "background_failed" for line in log))
                    await asyncio.sleep(0.3)  # an absence can only be waited for
                    assert len(endpoint.received) == 1
                    await database.run("ALTER TABLE registry.attempt_away RENAME TO delivery_attempt")
                    await eventually(database.none_pending)
                    waking.cancel()
            assert endpoint.codes == ["a", "a"]

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

    async def answer(_: Received) -> Response:
        await hold.wait()
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database, looking(site.database) as other:
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


# -- Endpoints that come and go, with the daemon --------------------------------------------------------------------------------------


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
            with daemon(site) as running:
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

    async def answer(_: Received) -> Response:
        await hold.wait()
        return Response(status=204)

    async def run() -> None:
        async with listening(answer) as endpoint, looking(site.database) as database:
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
