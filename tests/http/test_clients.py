"""What clients, balancers and health checkers of the world send, and what each of them gets."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from tests.conftest import TestMessenger, wait_for
from tests.http.conftest import Answer, Service, ask, exchange, new_number, parse_answer


@pytest.fixture(scope="module")
def messenger(service: Service) -> TestMessenger:
    return service.messenger()


def query(number: int, **more: object) -> bytes:
    return json.dumps({"phoneNumber": f"+{number}", **more}).encode()


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: registry", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


# -- keys


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_of_a_key_may_be_in_any_case(service: Service, messenger: TestMessenger, scheme: str) -> None:
    assert ask(service.api, "GET", "/v1/account", headers={"Authorization": f"{scheme} {messenger.api_key}"}).status == 200
    event = {"eventId": "e", "type": "resumed", "phoneNumber": f"+{new_number()}", "occurredAt": "2026-01-02T03:04:05Z"}
    headers = {"Authorization": f"{scheme} {service.site.operator_key.shown}"}
    assert ask(service.operator, "POST", "/operator/v1/contract-events", {"events": [event]}, headers=headers).status == 200


@pytest.mark.parametrize("until", ["infinity", "10000-01-01 00:00+00", "294276-12-31 23:59+00"])
def test_a_key_that_expires_when_nobody_can_say_works_and_stops_no_other(service: Service, until: str) -> None:
    """Of messengers and of the operator API."""
    one, other = service.messenger(), service.messenger()
    service.sql("UPDATE registry.messenger_key SET expires_at = $1::text::timestamptz WHERE messenger_id = $2", until, one.messenger_id)
    service.sql("UPDATE registry.messenger_secret SET expires_at = $1::text::timestamptz WHERE messenger_id = $2", until, one.messenger_id)
    service.sql("UPDATE registry.operator_key SET expires_at = $1::text::timestamptz", until)
    service.reload()
    for messenger in (one, other):
        assert ask(service.api, "GET", "/v1/account", headers=messenger.headers).status == 200
    assert ask(service.operator, "POST", "/operator/v1/contract-events", {}, headers=service.site.operator_headers).status == 400
    service.sql("UPDATE registry.operator_key SET expires_at = NULL")


# -- health checkers


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/"])
@pytest.mark.parametrize("query", ["", "?from=lb1", "?module=x&module=y", "?%zz", "?"])
def test_a_health_checker_may_ask_with_any_query_and_for_the_head_alone(service: Service, path: str, query: str) -> None:
    for request in (f"GET {path}{query} HTTP/1.0", f"GET {path}{query} HTTP/1.1"):
        answer = exchange(service.daemon.health(), f"{request}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not answer.endswith(b"\r\n\r\n")
    head = exchange(service.daemon.health(), f"HEAD {path}{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")


def test_what_haproxy_asks_unless_it_is_told_otherwise_says_whether_the_process_is_ready(service: Service) -> None:
    asked = b"OPTIONS / HTTP/1.0\r\n\r\n"
    assert exchange(service.daemon.health(), asked).startswith(b"HTTP/1.1 200 OK\r\n")
    with away(service):
        wait_for(lambda: exchange(service.daemon.health(), asked).startswith(b"HTTP/1.1 503 ") or None)
        assert exchange(service.daemon.health(), b"HEAD /readyz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 503 ")
        assert exchange(service.daemon.health(), b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: exchange(service.daemon.health(), asked).startswith(b"HTTP/1.1 200 ") or None)


@contextlib.contextmanager
def away(service: Service) -> Iterator[None]:
    """The database takes no writes of ours."""
    name = service.site.database.name
    service.sql(f'ALTER ROLE registryd_app IN DATABASE "{name}" SET default_transaction_read_only = on')
    service.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()", name)
    try:
        yield
    finally:
        service.sql(f'ALTER ROLE registryd_app IN DATABASE "{name}" RESET default_transaction_read_only')


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_health_listener_is_only_looked_at(service: Service, method: str) -> None:
    assert exchange(service.daemon.health(), f"{method} /metrics HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.1 405 ")


# -- requests in other dresses


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;",
        "application/json; charset=utf-8",
        "application/json;charset=UTF8",
        'application/json; charset="utf-8"',
        "application/json; charset=utf-8; version=1",
        "application/json;charset=utf-8;",
        "application/json; zebra=1",
        "application/json ; odata=verbose ; charset=utf8",
    ],
)
def test_json_may_bear_parameters_that_change_nothing(service: Service, messenger: TestMessenger, media_type: str) -> None:
    headers = {**messenger.headers, "Content-Type": media_type}
    assert ask(service.api, "POST", "/v1/presence", raw=query(new_number()), headers=headers).status == 200


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json; charset=iso-8859-1",
        "application/json; version=1; charset=utf-16",
        "application/json; charset=",
        "application/json; charset=utf-8; charset=latin1",
        "application/jsonp; charset=utf-8",
        "application/problem+json",
        "text/json",
        "; charset=utf-8",
    ],
)
def test_another_charset_or_type_stays_refused(service: Service, messenger: TestMessenger, media_type: str) -> None:
    headers = {**messenger.headers, "Content-Type": media_type}
    assert ask(service.api, "POST", "/v1/presence", raw=query(new_number()), headers=headers).status == 415


def test_a_code_of_null_is_one_that_was_left_out(service: Service, messenger: TestMessenger) -> None:
    """As serializers write an optional that is empty."""
    (number,) = service.contracts()
    one = ask(service.api, "POST", "/v1/presence", raw=query(number, identificationCode=None), headers=messenger.headers)
    assert (one.status, one.body["present"], one.body["binding"]) == (200, True, None)
    items = [{"phoneNumber": f"+{number}", "identificationCode": None}, {"phoneNumber": f"+{number}", "identificationCode": "after null"}]
    batch = ask(service.api, "POST", "/v1/presence/batch", {"queries": items}, headers=messenger.headers)
    assert [(item["present"], item["binding"]) for item in batch.body["results"]] == [(True, None), (True, "recorded")]
    binding = ask(service.api, "POST", "/v1/bindings", raw=query(number, identificationCode=None), headers=messenger.headers)
    assert (binding.status, binding.body["errors"][0]["path"]) == (400, "identificationCode")


def test_an_event_s_facts_of_null_are_facts_that_were_left_out(service: Service) -> None:
    event = {"eventId": "null", "type": "resumed", "phoneNumber": f"+{new_number()}", "occurredAt": "2026-01-02T03:04:05Z"}
    sent = [event | {"holder": None, "endUser": None}]
    answer = ask(service.operator, "POST", "/operator/v1/contract-events", {"events": sent}, headers=service.site.operator_headers)
    assert answer.status == 200


# -- connections in other dresses


@pytest.mark.parametrize("token", ["h2c", "h2c, websocket", "HTTP/2.0", "TLS/1.3", "websocket"])
def test_an_offer_to_upgrade_is_passed_over_and_the_request_is_answered(service: Service, messenger: TestMessenger, token: str) -> None:
    """Java's HttpClient offers h2c with its first request. aiohttp loses what was pipelined behind an offer, so the connection ends."""
    offer = (f"Authorization: Bearer {messenger.api_key}", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {token}")
    sent = post("/v1/presence", query(new_number()), *offer, "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")
    answer = parse_answer(exchange(service.api, sent + b"GET /lost HTTP/1.1\r\n"))
    assert (answer.status, answer.body["present"], answer.headers["connection"]) == (200, False, "close")
    assert "upgrade" not in answer.headers


def test_a_client_that_has_said_all_and_shut_its_side_gets_its_answer(service: Service, messenger: TestMessenger) -> None:
    """As `printf … | nc -N` does."""
    sent = post("/v1/presence", query(new_number()), f"Authorization: Bearer {messenger.api_key}")
    for parts in ([sent], [sent[:40], sent[40:]]):
        assert half_closed(service.api, parts).body["present"] is False
    event = {"eventId": "nc", "type": "resumed", "phoneNumber": f"+{new_number()}", "occurredAt": "2026-01-02T03:04:05Z"}
    told = post(
        "/operator/v1/contract-events",
        json.dumps({"events": [event]}).encode(),
        f"Authorization: Bearer {service.site.operator_key.shown}",
    )
    assert len(half_closed(service.operator, [told]).body["results"]) == 1
    assert half_closed(service.daemon.health(), [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], is_json=False).status == 200


def half_closed(base: str, parts: list[bytes], *, is_json: bool = True) -> Answer:
    host, _, port = base.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        for part in parts:
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    return parse_answer(received)


def test_a_client_that_shut_its_side_in_the_middle_of_a_request_is_let_go(service: Service, messenger: TestMessenger) -> None:
    sent = post("/v1/presence", query(new_number()), f"Authorization: Bearer {messenger.api_key}")
    for part in (b"", sent[:20], sent[:-5]):
        host, _, port = service.api.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
            assert not b"".join(iter(lambda s=sock: s.recv(65536), b"")).startswith(b"HTTP/1.1 200")  # type: ignore[misc] # its type is sock's


@pytest.mark.parametrize(
    ("number", "status"),
    [("79161234567", 400), ("+79161234567", 200), ("+89161234567", 200), ("+7 916 1234567", 400), ("8(916)1234567", 400)],
)
def test_a_number_has_its_plus_and_an_8_for_7_is_a_number_like_any_other(
    service: Service, messenger: TestMessenger, number: str, status: int
) -> None:
    assert ask(service.api, "POST", "/v1/presence", {"phoneNumber": number}, headers=messenger.headers).status == status


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: 4, 4\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"X-A: b\nX-C: d\r\n",
        b"".join(b"X-%d: y\r\n" % n for n in range(129)),
    ],
)
def test_a_request_whose_end_is_not_clear_is_refused_and_its_connection_closed(service: Service, head: bytes) -> None:
    answer = exchange(service.api, b"POST /v1/presence HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n{}")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer


# -- a server that refuses to go on


@pytest.mark.parametrize("state", ["54000", "58030", "XX001", "XX002", "53100"])
def test_a_database_that_can_write_no_more_is_away_on_every_route(service: Service, messenger: TestMessenger, state: str) -> None:
    """No transaction ids are left, its disk fails, its data is damaged, its disk is full."""
    (number,) = service.contracts()
    ask(service.api, "POST", "/v1/bindings", raw=query(number, identificationCode="there"), headers=messenger.headers)
    tables = ("journal_page", "binding", "feed_event", "notification")
    service.sql(
        f"CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'out of order' USING ERRCODE = '{state}'; END $$"
    )
    for table in tables:
        when = f"BEFORE INSERT OR UPDATE OR DELETE ON registry.{table}"
        service.sql(f"CREATE TRIGGER aa_refuse {when} FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()")
    try:
        event = {"eventId": f"x{state}", "type": "terminated", "phoneNumber": f"+{number}", "occurredAt": "2026-01-02T03:04:05Z"}
        answers = [
            ask(service.api, "POST", "/v1/presence", raw=query(number), headers=messenger.headers),
            ask(service.api, "POST", "/v1/presence/batch", {"queries": [{"phoneNumber": f"+{number}"}]}, headers=messenger.headers),
            ask(service.api, "POST", "/v1/bindings", raw=query(number, identificationCode="new"), headers=messenger.headers),
            ask(service.api, "POST", "/v1/bindings/remove", {"identificationCode": "there"}, headers=messenger.headers),
            ask(service.operator, "POST", "/operator/v1/contract-events", {"events": [event]}, headers=service.site.operator_headers),
        ]
        assert [answer.status for answer in answers] == [503] * len(answers)
        assert all(answer.headers["retry-after"].isdigit() for answer in answers)
    finally:
        service.sql("DROP FUNCTION public.refuse() CASCADE")


def test_a_fault_of_ours_is_a_500_and_an_alarm_and_never_an_outage(service: Service, messenger: TestMessenger) -> None:
    """Whatever the route: here a statement of ours that the database cannot work with."""
    (number,) = service.contracts()
    ask(service.api, "POST", "/v1/bindings", raw=query(number, identificationCode="kept"), headers=messenger.headers)
    service.sql("CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN 1 / (TG_LEVEL IS NULL)::integer; END $$")
    for table in ("journal_page", "binding"):
        service.sql(f"CREATE TRIGGER aa_fail BEFORE INSERT OR UPDATE ON registry.{table} FOR EACH STATEMENT EXECUTE FUNCTION public.fail()")
    try:
        answers = [
            ask(service.api, "POST", "/v1/presence", raw=query(number), headers=messenger.headers),
            ask(service.api, "POST", "/v1/presence/batch", {"queries": [{"phoneNumber": f"+{number}"}]}, headers=messenger.headers),
            ask(service.api, "POST", "/v1/bindings/remove", {"identificationCode": "kept"}, headers=messenger.headers),
        ]
    finally:
        service.sql("DROP FUNCTION public.fail() CASCADE")
    assert [(answer.status, answer.body["code"]) for answer in answers] == [(500, "INTERNAL")] * 3
    failed = [line for line in service.daemon.log() if line["event"] == "request_failed"]
    assert [line["level"] for line in failed] == ["error"] * 3
    assert 'status="500"' in service.daemon.metrics()
