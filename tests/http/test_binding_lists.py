"""Many bindings at once: pages that miss nothing while bindings come and go, and removal of a thousand codes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.conftest import TestMessenger, client, eventually
from tests.http.conftest import Answer, Service, ask
from tests.http.test_bindings import about, owed


def bound(service: Service, messenger: TestMessenger, *codes: str) -> dict[str, int]:
    """New numbers under the codes."""
    numbers = dict(zip(codes, service.contracts(len(codes)), strict=True))
    queries = [{"phoneNumber": f"+{number}", "identificationCode": code} for code, number in numbers.items()]
    answer = ask(service.api, "POST", "/v1/presence/batch", {"queries": queries}, headers=messenger.headers)
    assert {result["binding"] for result in answer.body["results"]} == {"recorded"}
    return numbers


def page(service: Service, messenger: TestMessenger, **body: Any) -> Answer:
    return ask(service.api, "POST", "/v1/bindings/list", body, headers=messenger.headers)


def remove(service: Service, messenger: TestMessenger, *codes: str) -> Answer:
    return ask(service.api, "POST", "/v1/bindings/remove/batch", {"identificationCodes": list(codes)}, headers=messenger.headers)


def listed(answer: Answer) -> list[str]:
    assert answer.status == 200
    return [binding["identificationCode"] for binding in answer.body["bindings"]]


def test_a_list_has_the_messenger_s_own_live_bindings_as_retrieve_tells_them_and_no_number(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    numbers = bound(service, messenger, "c", "a", "b", " ", "~" * 128)
    bound(service, other, "theirs")
    about(service, messenger, "remove", "b")
    answer = page(service, messenger)
    assert listed(answer) == [" ", "a", "c", "~" * 128]
    assert answer.body["next"] is None
    assert answer.body["bindings"] == [about(service, messenger, "retrieve", code).body for code in listed(answer)]
    assert not [number for number in numbers.values() if str(number) in answer.raw.decode()]


def test_pages_join_without_a_gap_and_the_last_one_says_so(service: Service) -> None:
    messenger = service.messenger()
    codes = [f"u{i}" for i in range(7)]
    bound(service, messenger, *codes)
    assert page(service, messenger, limit=7.0).body["next"] == "u6"
    read, after = [], None
    for expected in (3, 3, 1):
        answer = page(service, messenger, limit=3, after=after)
        assert len(listed(answer)) == expected
        read += listed(answer)
        after = answer.body["next"]
    assert (read, after) == (codes, None)


def test_what_is_live_all_the_while_is_on_exactly_one_page_while_bindings_come_and_go(service: Service) -> None:
    messenger, draw = service.messenger(), random.Random(1801)
    staying = [f"s{i:03}" for i in range(60)]
    going = [f"s{i:03}g" for i in range(60)]
    bound(service, messenger, *staying, *going)
    draw.shuffle(going)
    read: list[str] = []
    after: str | None = None
    gone: set[str] = set()
    for turn in range(100):
        answer = page(service, messenger, limit=draw.randint(1, 9), after=after)
        assert not gone & set(listed(answer)), "what was removed is on no later page"
        read += listed(answer)
        after = answer.body["next"]
        if after is None:
            break
        leaving = [going.pop() for _ in range(min(3, len(going)))]
        remove(service, messenger, *leaving)
        gone |= set(leaving)
        bound(service, messenger, f"s{draw.randrange(60):03}x{turn}")
    assert after is None
    assert [code for code in read if code in set(staying)] == staying
    assert len(read) == len(set(read))


@pytest.mark.parametrize(
    "body", [{"limit": 0}, {"limit": 1001}, {"limit": "5"}, {"limit": True}, {"limit": 1.5}, {"after": ""}, {"after": "é"}, {"x": 1}]
)
def test_a_page_that_is_not_one_is_refused(service: Service, body: dict[str, Any]) -> None:
    answer = page(service, service.messenger(), **body)
    assert (answer.status, answer.body["code"]) == (400, "INVALID_ARGUMENT")


def test_a_batch_ends_live_bindings_in_order_tells_ended_ones_and_knows_nobody_else_s(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    bound(service, messenger, "a", "b", "c")
    bound(service, other, "theirs")
    before = about(service, messenger, "remove", "b").body
    first = remove(service, messenger, "c", "b", "nobody's", "theirs", "a", "c")
    assert first.status == 200
    c, b, nobody, theirs, a, again = first.body["results"]
    assert (nobody, theirs, b, again) == (None, None, before, c)
    assert [(r["identificationCode"], r["state"], r["endReason"]) for r in (a, c)] == [(code, "ended", "removed") for code in "ac"]
    assert remove(service, messenger, "c", "b", "nobody's", "theirs", "a", "c").body == first.body, "idempotent"
    told = [line for line in service.daemon.log() if line["event"] == "bindings_removed" and line["messenger"] == messenger.name]
    by = messenger.api_key.split("_")[1]
    assert [(line["bindings"], line["key_id"]) for line in told] == [(1, by), (2, by)], "what each call has ended, by whose key"
    assert about(service, other, "retrieve", "theirs").body["state"] == "active"
    assert owed(service, messenger) == 0, "no notice follows what the messenger itself removed"
    [figures] = service.sql("SELECT live, removed FROM report.binding_by_messenger WHERE messenger = $1", messenger.name)
    assert tuple(figures) == (0, 3)


def test_a_batch_names_its_bad_codes_and_then_removes_nothing(service: Service) -> None:
    messenger = service.messenger()
    bound(service, messenger, "a")
    answer = remove(service, messenger, "a", "", "b" * 129, *["é"] * 30)
    assert answer.status == 400
    assert [error["path"] for error in answer.body["errors"]] == [f"identificationCodes[{i}]" for i in range(1, 21)]
    for codes in ([], ["a"] * 1001):
        assert remove(service, messenger, *codes).status == 400
    assert about(service, messenger, "retrieve", "a").body["state"] == "active"


def test_a_batch_waits_for_a_wave_of_ends_without_keeping_it_up(service: Service) -> None:
    """The wave holds one binding and then wants another, which the batch would hold if it waited with what it has."""
    messenger = service.messenger()
    numbers = bound(service, messenger, "a", "b", "c")
    end = "UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1"

    async def run() -> list[dict[str, Any]]:
        async with service.site.database.connect() as dba, client(service.api, messenger) as session:
            async with dba.transaction():
                await dba.execute(end, numbers["c"])
                batch = asyncio.create_task(removed(session))
                await eventually(lambda: is_ended(service, messenger, "a"))
                await dba.execute(end, numbers["b"])
            return await batch

    async def removed(session: Any) -> list[dict[str, Any]]:
        async with session.post("/v1/bindings/remove/batch", json={"identificationCodes": ["a", "b", "c"]}) as response:
            assert response.status == 200, await response.text()
            return list((await response.json())["results"])

    reasons = [result["endReason"] for result in asyncio.run(run())]
    assert reasons == ["removed", "removed", "terminated"]


async def is_ended(service: Service, messenger: TestMessenger, code: str) -> bool:
    async with service.site.database.connect() as dba:
        found = "SELECT ended_at IS NOT NULL FROM registry.binding WHERE messenger_id = $1 AND identification_code = $2"
        return bool(await dba.fetchval(found, messenger.messenger_id, code))
