"""The pull side of delivery over HTTP: pages of what is owed, acknowledgement, and the test of an endpoint."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from registryd.client.receiver import Receipt
from tests.conftest import TestMessenger, client, daemon, receiving
from tests.http.conftest import Answer, Service, ask


def pull(service: Service, messenger: TestMessenger, parameters: str = "") -> Any:
    answer = ask(service.api, "GET", f"/v1/notifications{parameters}", headers=messenger.headers)
    assert answer.status == 200
    return answer.body


def acknowledge(service: Service, messenger: TestMessenger, *ids: str) -> Answer:
    return ask(service.api, "POST", "/v1/notifications/acknowledge", {"notificationIds": list(ids)}, headers=messenger.headers)


def terminated(service: Service, messenger: TestMessenger, count: int) -> list[int]:
    """Numbers bound by `messenger` (codes u<number>), whose contracts have then ended a second apart, the last first."""
    numbers = service.contracts(count)
    queries = [{"phoneNumber": f"+{number}", "identificationCode": f"u{number}"} for number in numbers]
    assert ask(service.api, "POST", "/v1/presence/batch", {"queries": queries}, headers=messenger.headers).status == 200
    service.sql(
        "UPDATE registry.contract SET ended_at = now() - interval '1 hour' + (place * interval '-1 second')"
        " FROM unnest($1::bigint[]) WITH ORDINALITY AS n(number, place) WHERE msisdn = number",
        numbers,
    )
    return numbers


def test_what_is_owed_is_listed_by_deadline(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    assert pull(service, messenger) == {"notifications": [], "next": None}
    numbers = terminated(service, messenger, 3)
    listed = pull(service, messenger)
    assert listed["next"] is None
    assert [item["identificationCode"] for item in listed["notifications"]] == [f"u{number}" for number in reversed(numbers)]
    for item in listed["notifications"]:
        assert list(item) == ["type", "notificationId", "identificationCode", "generation", "terminatedAt", "deadlineAt"]
        ended, deadline = datetime.fromisoformat(item["terminatedAt"]), datetime.fromisoformat(item["deadlineAt"])
        assert timedelta(0) <= ended + timedelta(hours=24) - deadline < timedelta(milliseconds=1)
        assert item["generation"] == 1
        assert UUID(item["notificationId"]).version == 7
    assert pull(service, messenger) == listed, "reading settles nothing"
    assert pull(service, other) == {"notifications": [], "next": None}


def test_the_number_is_told_where_the_agreement_says_so(service: Service) -> None:
    messenger = service.messenger(includes_phone_number=True)
    [number] = terminated(service, messenger, 1)
    [item] = pull(service, messenger)["notifications"]
    assert item["phoneNumber"] == f"+{number}"


def test_pages_follow_each_other_without_gap_or_repeat(service: Service) -> None:
    messenger = service.messenger()
    numbers = terminated(service, messenger, 25)
    whole = pull(service, messenger)["notifications"]
    assert len(whole) == 25
    seen: list[Any] = []
    after = ""
    pages = 0
    while True:
        page = pull(service, messenger, f"?limit=10{after}")
        pages += 1
        seen += page["notifications"]
        if page["next"] is None:
            break
        assert len(page["notifications"]) == 10
        after = f"&after={page['next']}"
        if pages == 1:
            assert acknowledge(service, messenger, page["notifications"][9]["notificationId"]).body == {"acknowledged": 1}
    assert seen == whole, "a page's last notification may be settled before the next page is asked for"
    assert pages == 3
    assert len(pull(service, messenger, "?limit=1000")["notifications"]) == len(numbers) - 1
    assert len(pull(service, messenger, "?limit=1")["notifications"]) == 1


@pytest.mark.parametrize(
    "parameters",
    [
        *(
            "?limit=0",
            "?limit=1001",
            "?limit=-1",
            "?limit=1.0",
            "?limit=%D9%A1",
            "?limit=",
            "?limit=1&limit=2",
            "?limit=0x10",
            "?limit=99999",
        ),
        *("?after=", "?after=x", "?after=" + "_" * 32, "?after=" + "A" * 31, "?after=" + "A" * 33, "?after=" + "A" * 31 + "%0A", "?size=1"),
        *("?Limit=1", "?limit", "?after=" + "A" * 31 + "="),
    ],
)
def test_bad_parameters_are_refused(service: Service, parameters: str) -> None:
    messenger = service.messenger()
    answer = ask(service.api, "GET", f"/v1/notifications{parameters}", headers=messenger.headers)
    assert (answer.status, answer.body["code"]) == (400, "INVALID_ARGUMENT")
    assert answer.body["errors"][0]["path"] in ("limit", "after", "")


def test_acknowledging_settles_once(service: Service) -> None:
    messenger = service.messenger()
    terminated(service, messenger, 3)
    first, second, third = (item["notificationId"] for item in pull(service, messenger)["notifications"])
    assert acknowledge(service, messenger, first, second.upper(), first).body == {"acknowledged": 2}, "a repeated id counts once"
    assert acknowledge(service, messenger, first, second).body == {"acknowledged": 0}
    assert [item["notificationId"] for item in pull(service, messenger)["notifications"]] == [third]
    rows = service.sql(
        "SELECT notification_id, via::text, attempts FROM registry.notification_delivered WHERE messenger_id = $1", messenger.messenger_id
    )
    assert {(str(row["notification_id"]), row["via"], row["attempts"]) for row in rows} == {(first, "pull", 0), (second, "pull", 0)}


def test_ids_that_are_not_its_own_are_ignored(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    terminated(service, messenger, 1)
    terminated(service, other, 1)
    [mine], [theirs] = (pull(service, asker)["notifications"] for asker in (messenger, other))
    strange = [str(uuid4()), "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
    assert acknowledge(service, messenger, theirs["notificationId"], *strange).body == {"acknowledged": 0}
    assert pull(service, other)["notifications"] == [theirs]
    assert acknowledge(service, messenger, theirs["notificationId"], mine["notificationId"]).body == {"acknowledged": 1}
    assert pull(service, other)["notifications"] == [theirs]


def test_an_acknowledgement_holds_1_to_1000_ids(service: Service) -> None:
    messenger = service.messenger()
    assert acknowledge(service, messenger, *(str(uuid4()) for _ in range(1000))).body == {"acknowledged": 0}
    for ids in ([], [str(uuid4())] * 1001):
        assert acknowledge(service, messenger, *ids).status == 400
    answer = acknowledge(service, messenger, str(uuid4()), "not-an-id", uuid4().hex, f"{{{uuid4()}}}")
    assert answer.status == 400
    assert [error["path"] for error in answer.body["errors"]] == ["notificationIds[1]", "notificationIds[2]", "notificationIds[3]"]


def test_a_reinstatement_is_listed_among_the_others_and_acknowledged_by_its_own_id(service: Service) -> None:
    messenger = service.messenger()
    terminated(service, messenger, 2)
    undone = uuid4()
    [first, second] = pull(service, messenger)["notifications"]
    service.sql("UPDATE registry.notification SET undoes = $2 WHERE notification_id = $1", UUID(first["notificationId"]), undone)
    [item, other] = pull(service, messenger)["notifications"]
    assert other == second
    assert (item["type"], item["notificationId"], item["reinstatementId"]) == ("binding.reinstated", str(undone), first["notificationId"])
    assert (item["reinstatedAt"], "terminatedAt" in item) == (first["terminatedAt"], False)
    path = "/v1/notifications/acknowledge"
    refused: list[dict[str, list[str]]] = [{}, {"reinstatementIds": []}, {"reinstatementIds": ["no-id"]}]
    for body in refused:
        assert ask(service.api, "POST", path, body, headers=messenger.headers).status == 400
    both = {"notificationIds": [second["notificationId"]], "reinstatementIds": [item["reinstatementId"]]}
    assert ask(service.api, "POST", path, both, headers=messenger.headers).body == {"acknowledged": 2}


def test_an_endpoint_is_tested_with_a_signed_event(service: Service) -> None:
    messenger = service.messenger()

    async def run() -> tuple[list[Any], list[Receipt]]:
        async with receiving(messenger.secret) as (receiver, inbox), client(service.api, messenger) as session:

            async def test(body: bytes | None) -> Any:
                async with session.post(
                    "/v1/notifications/test", data=body, headers={"Content-Type": "application/json"} if body else {}
                ) as response:
                    assert response.status == 200, await response.text()
                    return await response.json()

            await asyncio.to_thread(set_endpoint, service, messenger, receiver.url)
            outcomes = [await test(None), await test(b"{}")]
            for status in (401, 422, 302):
                receiver.status = status
                outcomes.append(await test(None))
        outcomes.append(await asyncio.to_thread(lambda: test_endpoint(service, messenger).body))
        return outcomes, inbox.receipts

    with daemon(service.site, "deliver"):
        outcomes, receipts = asyncio.run(run())
    for outcome in outcomes:
        assert list(outcome) == ["delivered", "status", "latencyMs", "error"]
        assert outcome["latencyMs"] >= 0
    assert [(outcome["delivered"], outcome["status"]) for outcome in outcomes] == [
        *((True, 204), (True, 204), (False, 401), (False, 422), (False, 302)),
        (False, None),
    ]
    assert [outcome["error"] is None for outcome in outcomes] == [True, True, False, False, False, False]
    assert [(receipt.kind, receipt.verified) for receipt in receipts] == [("endpoint.test", True)] * 5
    assert all(receipt.event["data"] == {} for receipt in receipts)
    assert len({receipt.webhook_id for receipt in receipts}) == 5
    [attempts] = service.sql("SELECT count(*) FROM registry.delivery_attempt WHERE messenger_id = $1", messenger.messenger_id)
    assert attempts["count"] == 0, "a test is not retried and settles nothing"


def set_endpoint(service: Service, messenger: TestMessenger, url: str) -> None:
    service.sql("UPDATE registry.messenger SET endpoint_url = $2 WHERE messenger_id = $1", messenger.messenger_id, url)
    service.reload()


def test_endpoint(service: Service, messenger: TestMessenger) -> Answer:
    return ask(service.api, "POST", "/v1/notifications/test", headers=messenger.headers)


test_endpoint.__test__ = False  # type: ignore[attr-defined] # the route's name begins as a test's does


def test_there_is_no_endpoint_to_test(service: Service) -> None:
    answer = test_endpoint(service, service.messenger())
    assert (answer.status, answer.body["code"]) == (400, "INVALID_ARGUMENT")


def test_a_test_never_reaches_a_forbidden_address(service: Service) -> None:
    messenger = service.messenger()
    with daemon(service.site, "deliver"):
        for url in ("http://169.254.169.254/latest", "http://10.0.0.1/", "http://[::1]:1/"):
            set_endpoint(service, messenger, url)
            answer = test_endpoint(service, messenger)
            assert answer.status == 200
            assert (answer.body["delivered"], answer.body["status"]) == (False, None)
            assert "address" in answer.body["error"]


def test_pull_never_answers_an_empty_list_while_notices_are_held(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    terminated(service, messenger, 2)
    service.sql("INSERT INTO registry.hold (messenger_id, reason) VALUES ($1, 'a test')", messenger.messenger_id)
    answer = ask(service.api, "GET", "/v1/notifications", headers=messenger.headers)
    assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (503, "UNAVAILABLE", "60")
    assert pull(service, other) == {"notifications": [], "next": None}
    ids = service.sql("SELECT notification_id::text FROM registry.notification WHERE messenger_id = $1", messenger.messenger_id)
    assert acknowledge(service, messenger, *(row[0] for row in ids)).body == {"acknowledged": 2}, "a receipt is a fact"
    service.sql("UPDATE registry.hold SET released_at = now(), released_by = 'me', release_reason = 'over'")
    assert pull(service, messenger) == {"notifications": [], "next": None}


def test_pull_is_not_empty_where_a_wave_holds_the_only_notices(service: Service) -> None:
    messenger = service.messenger()
    [number] = terminated(service, messenger, 1)
    service.sql(
        "WITH wave AS (INSERT INTO registry.wave DEFAULT VALUES RETURNING wave_id) "
        "INSERT INTO registry.notification_held "
        "(messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, wave_id, identification_code) "
        "SELECT $1, 1, n.deadline_at, gen_random_uuid(), 79990000000, n.terminated_at, wave.wave_id, 'held' "
        "FROM registry.notification AS n, wave WHERE n.msisdn = $2",
        messenger.messenger_id,
        number,
    )
    [item] = pull(service, messenger)["notifications"]
    account = ask(service.api, "GET", "/v1/account", headers=messenger.headers).body["notifications"]
    assert (account["pending"], account["held"]) == (2, True)
    acknowledge(service, messenger, item["notificationId"])
    assert ask(service.api, "GET", "/v1/notifications", headers=messenger.headers).status == 503
