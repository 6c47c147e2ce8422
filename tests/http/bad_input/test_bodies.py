"""Bodies that a messenger may send wrongly: each is refused in the same form, and nothing that was sent is told again or logged."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib

import pytest

from registryd.http.messenger import IDS_MAX_BYTES
from registryd.http.routes import ONE_MAX_BYTES
from tests.http.bad_input.conftest import CODE, FIELD, GOOD, NUMBER, TAKES_JSON, Api
from tests.http.conftest import ask


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


def largest(api: Api, path: str) -> int:
    """What a body of this path may take."""
    return {"/v1/presence": ONE_MAX_BYTES, "/v1/notifications/acknowledge": IDS_MAX_BYTES}.get(path) or (
        api.service.site.settings.file.api.body_max_bytes
    )


SIZED = ("/v1/presence", "/v1/notifications/acknowledge", "/v1/presence/batch")


@pytest.mark.parametrize("path", SIZED)
@pytest.mark.parametrize("framing", ["length", "length alone", "chunks"])
def test_an_oversized_body_is_refused(api: Api, framing: str, path: str) -> None:
    limit = largest(api, path)
    body = GOOD + b" " * limit
    if framing == "chunks":
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        answer = api.refused(body, path, status=413, code="TOO_LARGE", framing="Transfer-Encoding: chunked")
    else:
        # A declared length is enough: the body need not come.
        sent = body if framing == "length" else b""
        answer = api.refused(sent, path, status=413, code="TOO_LARGE", framing=f"Content-Length: {len(body)}")
    assert str(limit) in answer.body["detail"]
    assert api.recorded() == 0


def test_a_body_of_the_largest_size_is_read(api: Api) -> None:
    [number] = api.service.contracts()
    query = f'{{"phoneNumber": "+{number}"}}'.encode()
    assert api.send(query.ljust(largest(api, "/v1/presence"))).body["present"] is True
    batch = b'{"queries": [%s]}' % query
    told = api.send(batch.ljust(largest(api, "/v1/presence/batch")), "/v1/presence/batch")
    assert told.body["results"][0]["present"] is True


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


@pytest.mark.parametrize(("path", "depth"), [("/v1/presence", 900), ("/v1/presence", 1024), ("/v1/presence/batch", 100_000)])
@pytest.mark.parametrize("letter", ["a", "\\u0061"])
def test_deep_nesting_is_refused(api: Api, path: str, depth: int, letter: str) -> None:
    api.refused(b"[" * depth + f'"{letter}"'.encode() + b"]" * depth, path)
    api.refused(f'{{"{letter}":'.encode() * depth + b"1" + b"}" * depth, path)
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
