"""Refusals and faults in the log: whose they are and why, told at once and then as a number, and nothing that a client sent."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from registryd import observe
from registryd.loglines import SUMMARY_S, Repeats
from tests.conftest import TestMessenger, wait_for
from tests.http.conftest import Service, ask, new_number

NOBODYS_KEY = "rk_abcdefgh_" + "x" * 40


def lines(service: Service, reason: str) -> list[dict[str, Any]]:
    return [line for line in service.daemon.log() if line["event"] == "request_refused" and line["reason"] == reason]


def test_the_first_of_a_kind_is_told_at_once_and_the_others_as_a_number_while_they_come() -> None:
    written: list[tuple[str, dict[str, Any]]] = []
    waiting: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
    repeats = Repeats(
        lambda name, level, **facts: written.append((name, facts)), lambda seconds, call, *given: waiting.append((seconds, call, given))
    )

    def minute_passes() -> None:
        due = waiting[:]
        waiting.clear()
        for seconds, call, given in due:
            assert seconds == SUMMARY_S
            call(*given)

    for place in range(60_000):
        repeats.tell("request_refused", "info", kind="no_key", facts={"place": place})
    repeats.tell("request_refused", "info", kind="other", facts={})
    assert written == [("request_refused", {"place": 0}), ("request_refused", {})]
    minute_passes()
    assert written[2:] == [("request_refused", {"place": 59_999, "times": 59_999})]
    minute_passes()
    assert not waiting, "what no longer comes is forgotten"
    repeats.tell("request_refused", "info", kind="no_key", facts={"place": 7})
    assert written[3:] == [("request_refused", {"place": 7})]


def revoked(service: Service, messenger: TestMessenger) -> str:
    service.sql("UPDATE registry.messenger_key SET revoked_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    service.reload()
    return messenger.api_key


def expired(service: Service, messenger: TestMessenger) -> str:
    service.sql("UPDATE registry.messenger_key SET expires_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    service.reload()
    return messenger.api_key


@pytest.mark.parametrize(
    ("reason", "made"),
    [
        ("wrong_secret", lambda service, messenger: messenger.api_key[:-20] + "A" * 20),
        ("revoked_key", revoked),
        ("expired_key", expired),
        ("certificate", lambda service, messenger: messenger.api_key),
    ],
)
def test_a_key_of_ours_that_is_refused_is_told_with_its_owner_and_the_reason(
    service: Service, reason: str, made: Callable[[Service, TestMessenger], str]
) -> None:
    messenger = service.messenger(certificate_sha256=[b"c" * 32] if reason == "certificate" else [])
    shown, correlator = made(service, messenger), str(uuid.uuid4())
    stranger = ask(service.api, "GET", "/v1/account", headers={"Authorization": f"Bearer {NOBODYS_KEY}"})
    for _ in range(3):
        answer = ask(service.api, "GET", "/v1/account", headers={"Authorization": f"Bearer {shown}", "x-correlator": correlator})
        assert (answer.status, answer.raw) == (401, stranger.raw), "the client is not told which"
    told = wait_for(lambda: lines(service, reason))
    assert [(line["caller"], line["key_id"], line["route"], line["correlator"]) for line in told] == [
        (messenger.name, messenger.api_key.split("_")[1], "account", correlator)
    ]
    assert f'registryd_requests_refused_total{{messenger="-",reason="{reason}"}} 3.0' in service.daemon.metrics()
    assert shown.split("_", 2)[2] not in service.daemon.written()


def test_strangers_cannot_fill_the_log_nor_write_into_it(service: Service) -> None:
    for place in range(300):
        headers = {"Authorization": f"Bearer {NOBODYS_KEY}", "x-correlator": f"7916000{place:04}"}
        assert ask(service.api, "GET", "/v1/account", headers=headers).status == 401
    [line] = lines(service, "unknown_key")
    assert (line["level"], line.get("caller"), line.get("key_id")) == ("info", None, None)
    assert "abcdefgh" not in service.daemon.written()
    assert "7916000" not in service.daemon.written()


def test_a_refusal_of_a_known_caller_names_it(service: Service) -> None:
    messenger = service.messenger()
    answer = ask(service.api, "POST", "/v1/presence", {"phoneNumber": "7"}, headers=messenger.headers)
    told = wait_for(lambda: [line for line in lines(service, "invalid") if line.get("caller") == messenger.name])
    assert (answer.status, told[0]["key_id"]) == (400, messenger.api_key.split("_")[1])
    assert told[0]["correlator"] == answer.headers["x-correlator"], "one of ours, where the client sent none"


def test_the_place_of_a_fault_within_a_library_is_ours_though_the_library_lies_below_a_directory_of_our_name() -> None:
    library: dict[str, Any] = {}
    path = "/usr/lib/registryd/1.0/lib/python3.11/site-packages/asyncpg/pool.py"
    exec(compile("def fail(*_, **__): raise KeyError", path, "exec"), library)
    with pytest.raises(KeyError) as fault:
        Repeats(library["fail"]).tell("event", "error", kind="", facts={})
    assert observe.place(fault.value).startswith("registryd/loglines.py:")


def test_a_fault_of_ours_is_told_with_its_place_and_whom_it_met(service: Service) -> None:
    messenger, correlator = service.messenger(), str(uuid.uuid4())
    service.sql("ALTER TABLE registry.binding RENAME COLUMN bound_at TO bound_at_no_more")
    try:
        headers = {**messenger.headers, "x-correlator": correlator}
        for _ in range(2):
            assert ask(service.api, "POST", "/v1/bindings/retrieve", {"identificationCode": "u"}, headers=headers).status == 500
    finally:
        service.sql("ALTER TABLE registry.binding RENAME COLUMN bound_at_no_more TO bound_at")
    [line] = [line for line in service.daemon.log() if line["event"] == "request_failed"]
    assert (line["level"], line["caller"], line["correlator"]) == ("error", messenger.name, correlator)
    assert (line["kind"], line["at"].startswith("registryd/")) == ("UndefinedColumnError", True)


def test_an_event_that_fails_is_told_with_who_sent_it_and_its_call(service: Service) -> None:
    number, correlator = new_number(), str(uuid.uuid4())
    event = {"eventId": f"odd{number}", "type": "activated", "phoneNumber": f"+{number}", "occurredAt": "2026-01-01T00:00:00Z"}
    constraint = f"ALTER TABLE registry.contract ADD CONSTRAINT odd CHECK (msisdn <> {number}) NOT VALID"
    service.sql(constraint)
    try:
        headers = {**service.site.operator_headers, "x-correlator": correlator}
        answer = ask(service.operator, "POST", "/operator/v1/contract-events", {"events": [event]}, headers=headers)
    finally:
        service.sql("ALTER TABLE registry.contract DROP CONSTRAINT odd")
    assert [result["outcome"] for result in answer.body["results"]] == ["not_yet"]
    [line] = [line for line in service.operating.log() if line["event"] == "event_failed"]
    key = service.site.operator_key.key_id
    assert (line["caller"], line["key_id"], line["correlator"], line["type"]) == (f"site.{key}", key, correlator, "activated")
    assert line["at"].startswith("registryd/store/")
