"""What a messenger may send wrongly: each is refused in the same form, and nothing that was sent is told again or logged."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from registryd.store.keys import new_key
from tests.conftest import TestMessenger
from tests.http.conftest import Answer, Service, ask, exchange, new_number, parse_answer

NUMBER = "+79161357924"
CODE = "code-zebra-5150"
FIELD = "fieldQuagga"
SECRET = "okapi" * 8
TRACES = (b"79161357924", b"zebra", b"uagga", b"okapi", b"\\u00", "٧٩".encode(), "９".encode(), b"\xff\xfe", b"\xed\xa0", b"\x00")
"""What stands in the requests below and must never stand in an answer or in the log."""

GOOD = json.dumps({"phoneNumber": NUMBER, "identificationCode": CODE}).encode()
ROUTES = {
    "/v1/presence": "POST",
    "/v1/presence/batch": "POST",
    "/v1/bindings": "POST",
    "/v1/bindings/retrieve": "POST",
    "/v1/bindings/remove": "POST",
    "/v1/notifications": "GET",
    "/v1/notifications/acknowledge": "POST",
    "/v1/notifications/test": "POST",
    "/v1/account": "GET",
}
TAKES_JSON = [path for path, method in ROUTES.items() if method == "POST"]
FRESH = re.compile(r"[0-9a-f]{16}")


@dataclass
class Api:
    """The messenger API as one messenger meets it, byte by byte."""

    service: Service
    messenger: TestMessenger
    held: int = 0
    """What the database held of this messenger before."""

    def send(
        self,
        body: bytes | None,
        path: str = "/v1/presence",
        *,
        method: str = "POST",
        headers: tuple[str | bytes, ...] = ("Content-Type: application/json",),
        authorization: tuple[str | bytes, ...] | None = None,
        framing: str | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        if authorization is None:
            authorization = (f"Authorization: Bearer {self.messenger.api_key}",)
        if framing is None and body is not None:
            framing = f"Content-Length: {len(body)}"
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: registry",
            "Connection: close",
            *authorization,
            *headers,
            *([framing] if framing else []),
        ]
        head = b"\r\n".join(line.encode() if isinstance(line, str) else line for line in lines)
        return parse_answer(exchange(self.service.api, head + b"\r\n\r\n" + (body or b"")))

    def refused(
        self, body: bytes | None, path: str = "/v1/presence", status: int = 400, code: str = "INVALID_ARGUMENT", **how: Any
    ) -> Answer:
        answer = self.send(body, path, **how)
        assert_refused(answer, status, code)
        return answer

    def recorded(self) -> int:
        """How much more of this messenger the database holds than before."""
        [row] = self.service.sql(
            "SELECT (SELECT count(*) FROM registry.presence_query WHERE messenger_id = $1)"
            " + (SELECT count(*) FROM registry.binding WHERE messenger_id = $1) AS rows",
            self.messenger.messenger_id,
        )
        return int(row["rows"]) - self.held


def assert_refused(answer: Answer, status: int, code: str) -> None:
    """A problem document that tells nothing of the request."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer.raw
    problem = answer.body
    assert set(problem) in ({"type", "title", "status", "detail", "code"}, {"type", "title", "status", "detail", "code", "errors"})
    assert (problem["type"], problem["status"], problem["code"]) == ("about:blank", status, code)
    assert problem["title"]
    assert problem["detail"]
    if "errors" in problem:
        assert code == "INVALID_ARGUMENT"
        assert 1 <= len(problem["errors"]) <= 20
        assert all(set(error) == {"path", "message"} and error["message"] for error in problem["errors"])
    assert FRESH.fullmatch(answer.headers["x-correlator"])
    assert_no_traces(answer.raw)


def assert_no_traces(told: bytes) -> None:
    for trace in TRACES:
        assert trace not in told


@pytest.fixture(scope="module")
def messenger(service: Service) -> TestMessenger:
    return service.messenger()


@pytest.fixture
def api(service: Service, messenger: TestMessenger) -> Iterator[Api]:
    """A messenger's API; whatever the test sends, no line of the daemon's log may repeat it."""
    with silent(Api(service, messenger)) as api:
        yield api


@pytest.fixture
def own_api(service: Service) -> Iterator[Api]:
    """The same for a messenger that the test may change."""
    with silent(Api(service, service.messenger())) as api:
        yield api


@contextmanager
def silent(api: Api) -> Iterator[Api]:
    path = api.service.daemon.logs["answer"]
    start = path.stat().st_size
    api.held = api.recorded()
    yield api
    log = path.read_bytes()[start:]
    assert_no_traces(log)
    assert api.messenger.api_key.encode() not in log
    for line in log.splitlines():
        assert json.loads(line)["event"] in ("request_refused", "reloaded"), line


@pytest.mark.parametrize("path", [path for path in TAKES_JSON if path != "/v1/notifications/test"])
@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"}", b"nul", GOOD[:-1], GOOD + b"x", GOOD + GOOD, GOOD[:-1] + b",}", GOOD.replace(b'"', b"'"), b"// zebra\n" + GOOD),
        *(
            b"\xef\xbb\xbf" + GOOD,
            GOOD.replace(b"zebra", b"zebra\n"),
            b'{"phoneNumber": NaN}',
            b'{"phoneNumber": -Infinity}',
            b'{"zebra" 1}',
        ),
    ],
)
def test_malformed_json_is_refused(api: Api, path: str, body: bytes) -> None:
    answer = api.refused(body, path)
    assert answer.body["errors"] == [{"path": "", "message": "the body must be one JSON value in UTF-8"}]
    assert api.recorded() == 0


@pytest.mark.parametrize("path", [path for path in TAKES_JSON if path != "/v1/notifications/test"])
@pytest.mark.parametrize("body", [None, b"", b"[]", b"null", b'"zebra"', b"7", b"{}", b"[[]]"])
def test_a_body_of_another_shape_is_refused(api: Api, path: str, body: bytes | None) -> None:
    api.refused(body, path)
    assert api.recorded() == 0


def test_of_a_repeated_field_the_last_one_counts(api: Api) -> None:
    [number] = api.service.contracts()
    for repeated in ("phoneNumber", "phone\\u004eumber"):
        answer = api.send(f'{{"{repeated}": "+79160000001", "phoneNumber": "+{number}"}}'.encode())
        assert (answer.status, answer.body["present"]) == (200, True)


@pytest.mark.parametrize("code", ['"a:b"', '"a\\u003ab:"', '"\\":\\\\"', '"phoneNumber\\":"', '"{\\"a\\":1}"'])
def test_a_code_may_look_like_json(api: Api, code: str) -> None:
    [number] = api.service.contracts()
    answer = api.send(f'{{"phoneNumber": "+{number}", "identificationCode": {code}}}'.encode())
    assert (answer.status, answer.body["binding"]) == (200, "recorded")
    found = api.send(f'{{"identificationCode": {code}}}'.encode(), "/v1/bindings/retrieve")
    assert found.body["identificationCode"] == json.loads(code)


@pytest.mark.parametrize("framing", ["length", "length alone", "chunks"])
def test_an_oversized_body_is_refused(api: Api, framing: str) -> None:
    limit = api.service.site.settings.file.api.body_max_bytes
    body = GOOD + b" " * limit
    if framing == "chunks":
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        answer = api.refused(body, status=413, code="TOO_LARGE", framing="Transfer-Encoding: chunked")
    else:
        # A declared length is enough: the body need not come.
        sent = body if framing == "length" else b""
        answer = api.refused(sent, status=413, code="TOO_LARGE", framing=f"Content-Length: {len(body)}")
    assert str(limit) in answer.body["detail"]
    assert api.recorded() == 0


def test_a_body_of_the_largest_size_is_read(api: Api) -> None:
    [number] = api.service.contracts()
    limit = api.service.site.settings.file.api.body_max_bytes
    body = f'{{"phoneNumber": "+{number}"}}'.encode().ljust(limit)
    assert api.send(body).body["present"] is True


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", b"\xe9", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\\ud800", b"\\udfff\\ud800"]
)
@pytest.mark.parametrize("field", ["phoneNumber", "identificationCode", FIELD])
def test_what_is_not_utf8_is_refused(api: Api, text: bytes, field: str) -> None:
    api.refused(b'{"phoneNumber": "%s", "%s": "%s"}' % (NUMBER.encode(), field.encode(), text))
    assert api.recorded() == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp037"])
def test_another_encoding_is_refused(api: Api, encoding: str) -> None:
    api.refused(GOOD.decode().encode(encoding))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "zebra"])
def test_a_compressed_body_is_refused(api: Api, encoding: str) -> None:
    body = {"gzip": gzip.compress(GOOD), "deflate": zlib.compress(GOOD)}.get(encoding, GOOD)
    headers = ("Content-Type: application/json", f"Content-Encoding: {encoding}")
    api.refused(body, status=415, code="UNSUPPORTED_MEDIA_TYPE", headers=headers)
    assert api.recorded() == 0


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/v1/presence", {"phoneNumber": NUMBER, FIELD: CODE}, ""),
        ("/v1/presence", {"phoneNumber": NUMBER, "PhoneNumber": NUMBER}, ""),
        ("/v1/presence", {"phoneNumber": NUMBER, "": {}}, ""),
        ("/v1/presence/batch", {"queries": [{"phoneNumber": NUMBER}, {"phoneNumber": NUMBER, FIELD: None}]}, "queries[1]"),
        ("/v1/presence/batch", {"queries": [{"phoneNumber": NUMBER}], FIELD: CODE}, "queries"),
        ("/v1/bindings", {"phoneNumber": NUMBER, "identificationCode": CODE, FIELD: 1}, ""),
        ("/v1/bindings/retrieve", {"identificationCode": CODE, "phoneNumber": NUMBER}, ""),
        ("/v1/bindings/remove", {"identificationCode": CODE, FIELD: []}, ""),
        ("/v1/notifications/acknowledge", {"notificationIds": ["zebra"], FIELD: 0}, ""),
        ("/v1/notifications/test", {FIELD: "zebra"}, ""),
        ("/v1/notifications/test", [], ""),
    ],
)
def test_an_unknown_field_is_refused(api: Api, path: str, body: object, where: str) -> None:
    answer = api.refused(json.dumps(body).encode(), path)
    assert [error["path"] for error in answer.body["errors"]] == [where]
    assert api.recorded() == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(
            ("phoneNumber", "identificationCode"), [79161357924, 79161357924.0, 10**25, True, [], [NUMBER], {"phoneNumber": NUMBER}]
        ),
        ("phoneNumber", None),
    ],
)
def test_a_field_of_another_type_is_refused(api: Api, field: str, value: object) -> None:
    answer = api.refused(json.dumps({"phoneNumber": NUMBER, field: value}).encode())
    assert [error["path"] for error in answer.body["errors"]] == [field]
    assert api.recorded() == 0


@pytest.mark.parametrize(
    "number",
    [
        *("+٧٩١٦١٣٥٧٩٢٤", "+７９１６１３５７９２４", "+7916135792４", "+7916135792²", "＋79161357924", "+791613579\u200b24"),
        *(
            "+79161357924" + "0" * 8,
            "+7916135792400000",
            "+" + "7" * 1000,
            "+7916",
            "+",
            "",
            "79161357924",
            "0079161357924",
            "+09161357924",
        ),
        *(" +79161357924", "+79161357924 ", "+7 916 135 79 24", "+7-916-1357924", "+79161357924\n", "+79161357924\x00", "++79161357924"),
        *("tel:+79161357924", "+79161357924;ext=1", "+7916135792a", "+0x12345", "+1e10", "-79161357924"),
    ],
)
def test_what_is_no_number_is_refused(api: Api, number: str) -> None:
    for path, body, where in (
        ("/v1/presence", {"phoneNumber": number}, "phoneNumber"),
        ("/v1/presence/batch", {"queries": [{"phoneNumber": NUMBER}, {"phoneNumber": number}]}, "queries[1].phoneNumber"),
        ("/v1/bindings", {"phoneNumber": number, "identificationCode": CODE}, "phoneNumber"),
    ):
        answer = api.refused(json.dumps(body, ensure_ascii=False).encode(), path)
        assert [error["path"] for error in answer.body["errors"]] == [where]
    assert api.recorded() == 0


@pytest.mark.parametrize("code", ["", "zebra" * 26, "zebra\n", "zebra\x00", "\x7fzebra", "z\u00e9bra", "zebra\u2028", "\U0001f993"])
def test_what_is_no_code_is_refused(api: Api, code: str) -> None:
    for path, body, where in (
        ("/v1/presence", {"phoneNumber": NUMBER, "identificationCode": code}, "identificationCode"),
        ("/v1/presence/batch", {"queries": [{"phoneNumber": NUMBER, "identificationCode": code}]}, "queries[0].identificationCode"),
        ("/v1/bindings", {"phoneNumber": NUMBER, "identificationCode": code}, "identificationCode"),
        ("/v1/bindings/retrieve", {"identificationCode": code}, "identificationCode"),
        ("/v1/bindings/remove", {"identificationCode": code}, "identificationCode"),
    ):
        answer = api.refused(json.dumps(body).encode(), path)
        assert [error["path"] for error in answer.body["errors"]] == [where]
    assert api.recorded() == 0


@pytest.mark.parametrize("depth", [900, 1024, 100_000])
@pytest.mark.parametrize("letter", ["a", "\\u0061"])
def test_deep_nesting_is_refused(api: Api, depth: int, letter: str) -> None:
    api.refused(b"[" * depth + f'"{letter}"'.encode() + b"]" * depth)
    api.refused(f'{{"{letter}":'.encode() * depth + b"1" + b"}" * depth)
    api.refused(b'{"queries":' + b"[" * depth + b"]" * depth + b"}", "/v1/presence/batch")
    assert api.recorded() == 0


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Content-Type: text/plain",),
        ("Content-Type: application/x-www-form-urlencoded",),
        ("Content-Type: multipart/form-data; boundary=zebra",),
        ("Content-Type: application/json; charset=iso-8859-1",),
        ("Content-Type: application/jsonzebra",),
        ("Content-Type: application/vnd.zebra+json",),
        ("Content-Type: ",),
    ],
)
@pytest.mark.parametrize("path", ["/v1/presence", "/v1/presence/batch", "/v1/notifications/acknowledge"])
def test_another_media_type_is_refused(api: Api, headers: tuple[str, ...], path: str) -> None:
    api.refused(GOOD, path, status=415, code="UNSUPPORTED_MEDIA_TYPE", headers=headers)
    assert api.recorded() == 0


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "application/json;"])
def test_json_may_name_its_charset(api: Api, kind: str) -> None:
    assert api.send(GOOD, headers=(f"Content-Type: {kind}",)).status == 200


def keys(api: Api) -> dict[str, tuple[str | bytes, ...]]:
    """Authorization headers that prove nothing."""
    _, key_id, secret = api.messenger.api_key.split("_", 2)
    _, other_id, other_secret = api.service.messenger().api_key.split("_", 2)
    good = f"Authorization: Bearer {api.messenger.api_key}"
    return {
        "none": (),
        "empty": ("Authorization: ",),
        "two": (good, good),
        "two, one of them wrong": (good, f"Authorization: Bearer rk_{key_id}_{SECRET}"),
        "two in one": (f"{good}, Bearer rk_{key_id}_{SECRET}",),
        "another scheme": (f"Authorization: Basic {SECRET}",),
        "no scheme": (f"Authorization: {api.messenger.api_key}",),
        "no secret": (f"Authorization: Bearer rk_{key_id}_",),
        "no id": (f"Authorization: Bearer rk__{secret}",),
        "not a key": (f"Authorization: Bearer {SECRET}",),
        "blank before": (f"Authorization: Bearer  {api.messenger.api_key}",),
        "longer": (f"{good}okapi",),
        "shorter": (good[:-1],),
        "long": (f"Authorization: Bearer rk_{key_id}_{'okapi' * 100}",),
        "not ASCII": (b"Authorization: Bearer rk_\xff\xfe_okapi",),
        "unknown id": (f"Authorization: Bearer rk_okapiokapiokapi2_{secret}",),
        "wrong secret": (f"Authorization: Bearer rk_{key_id}_{SECRET}",),
        "another's secret": (f"Authorization: Bearer rk_{key_id}_{other_secret}",),
        "another's id": (f"Authorization: Bearer rk_{other_id}_{secret}",),
        "the operator's token": (f"Authorization: Bearer {api.service.site.operator_key.shown}",),
        "in another header": (f"X-Api-Key: {api.messenger.api_key}",),
    }


def test_a_key_that_proves_nothing_is_refused_whatever_is_wrong_with_it(api: Api) -> None:
    first = api.refused(GOOD, status=401, code="UNAUTHENTICATED", authorization=())
    for kind, authorization in keys(api).items():
        for path, method in ROUTES.items():
            body = GOOD if method == "POST" else None
            answer = api.refused(body, path, 401, "UNAUTHENTICATED", method=method, authorization=authorization)
            assert answer.body == first.body, kind
            assert answer.headers["www-authenticate"] == "Bearer", kind
    assert api.recorded() == 0


def test_who_is_not_known_learns_nothing_about_the_request(api: Api) -> None:
    for how in ({"headers": ("Content-Type: text/zebra",)}, {"framing": "Content-Length: 999999999"}, {"path": "/v1/presence?zebra=1"}):
        api.refused(b"", status=401, code="UNAUTHENTICATED", authorization=(), **how)


def test_a_revoked_key_is_refused_within_5_seconds(own_api: Api) -> None:
    _, key_id, _ = own_api.messenger.api_key.split("_", 2)
    assert own_api.send(GOOD).status == 200
    own_api.service.sql("UPDATE registry.messenger_key SET revoked_at = now() WHERE key_id = $1", key_id)
    end = time.monotonic() + 5
    while own_api.send(GOOD).status == 200:
        assert time.monotonic() < end
    own_api.refused(GOOD, status=401, code="UNAUTHENTICATED")


def test_an_expired_key_is_refused_and_its_successor_is_not(own_api: Api) -> None:
    key = new_key()
    own_api.service.sql(
        "INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256) VALUES ($1, $2, $3)",
        key.key_id,
        own_api.messenger.messenger_id,
        key.secret_sha256,
    )
    _, key_id, _ = own_api.messenger.api_key.split("_", 2)
    own_api.service.sql("UPDATE registry.messenger_key SET expires_at = now() + interval '1 s' WHERE key_id = $1", key_id)
    own_api.service.reload()
    successor = (f"Authorization: Bearer {key.shown}",)
    assert (own_api.send(GOOD).status, own_api.send(GOOD, authorization=successor).status) == (200, 200), "two keys overlap"
    end = time.monotonic() + 5
    while own_api.send(GOOD).status == 200:
        assert time.monotonic() < end
    own_api.refused(GOOD, status=401, code="UNAUTHENTICATED")
    assert own_api.send(GOOD, authorization=successor).status == 200


WHILE_SUSPENDED = ("/v1/notifications", "/v1/notifications/acknowledge", "/v1/account")


def test_a_suspended_messenger_may_learn_what_it_is_owed_and_nothing_else(own_api: Api) -> None:
    assert own_api.send(GOOD).status == 200
    held = own_api.recorded()
    own_api.service.sql(
        "UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE messenger_id = $1", own_api.messenger.messenger_id
    )
    end = time.monotonic() + 5
    while own_api.send(GOOD).status == 200:
        assert time.monotonic() < end
    held = own_api.recorded()
    for path, method in ROUTES.items():
        if path not in WHILE_SUSPENDED:
            own_api.refused(GOOD if method == "POST" else None, path, 403, "PERMISSION_DENIED", method=method)
    assert own_api.send(None, "/v1/notifications", method="GET").body == {"notifications": [], "next": None}
    body = b'{"notificationIds": ["00000000-0000-0000-0000-000000000000"]}'
    assert own_api.send(body, "/v1/notifications/acknowledge").body == {"acknowledged": 0}
    assert own_api.send(None, "/v1/account", method="GET").status == 200
    _, key_id, _ = own_api.messenger.api_key.split("_", 2)
    own_api.refused(GOOD, status=401, code="UNAUTHENTICATED", authorization=(f"Authorization: Bearer rk_{key_id}_{SECRET}",))
    assert own_api.recorded() == held


@pytest.mark.parametrize("place", [0, 4_321, 9_999])
@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ({"phoneNumber": "+7916135792400000"}, ".phoneNumber"),
        ({"phoneNumber": 79161357924}, ".phoneNumber"),
        ({"phoneNumber": NUMBER, "identificationCode": False}, ".identificationCode"),
        ({"phoneNumber": NUMBER, FIELD: CODE}, ""),
        ({"identificationCode": CODE}, ""),
        ("zebra", ""),
    ],
    ids=["number", "type", "code", "unknown", "missing", "shape"],
)
def test_one_bad_item_refuses_a_batch_of_10_000(own_api: Api, place: int, bad: object, path: str) -> None:
    [number] = own_api.service.contracts()
    items: list[object] = [{"phoneNumber": f"+{number}", "identificationCode": CODE}] * 10_000
    items[place] = bad
    answer = own_api.refused(json.dumps({"queries": items}).encode(), "/v1/presence/batch")
    assert [error["path"] for error in answer.body["errors"]] == [f"queries[{place}]{path}"]
    assert own_api.recorded() == 0
    account = ask(own_api.service.api, "GET", "/v1/account", headers=own_api.messenger.headers).body
    assert account["quota"]["used"] == 0


def test_the_first_20_bad_items_are_named(api: Api) -> None:
    """Whatever is wrong with each of them."""
    kinds: list[object] = [{"phoneNumber": "zebra"}, {"phoneNumber": 1}, {"phoneNumber": NUMBER, FIELD: 1}, 7, {"phoneNumber": NUMBER}]
    answer = api.refused(json.dumps({"queries": kinds * 2_000}).encode(), "/v1/presence/batch")
    where = ["queries[{}].phoneNumber", "queries[{}].phoneNumber", "queries[{}]", "queries[{}]"]
    expected = [path.format(5 * turn + place) for turn in range(5) for place, path in enumerate(where)]
    assert [error["path"] for error in answer.body["errors"]] == expected
    assert api.recorded() == 0


@pytest.mark.parametrize("count", [0, 10_001])
def test_a_batch_holds_1_to_10_000_queries(api: Api, count: int) -> None:
    answer = api.refused(json.dumps({"queries": [{"phoneNumber": NUMBER}] * count}).encode(), "/v1/presence/batch")
    assert [error["path"] for error in answer.body["errors"]] == ["queries"]
    assert api.recorded() == 0


@pytest.mark.parametrize("same", ["phoneNumber", "identificationCode"])
def test_a_batch_does_not_bind_one_name_without_end(api: Api, same: str) -> None:
    """Each such item is a statement and a journal page of its own."""
    numbers, code = api.service.contracts(101), f"c{api.service.contracts()[0]}"
    items = [{"phoneNumber": f"+{number}", "identificationCode": f"{code}-{number}"} for number in numbers]
    for item in items:
        item[same] = f"+{numbers[0]}" if same == "phoneNumber" else code
    answer = api.refused(json.dumps({"queries": items}).encode(), "/v1/presence/batch")
    assert [error["path"] for error in answer.body["errors"]] == ["queries"]
    assert api.recorded() == 0
    assert api.send(json.dumps({"queries": [*items[:100], {"phoneNumber": f"+{numbers[0]}"}]}).encode(), "/v1/presence/batch").status == 200


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
