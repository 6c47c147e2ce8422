"""Bindings over HTTP: recorded once, seen and removed by their own messenger alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import TestMessenger
from tests.http.conftest import Answer, Service, ask, new_number


def bind(service: Service, messenger: TestMessenger, number: int, code: str) -> Answer:
    body = {"phoneNumber": f"+{number}", "identificationCode": code}
    return ask(service.api, "POST", "/v1/bindings", body, headers=messenger.headers)


def about(service: Service, messenger: TestMessenger, what: str, code: str) -> Answer:
    return ask(service.api, "POST", f"/v1/bindings/{what}", {"identificationCode": code}, headers=messenger.headers)


def end(service: Service, number: int, reason: str = "terminated") -> None:
    service.sql(
        "UPDATE registry.contract SET ended_at = now(), end_reason = $2::text::registry.end_reason WHERE msisdn = $1", number, reason
    )


def owed(service: Service, messenger: TestMessenger) -> int:
    [row] = service.sql("SELECT count(*) FROM registry.notification WHERE messenger_id = $1", messenger.messenger_id)
    return int(row["count"])


def test_recording_is_idempotent(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    first = bind(service, messenger, number, "a")
    assert (first.status, first.body["binding"], list(first.body)) == (201, "recorded", ["binding", "generation", "boundAt"])
    again = bind(service, messenger, number, "a")
    assert (again.status, again.body) == (200, {"binding": "unchanged", "generation": 1, "boundAt": first.body["boundAt"]})
    replaced = bind(service, messenger, number, "b")
    assert (replaced.status, replaced.body["binding"]) == (200, "replaced")
    assert datetime.fromisoformat(replaced.body["boundAt"]) >= datetime.fromisoformat(first.body["boundAt"])
    assert bind(service, messenger, number, "b").body == {"binding": "unchanged", "generation": 1, "boundAt": replaced.body["boundAt"]}


def test_a_binding_tells_the_generation_that_it_is_on(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    assert bind(service, messenger, number, "a").body["generation"] == 1
    end(service, number)
    service.sql(
        "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
        "VALUES ($1, 2, 'active', 'individual', 'not_required', now())",
        number,
    )
    assert about(service, messenger, "retrieve", "a").body["generation"] == 1
    assert bind(service, messenger, number, "a").body["generation"] == 2
    assert [about(service, messenger, verb, "a").body["generation"] for verb in ("retrieve", "remove")] == [2, 2]


def test_a_code_is_bound_to_one_number(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    first, second = service.contracts(2)
    assert bind(service, messenger, first, "a").status == 201
    refused = bind(service, messenger, second, "a")
    assert (refused.status, refused.body["code"]) == (409, "CODE_IN_USE")
    assert bind(service, other, second, "a").status == 201, "the same code of another messenger is another code"
    assert about(service, messenger, "remove", "a").status == 200
    assert bind(service, messenger, second, "a").status == 201, "a removed code is free"


def test_an_absent_number_takes_no_binding(service: Service) -> None:
    messenger = service.messenger()
    [ended] = service.contracts()
    end(service, ended)
    [unregistered] = service.contracts(holder="organisation", end_user="unregistered")
    answers = [bind(service, messenger, number, "a") for number in (new_number(), ended, unregistered)]
    for answer in answers:
        assert (answer.status, answer.body["code"]) == (422, "NOT_PRESENT")
        assert answer.raw == answers[0].raw
    assert about(service, messenger, "retrieve", "a").status == 404
    [count] = service.sql("SELECT count(*) FROM registry.presence_query WHERE messenger_id = $1", messenger.messenger_id)
    assert count["count"] == 3, "whoever may bind may ask, so it is journaled as a query"
    assert ask(service.api, "GET", "/v1/account", headers=messenger.headers).body["quota"]["absentRatio"] == 1.0


@pytest.mark.parametrize("code", [" ", "~" * 128, 'a:b"c\\d/e', "{}", "\\u0041", "0"])
def test_a_code_is_opaque(service: Service, code: str) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    assert bind(service, messenger, number, code).status == 201
    found = about(service, messenger, "retrieve", code)
    assert (found.status, found.body["identificationCode"]) == (200, code)
    assert about(service, messenger, "remove", code).body["state"] == "ended"


def test_retrieving_tells_the_binding_s_state(service: Service) -> None:
    messenger = service.messenger()
    one, two, three, four = service.contracts(4)
    bound = {number: bind(service, messenger, number, f"u{number}").body["boundAt"] for number in (one, two, three, four)}

    def retrieved(number: int) -> Any:
        answer = about(service, messenger, "retrieve", f"u{number}")
        assert answer.status == 200
        assert list(answer.body) == ["identificationCode", "generation", "state", "boundAt", "endedAt", "endReason"]
        assert answer.body["boundAt"] == bound[number]
        return answer.body["state"], answer.body["endedAt"] is None, answer.body["endReason"]

    assert retrieved(one) == ("active", True, None)
    end(service, one)
    end(service, two, "ported_out")
    bind(service, messenger, three, "another")
    about(service, messenger, "remove", f"u{four}")
    assert retrieved(one) == ("ended", False, "terminated")
    assert retrieved(two) == ("ended", False, "terminated"), "that a number was ported is not told"
    assert retrieved(three) == ("ended", False, "replaced")
    assert retrieved(four) == ("ended", False, "removed")
    assert bind(service, messenger, four, f"u{one}").status == 201
    assert about(service, messenger, "retrieve", f"u{one}").body["state"] == "active", "a live binding hides those that ended"


def test_removing_is_idempotent_and_owes_nothing(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    bind(service, messenger, number, "a")
    removed = about(service, messenger, "remove", "a")
    assert (removed.status, removed.body["state"], removed.body["endReason"]) == (200, "ended", "removed")
    assert about(service, messenger, "remove", "a").body == removed.body
    assert about(service, messenger, "retrieve", "a").body == removed.body
    end(service, number)
    assert owed(service, messenger) == 0
    assert about(service, messenger, "retrieve", "a").body == removed.body


def test_an_ended_binding_is_given_back_as_it_is(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    bind(service, messenger, number, "a")
    end(service, number)
    assert owed(service, messenger) == 1
    assert about(service, messenger, "remove", "a").body["endReason"] == "terminated"
    assert owed(service, messenger) == 1, "removing takes nothing back that is owed"


def test_a_messenger_sees_its_own_bindings_only(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    [number] = service.contracts()
    bind(service, messenger, number, "mine")
    for what in ("retrieve", "remove"):
        for asker, code in ((other, "mine"), (messenger, "never"), (other, str(uuid4()))):
            answer = about(service, asker, what, code)
            assert (answer.status, answer.body["code"]) == (404, "NOT_FOUND")
    assert about(service, messenger, "retrieve", "mine").body["state"] == "active"


def test_a_binding_belongs_to_one_generation(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    bind(service, messenger, number, "a")
    end(service, number)
    assert bind(service, messenger, number, "a").status == 422
    service.sql(
        "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)"
        " VALUES ($1, 2, 'active', 'individual', 'not_required', now())",
        number,
    )
    assert bind(service, messenger, number, "a").status == 201
    rows = service.sql("SELECT generation, ended_at IS NULL AS live FROM registry.binding WHERE msisdn = $1 ORDER BY generation", number)
    assert [tuple(row) for row in rows] == [(1, False), (2, True)]
