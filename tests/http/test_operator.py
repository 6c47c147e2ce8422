"""The operator API over HTTP: who may come in, and what a call must look like."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from registryd.cli import main
from registryd.store import keys
from tests.conftest import client, eventually, wait_for
from tests.http.conftest import Answer, Service, ask, exchange, new_number, parse_answer

EVENTS = "/operator/v1/contract-events"
NUMBER = "+79161357924"
TRACES = (b"79161357924", b"zebra", b"okapi")


def event(**fields: Any) -> dict[str, Any]:
    """An event that may be applied, unless `fields` say otherwise; None leaves one out."""
    made = {"eventId": secrets.token_hex(8), "type": "activated", "phoneNumber": NUMBER, "occurredAt": "2026-01-02T03:04:05Z"} | fields
    return {name: value for name, value in made.items() if value is not None}


def send(service: Service, *events: object, headers: dict[str, str] | None = None) -> Answer:
    return ask(service.operator, "POST", EVENTS, {"events": list(events)}, headers=headers or service.site.operator_headers)


@pytest.fixture(autouse=True)
def _nothing_is_repeated(service: Service) -> Iterator[None]:
    """Whatever the test sends, no line of the log may repeat it."""
    path = service.operating.logs["operate"]
    start = path.stat().st_size
    yield
    log = path.read_bytes()[start:]
    for trace in (*TRACES, service.site.operator_key.shown.encode()):
        assert trace not in log
    assert b"request_failed" not in log


def refused(answer: Answer, status: int = 400, code: str = "INVALID_ARGUMENT") -> list[str]:
    """The paths that a refusal names."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer.raw
    assert answer.body["code"] == code
    assert answer.headers["x-correlator"]
    for trace in TRACES:
        assert trace not in answer.raw
    return [error["path"] for error in answer.body.get("errors", [])]


def recorded(service: Service) -> int:
    [row] = service.sql("SELECT count(*) FROM registry.feed_event")
    return int(row["count"])


def test_events_are_answered_in_their_order(service: Service) -> None:
    number = f"+{new_number()}"
    events = [
        event(phoneNumber=number, occurredAt="2026-01-02T03:04:05.123456789+03:00", holder="organisation", endUser="registered"),
        event(phoneNumber=number, type="ported_out", occurredAt="2026-01-01T00:00:00Z"),
        event(phoneNumber=number, type="terminated", occurredAt="2026-01-03T00:00:00z".upper()),
    ]
    answer = send(service, *events)
    assert answer.status == 200
    assert list(answer.body) == ["results"]
    assert [result["eventId"] for result in answer.body["results"]] == [sent["eventId"] for sent in events]
    assert [result["outcome"] for result in answer.body["results"]] == ["applied", "refused", "applied"]
    assert [set(result) for result in answer.body["results"]] == [
        {"eventId", "outcome"},
        {"eventId", "outcome", "reason"},
        {"eventId", "outcome"},
    ]
    assert [result["outcome"] for result in send(service, *events).body["results"]] == ["duplicate", "refused", "duplicate"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"eventId": None}, ""),
        ({"type": None}, ""),
        ({"phoneNumber": None}, ""),
        ({"occurredAt": None}, ""),
        ({"fieldzebra": 1}, ""),
        ({"eventId": ""}, ".eventId"),
        ({"eventId": "zebra zebra"}, ".eventId"),
        ({"eventId": "zebra\n"}, ".eventId"),
        ({"eventId": "z\u00e9bra"}, ".eventId"),
        ({"eventId": "zebra" * 26}, ".eventId"),
        ({"eventId": 7}, ".eventId"),
        ({"type": "zebra"}, ".type"),
        ({"type": "Activated"}, ".type"),
        ({"type": 1}, ".type"),
        ({"phoneNumber": NUMBER[1:]}, ".phoneNumber"),
        ({"phoneNumber": NUMBER + "0" * 8}, ".phoneNumber"),
        ({"phoneNumber": 79161357924}, ".phoneNumber"),
        ({"phoneNumber": "+٧٩١٦١٣٥٧٩٢٤"}, ".phoneNumber"),
        ({"occurredAt": "2026-01-02T03:04:05"}, ".occurredAt"),
        ({"occurredAt": "2026-01-02"}, ".occurredAt"),
        ({"occurredAt": "2026-02-30T00:00:00Z"}, ".occurredAt"),
        ({"occurredAt": "2026-01-02T24:00:00Z"}, ".occurredAt"),
        ({"occurredAt": "2026-01-02T03:04:05+25:00"}, ".occurredAt"),
        ({"occurredAt": "2026-01-02 03:04:05Z"}, ".occurredAt"),
        ({"occurredAt": "0000-01-02T03:04:05Z"}, ".occurredAt"),
        ({"occurredAt": "0001-01-01T00:00:00+23:59"}, ".occurredAt"),
        ({"occurredAt": "9999-12-31T23:59:59-23:59"}, ".occurredAt"),
        ({"occurredAt": "zebra"}, ".occurredAt"),
        ({"occurredAt": 1767323045}, ".occurredAt"),
        ({"holder": "zebra"}, ".holder"),
        ({"endUser": "zebra"}, ".endUser"),
        ({"endUser": "not_required"}, ".endUser"),
    ],
)
def test_one_malformed_event_refuses_the_call(service: Service, fields: dict[str, object], where: str) -> None:
    held = recorded(service)
    answer = send(service, event(phoneNumber=f"+{new_number()}"), event(**fields), event(phoneNumber=f"+{new_number()}"))
    assert refused(answer) == [f"events[1]{where}"]
    assert recorded(service) == held


@pytest.mark.parametrize("field", ["type", "eventId", "phoneNumber", "occurredAt"])
def test_null_is_no_value(service: Service, field: str) -> None:
    answer = send(service, event() | {field: None})
    assert refused(answer) == [f"events[0].{field}"]


def test_everything_that_is_wrong_with_an_event_is_named(service: Service) -> None:
    answer = send(service, event(), {"eventId": "zebra zebra", "type": "activated", "phoneNumber": "okapi", "occurredAt": "zebra"}, 7)
    assert refused(answer) == ["events[1].eventId", "events[1].phoneNumber", "events[1].occurredAt", "events[2]"]
    answer = send(service, *(event(phoneNumber="okapi") for _ in range(10_000)))
    assert refused(answer) == [f"events[{place}].phoneNumber" for place in range(20)]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"{}", b"null", b'{"events": []}', b'{"events": {}}', b'{"zebra": []}'),
        *(b'{"events": [7]}', b'{"events": ["\xff"]}', b'{"events": [], "zebra": 1}'),
        b'{"events": [' + b",".join([b"{}"] * 10_001) + b"]}",
    ],
    ids=lambda body: body[:30].decode("latin-1"),
)
def test_a_call_of_another_shape_is_refused(service: Service, body: bytes) -> None:
    refused(ask(service.operator, "POST", EVENTS, raw=body, headers=service.site.operator_headers))


def test_a_call_takes_json_of_bounded_size(service: Service) -> None:
    headers = service.site.operator_headers
    answer = ask(service.operator, "POST", EVENTS, {"events": [event()]}, headers={**headers, "Content-Type": "text/plain"})
    refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    answer = ask(service.operator, "POST", EVENTS, {"events": [event()]}, headers={**headers, "Content-Encoding": "gzip"})
    refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    key = service.site.operator_key.shown
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
    raw = exchange(service.operator, f"{head}Content-Length: {64 * 1024 * 1024}\r\nConnection: close\r\n\r\n".encode())
    refused(parse_answer(raw), 413, "TOO_LARGE")
    refused(ask(service.operator, "POST", f"{EVENTS}?zebra=1", {"events": [event()]}, headers=headers))


@pytest.mark.parametrize(
    ("at", "outcome"),
    [("0001-01-01T00:00:00Z", "refused"), ("1969-12-31T23:59:59.999999Z", "refused"), ("9999-12-31T23:59:59.9Z", "not_yet")],
)
def test_a_time_that_cannot_be_is_told_by_its_reason(service: Service, at: str, outcome: str) -> None:
    answer = send(service, event(occurredAt=at, phoneNumber=f"+{new_number()}"))
    assert answer.status == 200
    [result] = answer.body["results"]
    assert result["outcome"] == outcome
    assert "occurredAt" in result["reason"]


def test_an_operator_s_key_is_needed_for_events(service: Service) -> None:
    token = service.site.operator_key.shown
    held = recorded(service)
    good = f"Authorization: Bearer {token}"
    body = json.dumps({"events": [event(phoneNumber=f"+{new_number()}")]})
    told = set()
    wrong = {
        "none": [],
        "another": ["Authorization: Bearer okapi"],
        "two": [good, good],
        "unknown": [f"Authorization: Bearer {keys.new_key('ok').shown}"],
        "longer": [good + "0"],
        "shorter": [good[:-1]],
        "no scheme": [f"Authorization: {token}"],
        "another scheme": [f"Authorization: Basic {token}"],
        "empty": ["Authorization: Bearer "],
        "a messenger's": [f"Authorization: Bearer {service.messenger().api_key}"],
        "not ASCII": ["Authorization: Bearer \xff"],
        "another header": [f"X-Token: {token}"],
    }
    for lines in wrong.values():
        head = "\r\n".join([f"POST {EVENTS} HTTP/1.1", "Host: x", "Content-Type: application/json", "Connection: close", *lines])
        raw = exchange(service.operator, f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))
        answer = parse_answer(raw)
        refused(answer, 401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"
        told.add(json.dumps(answer.body))
    assert len(told) == 1, "which of these it was is not told"
    assert recorded(service) == held


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/", EVENTS])
def test_the_messenger_api_knows_nothing_of_the_operator_s(service: Service, path: str) -> None:
    messenger = service.messenger()
    for method in ("GET", "POST"):
        for headers in ({}, messenger.headers, service.site.operator_headers):
            refused(ask(service.api, method, path, {"events": [event()]}, headers=headers), 404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/v1/presence", "/v1/presence/batch", "/v1/bindings", "/v1/notifications", "/v1/account", "/zebra"])
def test_the_operator_api_knows_nothing_of_the_messengers(service: Service, path: str) -> None:
    messenger = service.messenger()
    for method in ("GET", "POST"):
        for headers in ({}, messenger.headers, service.site.operator_headers):
            refused(ask(service.operator, method, path, {"phoneNumber": NUMBER}, headers=headers), 404, "NOT_FOUND")


def test_another_method_is_refused(service: Service) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        answer = ask(service.operator, method, EVENTS, headers=service.site.operator_headers)
        refused(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "POST"


def operator(service: Service, *words: str) -> Any:
    done = CliRunner().invoke(main, ["--config", str(service.site.path), "operator", *words], catch_exceptions=False)
    return json.loads(done.stdout) if "--json" in words and done.exit_code == 0 else done.exit_code


def authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"bearer {key}"}


def events_status(service: Service, key: str) -> int:
    return send(service, event(phoneNumber=f"+{new_number()}"), headers=authorization(key)).status


def test_a_key_allows_what_its_scopes_say(service: Service) -> None:
    feeds = operator(service, "add", "billing", "--scope", "act,feed", "--json")["apiKey"]
    reads = operator(service, "add", "console", "--scope", "read", "--json")["apiKey"]
    wait_for(lambda: events_status(service, feeds) == 200)
    held = recorded(service)
    wait_for(lambda: events_status(service, reads) == 403)
    refused(send(service, event(), headers=authorization(reads)), 403, "PERMISSION_DENIED")
    assert recorded(service) == held
    found = {row["name"]: row["scopes"] for row in operator(service, "list", "--json")}
    assert (found["billing"], found["console"]) == (["feed", "act"], ["read"])
    for words in (("add", "billing", "--scope", "feed"), ("rotate-key", "nobody"), ("revoke-key", "billing", "abcdefgh")):
        assert operator(service, *words) == 1
    for words in (("add", "more", "--scope", "feed,write"), ("add", "more", "--scope", ""), ("add", "More", "--scope", "feed")):
        assert operator(service, *words) == 2


def test_two_keys_of_a_name_overlap_and_a_revoked_one_is_refused_within_5_seconds(service: Service) -> None:
    first = operator(service, "add", "overlapping", "--scope", "feed", "--json")["apiKey"]
    wait_for(lambda: events_status(service, first) == 200)
    second = operator(service, "rotate-key", "overlapping", "--json")["apiKey"]
    assert operator(service, "rotate-key", "overlapping") == 1, "two live keys at most"
    wait_for(lambda: events_status(service, second) == 200)
    assert events_status(service, first) == 200
    assert operator(service, "revoke-key", "overlapping", first.split("_")[1]) == 0
    wait_for(lambda: events_status(service, first) == 401)
    assert events_status(service, second) == 200


def test_the_database_lets_no_third_key_of_a_name_live(service: Service) -> None:
    insert = "INSERT INTO registry.operator_key (key_id, name, scopes, secret_sha256) VALUES ($1, 'three', '{feed}', $2)"
    for _ in range(2):
        key = keys.new_key("ok")
        service.sql(insert, key.key_id, key.secret_sha256)
    key = keys.new_key("ok")
    with pytest.raises(asyncpg.RestrictViolationError):
        service.sql(insert, key.key_id, key.secret_sha256)


def test_calls_that_wait_for_their_turn_hold_no_connection_and_no_answer_waits_for_them(service: Service) -> None:
    posters, messenger = 256, service.messenger()
    numbers = service.contracts(20)
    sessions = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'registryd operate%operator' "
        "AND state <> 'idle'"
    )

    async def run() -> None:
        async with client(service.operator) as billing, client(service.api, messenger) as asking:

            async def post() -> int:
                body = {"events": [event(phoneNumber=f"+{new_number()}")]}
                async with billing.post(EVENTS, json=body, headers=service.site.operator_headers) as answer:
                    return answer.status

            async with service.dba.transaction():
                await service.dba.execute("SELECT pg_advisory_xact_lock(hashtextextended('registry.feed', 0))")
                calls = [asyncio.create_task(post()) for _ in range(posters)]
                # All but those that wait for a turn, and the one that has it, are told at once to come again.
                await eventually(lambda: sum(call.done() for call in calls) >= posters - 17)
                assert len(await service.dba.fetch(sessions)) == 1, "the call whose turn it is waits in the database, and nobody else"
                for number in numbers:
                    async with asking.post("/v1/presence", json={"phoneNumber": f"+{number}"}) as answer:
                        assert (answer.status, (await answer.json())["present"]) == (200, True)
                assert not all(call.done() for call in calls)
            assert set(await asyncio.gather(*calls)) <= {200, 429, 503}

    service.runner.run(run())
