"""What an answer of an endpoint does to its notifications and its lane."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter

import pytest
from aiohttp.web import Response
from structlog.testing import capture_logs

from registryd.delivery import push
from tests.conftest import Site, TestMessenger, eventually
from tests.delivery.conftest import (
    FIRST_NUMBER,
    Received,
    codes,
    delivering,
    free_port,
    is_gated,
    is_idle,
    lanes_at_work,
    listening,
    looking,
    steal,
)

SUCCESSES = (200, 201, 202, 204, 299)
FAILURES = (302, 307, 401, 403, 404, 410, 418, 429, 500, 502, 503)
LANE = "SELECT failures, gate_until > now() AS gated, last_error, owner FROM registry.lane WHERE messenger_id = $1"
ATTEMPTS = (
    "SELECT notifications, outcome::text, http_status, error FROM registry.delivery_attempt WHERE messenger_id = $1 ORDER BY attempted_at"
)
PENDING = "SELECT identification_code, attempts, last_error FROM registry.notification WHERE messenger_id = $1 ORDER BY deadline_at"


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
