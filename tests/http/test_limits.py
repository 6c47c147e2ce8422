"""What a messenger learns about its limits: two codes of 429, the RateLimit fields, and in the account why it is slowed down."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from tests.conftest import TestMessenger, wait_for
from tests.http.conftest import Answer, Service, ask
from tests.http.test_enumeration import batch, bind, never_issued, query

ITEM = re.compile(r'"([a-z-]+)";(.+)')
FIELDS = {"ratelimit", "ratelimit-policy"}


class Told(NamedTuple):
    quota: int
    window_s: int
    left: int
    whole_s: int


def told(answer: Answer) -> dict[str, Told]:
    """The fields, read as the draft's grammar says: lists of strings with integers for parameters."""

    def items(field: str) -> dict[str, dict[str, int]]:
        found = [ITEM.fullmatch(item) for item in answer.headers[field].split(", ")]
        return {m[1]: {name: int(value) for name, value in (part.split("=") for part in m[2].split(";"))} for m in found if m}

    policies, left = items("ratelimit-policy"), items("ratelimit")
    assert policies.keys() == left.keys()
    return {name: Told(policies[name]["q"], policies[name]["w"], left[name]["r"], left[name]["t"]) for name in policies}


def account(service: Service, messenger: TestMessenger) -> Answer:
    return ask(service.api, "GET", "/v1/account", headers=messenger.headers)


def until_midnight_s() -> float:
    now = datetime.now(UTC)
    return (datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC) - now).total_seconds()


def test_a_batch_tells_what_is_left_of_the_day_and_who_has_no_quota_is_told_of_none(service: Service) -> None:
    limited, free = service.messenger(daily_quota=100), service.messenger()
    [number] = service.contracts()
    lefts = []
    for count in (1, 30):
        day = told(batch(service.api, limited, [number] * count))["day"]
        assert (day.quota, day.window_s) == (100, 86_400)
        assert 0 <= day.whole_s - until_midnight_s() < 5
        lefts.append(day.left)
    assert lefts == [99, 69]
    assert not FIELDS & batch(service.api, free, [number]).headers.keys(), "the draft knows no empty list"


def test_an_answer_to_one_query_carries_no_fields(service: Service) -> None:
    """They would be dear beside it; its 429 has them."""
    limited = service.messenger(daily_quota=1)
    [number] = service.contracts()
    assert not FIELDS & query(service.api, limited, number).headers.keys()
    for refused in (query(service.api, limited, number), bind(service.api, limited, number)):
        assert (refused.status, refused.body["code"]) == (429, "QUOTA_EXCEEDED")
        day = told(refused)["day"]
        assert day.left == 0
        assert abs(day.whole_s - int(refused.headers["retry-after"])) <= 1, "both name midnight"


def test_a_route_with_a_budget_a_minute_tells_what_is_left_of_it(service: Service) -> None:
    calls = told(account(service, service.messenger()))
    assert calls.keys() == {"account"}
    assert calls["account"][:2] == (600, 60)
    assert 598 <= calls["account"].left <= 600


def test_what_exceeds_the_day_s_quota_and_what_comes_too_fast_have_codes_of_their_own(service: Service) -> None:
    limited, hasty = service.messenger(daily_quota=1), service.messenger(endpoint_url="http://127.0.0.1:1/")
    [number] = service.contracts()
    spent = batch(service.api, limited, [number, number])
    assert (spent.status, spent.body["code"]) == (429, "QUOTA_EXCEEDED")
    assert told(spent)["day"].left == 1
    service.sql("INSERT INTO registry.test_push (messenger_id) VALUES ($1)", hasty.messenger_id)
    fast = ask(service.api, "POST", "/v1/notifications/test", headers=hasty.headers)
    assert (fast.status, fast.body["code"]) == (429, "TOO_MANY_REQUESTS")
    assert told(fast)["notifications-test"].quota == 10


def test_a_batch_of_a_messenger_that_is_slowed_down_tells_what_it_may_still_ask(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    searched = batch(service.api, messenger, [never_issued() for _ in range(40)])
    assert told(searched)["slowed-down"] == Told(60, 60, 60, 0)
    slowed = told(batch(service.api, messenger, [number] * 50))["slowed-down"]
    assert 10 <= slowed.left <= 12
    assert 48 <= slowed.whole_s <= 50
    refused = batch(service.api, messenger, [number] * 50)
    assert (refused.status, refused.body["code"]) == (429, "TOO_MANY_REQUESTS")
    assert told(refused)["slowed-down"].left < 50


def test_the_account_tells_until_when_and_why_the_messenger_is_slowed_down(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    batch(service.api, messenger, [never_issued() for _ in range(40)])
    slowed = wait_for(lambda: account(service, messenger).body["slowedDown"])
    assert slowed["reason"] == "absent"
    left = datetime.fromisoformat(slowed["until"]) - datetime.now(UTC)
    assert timedelta(minutes=58) < left <= timedelta(hours=1)
    assert account(service, other).body["slowedDown"] is None
    service.sql("UPDATE registry.enumeration_alarm SET cleared_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    assert account(service, messenger).body["slowedDown"] is None


def test_the_account_names_the_key_that_was_shown_and_its_end(service: Service) -> None:
    messenger = service.messenger()
    key_id = messenger.api_key.split("_")[1]
    service.sql("UPDATE registry.messenger_key SET expires_at = '2040-01-02 03:04:05+00' WHERE key_id = $1", key_id)
    service.reload()
    assert account(service, messenger).body["key"] == {"keyId": key_id, "expiresAt": "2040-01-02T03:04:05.000Z"}
