"""Paths, methods, parameters, correlators and bytes that are not what they should be."""

from __future__ import annotations

import json

import pytest

from tests.http.bad_input.conftest import CODE, FRESH, GOOD, ROUTES, Api, assert_no_traces, assert_refused
from tests.http.conftest import exchange, new_number, parse_answer


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/presence/", "//v1/presence", "/V1/presence", "/v1/%70resence", "/v1/zebra", "/v1/../v1/account", "*"]
)
def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    for authorization in (None, ()):
        api.refused(GOOD, path, 404, "NOT_FOUND", method="OPTIONS" if path == "*" else "POST", authorization=authorization)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_another_method_is_refused_and_told_which_there_are(api: Api, method: str) -> None:
    for path, allowed in ROUTES.items():
        if method == allowed or method == "HEAD":
            continue
        answer = api.refused(GOOD, path, 405, "METHOD_NOT_ALLOWED", method=method)
        assert answer.headers["allow"] == ("GET, HEAD" if allowed == "GET" else allowed)
    assert api.recorded() == 0


@pytest.mark.parametrize(("path", "status"), [(path, 200 if method == "GET" else 405) for path, method in ROUTES.items()])
def test_head_answers_as_get_does_without_a_body(api: Api, path: str, status: int) -> None:
    head = f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {api.messenger.api_key}\r\n\r\n"
    raw = exchange(api.service.api, head.encode())
    assert raw.startswith(f"HTTP/1.1 {status} ".encode())
    assert raw.endswith(b"\r\n\r\n")
    if status == 200:
        like = api.send(None, path, method="GET")
        assert f"Content-Length: {like.headers['content-length']}".encode() in raw


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("query", ["zebra=1", "zebra", "phoneNumber=%2B79161357924", "%ff%fe=1"])
def test_an_unknown_query_parameter_is_refused(api: Api, path: str, query: str) -> None:
    method = ROUTES[path]
    api.refused(GOOD if method == "POST" else None, f"{path}?{query}", method=method)
    assert api.recorded() == 0


@pytest.mark.parametrize("correlator", ["a", "b4333c46-49c0-4f62-80d7-f0ef930f1c46", "A-Z_0:9;.<>{}/", "x" * 256])
def test_a_correlator_comes_back(api: Api, correlator: str) -> None:
    for path, body, status in (("/v1/presence", GOOD, 200), ("/v1/presence", b"{", 400), ("/v1/nowhere", GOOD, 404)):
        answer = api.send(body, path, headers=("Content-Type: application/json", f"x-correlator: {correlator}"))
        assert (answer.status, answer.headers["x-correlator"]) == (status, correlator)


@pytest.mark.parametrize("correlator", ["zebra!", "zebra okapi", "zebra" * 52, "z\u00e9bra", "zebra,zebra", "zebra\\", '"zebra"', ""])
def test_a_correlator_that_is_none_is_not_repeated(api: Api, correlator: str) -> None:
    answer = api.send(GOOD, headers=("Content-Type: application/json", f"x-correlator: {correlator}"))
    assert answer.status == 200
    assert FRESH.fullmatch(answer.headers["x-correlator"])
    assert_no_traces(answer.raw)


@pytest.mark.parametrize(
    "request_bytes",
    [
        *(b"zebra\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03zebra", b"\xff\xfe\x00\r\n\r\n", b"GET zebra\r\n\r\n"),
        *(
            b"zebra / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: zebra\r\n\r\n",
            b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n \r\n",
        ),
        *(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: zebra\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nzebra",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Type: application/json\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzebra",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzebra\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: zebra\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nzebra\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nzebra : okapi\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Zebra: zebra\x00okapi\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Zebra: a\r\n folded zebra\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Zebra: " + b"zebra" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"zebra" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-Zebra-%d: okapi\r\n" % n for n in range(500)) + b"\r\n",
        b"GET http://[zebra/ HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda request: request[:24].decode("latin-1").encode("unicode_escape").decode(),
)
def test_what_is_not_http_is_refused_without_an_echo(api: Api, request_bytes: bytes) -> None:
    answer = parse_answer(exchange(api.service.api, request_bytes))
    assert_refused(answer, 400, "INVALID_ARGUMENT")


def test_a_bad_request_does_not_stain_the_next(api: Api) -> None:
    """On one connection: a refusal whose body was read leaves the connection in order."""
    [number] = api.service.contracts()
    good = json.dumps({"phoneNumber": f"+{number}"}).encode()
    head = b"POST /v1/presence HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {api.messenger.api_key}\r\n".encode()
    one = head + b"Content-Length: 5\r\n\r\nzebra"
    two = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(good) + good
    raw = exchange(api.service.api, one + two)
    first, _, second = raw.partition(b"HTTP/1.1 200 OK")
    assert first.startswith(b"HTTP/1.1 400 ")
    assert b'"present":true' in second
    assert_no_traces(first)


def test_the_database_s_log_holds_no_trace(api: Api) -> None:
    number = new_number()
    for code in (CODE, "x"):
        api.send(json.dumps({"phoneNumber": f"+{number}", "identificationCode": code}).encode())
    log = api.service.site.database.server.log.read_bytes()
    assert_no_traces(log)
    assert str(number).encode() not in log
