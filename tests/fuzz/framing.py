"""The same for what frames a body, and for bodies, halves and pipelines: where a proxy may see other requests than we do."""

from __future__ import annotations

from tests.fuzz import cases
from tests.fuzz.cases import ANSWERED, CHUNKED, GOOD, HEAD, KEPT, REFUSED, Case, fill, with_body, with_framing, with_line

CHUNK = b"@HEX\r\n@BODY\r\n"
END = b"0\r\n\r\n"
HIDDEN = b"GET /zebra HTTP/1.1\r\nHost: okapi\r\n\r\n"


def chunks(sent: bytes) -> bytes:
    return CHUNKED + sent


LENGTHS = [
    Case(f"a length of {length!r}", with_framing(b"Content-Length: " + length), REFUSED)
    for length in (
        b"zebra",
        b"-1",
        b"-0",
        b"+@LEN",
        b"0x@HEX",
        b"@LEN.0",
        b"1e2",
        b"@LEN, @LEN",
        b"@LEN,6",
        b"@LEN;",
        b"@LEN @LEN",
        b"'@LEN'",
        b"",
    )
]
LENGTHS += [
    Case("a length in Arabic digits", with_framing("Content-Length: ٦٠".encode()), REFUSED),
    Case("a length of 2 ** 64 + 5", with_framing(b"Content-Length: 18446744073709551621"), REFUSED),
    Case("a length of 10 ** 100", with_framing(b"Content-Length: 1" + b"0" * 100), REFUSED),
    Case("a length with zeros before", with_framing(b"Content-Length: 0000@LEN"), ANSWERED),
    Case("a length with blanks about it", with_framing(b"Content-Length:  \t @LEN \t"), ANSWERED),
    Case("two lengths, the same", with_framing(b"Content-Length: @LEN", b"Content-Length: @LEN"), REFUSED),
    Case("two lengths, the first short", with_framing(b"Content-Length: 0", b"Content-Length: @LEN"), REFUSED),
    Case("two lengths, the second short", with_framing(b"Content-Length: @LEN", b"Content-Length: 0"), REFUSED),
    Case("a folded length", with_framing(b"Content-Length:\r\n @LEN"), REFUSED),
    Case("a blank before the length's colon", with_framing(b"Content-Length : @LEN"), REFUSED),
    Case("a length with an underscore", with_framing(b"Content_Length: @LEN", b"Content-Length: 0", body=b""), (400, KEPT)),
    Case("no length", with_framing(body=b""), (400, KEPT)),
    Case("a length in a GET", b"GET /zebra HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nokapi", (404, KEPT)),
    Case("chunks in a GET", b"GET /zebra HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nokapi\r\n" + END, (404, KEPT)),
    Case("a length and chunks", with_framing(b"Content-Length: @LEN", b"Transfer-Encoding: chunked", body=END + HIDDEN), REFUSED),
    Case("chunks and a length", with_framing(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=CHUNK + END), REFUSED),
    Case("chunks and no length", with_framing(b"Transfer-Encoding: chunked", b"Content-Length: 0", body=CHUNK + END), REFUSED),
]
CODINGS = [
    Case(f"a coding of {coding!r}", with_framing(b"Transfer-Encoding: " + coding, body=CHUNK + END), REFUSED)
    for coding in (
        *(b"zebra", b"xchunked", b"chunked, zebra", b"chunked, identity", b"chunked, chunked", b"'chunked'", b'"chunked"', b"\x0bchunked"),
        *(b"chunked\x00", b"chunked;zebra=1", b"chunk ed", b"chunked chunked", b"identity", b""),
    )
]
CODINGS += [
    Case("gzip in chunks", with_framing(b"Transfer-Encoding: gzip, chunked", body=CHUNK + END), ANSWERED),
    Case("CHUNKED", with_framing(b"Transfer-Encoding: \tCHUNKED ", body=CHUNK + END), ANSWERED),
    Case("two codings", with_framing(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=CHUNK + END), REFUSED),
    Case("the coding twice", with_framing(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNK + END), REFUSED),
    Case("a folded coding", with_framing(b"Transfer-Encoding:\r\n chunked", body=CHUNK + END), REFUSED),
    Case("a blank before the coding's colon", with_framing(b"Transfer-Encoding : chunked", body=CHUNK + END), REFUSED),
    Case("chunks in HTTP/1.0", chunks(CHUNK + END).replace(b"@LINE", b"POST @PATH HTTP/1.0"), REFUSED),
]
CHUNKS = [
    Case("chunks", chunks(CHUNK + END), ANSWERED),
    Case("a chunk a byte", chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"zebra":1}') + END), (400, KEPT)),
    Case("a size with zeros before", chunks(b"000000@HEX\r\n@BODY\r\n000\r\n\r\n"), ANSWERED),
    Case("a size with an extension", chunks(b"@HEX;zebra=okapi\r\n@BODY\r\n0;zebra\r\n\r\n"), ANSWERED),
    Case("a size with a quoted extension", chunks(b'@HEX;zebra="o;k\\"api"\r\n@BODY\r\n' + END), ANSWERED),
    Case("an extension of 100,000 bytes", chunks(b"@HEX;" + b"z" * 100_000 + b"\r\n@BODY\r\n" + END), ANSWERED),
    Case("an extension with a line feed", chunks(b"@HEX;zebra\n@BODY\r\n" + END), REFUSED),
    Case("an extension with a carriage return", chunks(b"@HEX;ze\rbra\r\n@BODY\r\n" + END), REFUSED),
    Case("a trailer", chunks(CHUNK + b"0\r\nX-Zebra: okapi\r\n\r\n"), ANSWERED),
    Case("a trailer with a length", chunks(CHUNK + b"0\r\nContent-Length: 500\r\n\r\n"), REFUSED),
    Case("a trailer of 100,000 bytes", chunks(CHUNK + b"0\r\nX-Zebra: " + b"z" * 100_000 + b"\r\n\r\n"), REFUSED),
    *(
        Case(f"a size of {size!r}", chunks(size + b"\r\n@BODY\r\n" + END), REFUSED)
        for size in (
            b"zebra",
            b"-1",
            b"+@HEX",
            b"0x@HEX",
            b"@HEX ",
            b" @HEX",
            b"",
            b"1" + b"0" * 16,
            b"f" * 16,
            b"f" * 1_000,
            "１".encode(),
            b"@HEX,",
        )
    ),
    Case("a size with a line feed", chunks(b"@HEX\n@BODY\r\n" + END), REFUSED),
    Case("a chunk with a line feed", chunks(b"@HEX\r\n@BODY\n" + END), REFUSED),
    Case("a chunk without its end", chunks(b"@HEX\r\n@BODY" + END), REFUSED),
    Case("a chunk that is longer than its size", chunks(b"@HEX\r\n@BODYzebra\r\n" + END), REFUSED),
    Case("the end with line feeds", chunks(CHUNK + b"0\n\n"), REFUSED),
    Case("a request after the end", chunks(CHUNK + END + HIDDEN), (200, 404, KEPT)),
    Case("an end at once", chunks(END), (400, KEPT)),
]
DEEP = 100_000
BODIES = [
    Case(name, with_body(body), (400, KEPT))
    for name, body in {
        "no JSON": b"zebra",
        "NULs": bytes(1_000),
        "a byte order mark": b"\xef\xbb\xbf{}",
        "deep arrays": b"[" * DEEP + b"]" * DEEP,
        "deep objects": b'{"queries":' * DEEP + b"1" + b"}" * DEEP,
        "arrays that never end": b"[" * DEEP,
        "a long number": b"1" * DEEP,
        "a large exponent": b'{"phoneNumber": 1e999999999}',
        "a number as a float": b'{"phoneNumber": 79161357924.0, "events": 1.5}',
        "a number beyond 64 bits": b'{"phoneNumber": 179161357924179161357924}',
        "NaN": b'{"phoneNumber": NaN}',
        "10,000 fields": b"{" + b",".join(b'"zebra%d":1' % n for n in range(10_000)) + b"}",
        "one field 10,000 times": b"{" + b",".join([b'"zebra":1'] * 10_000) + b"}",
        "a text of 500,000 letters": b'{"phoneNumber": "' + b"z" * 500_000 + b'"}',
        "half a surrogate": b'{"phoneNumber": "\\ud800"}',
        "a bare surrogate": b'{"phoneNumber": "\xed\xa0\x80"}',
        "not UTF-8": b'{"phoneNumber": "\xff\xfe"}',
        "overlong UTF-8": b'{"phoneNumber": "\xc0\xaf"}',
        "an escaped NUL": b'{"phoneNumber": "zebra\\u0000"}',
        "a control character": b'{"phoneNumber": "zebra\x01"}',
        "100,000 nulls": b'{"queries": [' + b",".join([b"null"] * DEEP) + b"]}",
    }.items()
]
HALVES = [
    Case("half a line", b"POST /zebra", ()),
    Case("half a header", HEAD + b"X-Zebra: oka", ()),
    Case("headers without their end", HEAD + b"Content-Length: 5\r\n", ()),
    Case("half a body", HEAD + b"Content-Length: @LEN\r\n\r\n{", REFUSED),
    Case("half a chunk", chunks(b"@HEX\r\n{"), REFUSED),
    Case("half a size", chunks(b"@HEX"), REFUSED),
    Case("chunks without their end", chunks(CHUNK), REFUSED),
    Case("half a trailer", chunks(CHUNK + b"0\r\nX-Ze"), REFUSED),
    Case("a request and half of the next", GOOD + GOOD[:30], (200,)),
    Case("half a body that nobody reads", b"POST /zebra HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nokapi", (404,)),
]
"""After these the client shuts its side, and no good request follows."""
PIPELINES = [
    Case("three requests", GOOD * 3, (200, 200, 200, KEPT)),
    Case("a refused one before a good one", with_body(b"zebra") + GOOD, (400, 200, KEPT)),
    Case("one without a key before a good one", GOOD.replace(b"@AUTH\r\n", b"") + GOOD, (401, 200, KEPT)),
    Case("an unread body before a good one", GOOD.replace(b"@LINE", b"POST /zebra HTTP/1.1") + GOOD, (404, 200, KEPT)),
    Case("a body that looks like a request", with_body(HIDDEN), (400, KEPT)),
    Case("a body that looks like chunks", with_body(END + HIDDEN), (400, KEPT)),
    Case("a good one before garbage", GOOD + b"\x00zebra\r\n\r\n", REFUSED),
    Case("one that closes before another", with_line(b"POST @PATH HTTP/1.0") + HIDDEN, REFUSED),
    Case("a body longer than its length", GOOD + b"zebra", REFUSED),
    Case("500 that are not there", HIDDEN * 500, (*[404] * 500, KEPT)),
]
FOLLOWED = [*(cases.FOREIGN + cases.LINES + cases.HEADERS), *(LENGTHS + CODINGS + CHUNKS + BODIES + PIPELINES)]
SEED_MAX_BYTES = 2_000


def requests() -> list[bytes]:
    """The shorter cases, filled in for nobody's API: what a fuzzer begins with."""
    body = b'{"phoneNumber": "+79161357924"}'
    filled = [fill(case.sent, path=b"/", key="rk_a_b", body=body) for case in FOLLOWED + HALVES]
    return [sent for sent in filled if len(sent) < SEED_MAX_BYTES]


def bodies() -> list[bytes]:
    """Good and bad bodies, likewise."""
    good = [
        b'{"phoneNumber":"+79161357924","identificationCode":"u-1"}',
        b'{"queries":[{"phoneNumber":"+79161357924"},{"phoneNumber":"+79161357925","identificationCode":null}]}',
        b'{"notificationIds":["00000000-0000-0000-0000-000000000000"]}',
        b'{"events":[{"eventId":"e1","type":"activated","phoneNumber":"+79161357924","occurredAt":"2026-01-02T03:04:05Z","holder":"individual"}]}',
    ]
    return good + [case.sent.partition(b"\r\n\r\n")[2] for case in BODIES if len(case.sent) < SEED_MAX_BYTES]
