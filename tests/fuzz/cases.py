"""What a hostile or broken client may send, byte by byte, and how many of its requests are answered with what.

`@LINE` is a good request line, `@MANY` a path that takes large bodies, `@AUTH` a header with a valid key, `@JSON` the media type, `@BODY` a
good body, `@LEN` its length and `@HEX` the same in hexadecimal. The words zebra and okapi and the number 79161357924 are the client's: they
must never come back. What comes in one piece with bytes that are no HTTP is refused with them.
"""

from __future__ import annotations

from typing import NamedTuple

from registryd.http.routes import ONE_MAX_BYTES

KEPT = 200
"""The last status of a case after which the connection goes on: the request that follows the case on it is answered."""
HEAD = b"@LINE\r\nHost: x\r\n@AUTH\r\n@JSON\r\n"
GOOD = HEAD + b"Content-Length: @LEN\r\n\r\n@BODY"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Case(NamedTuple):
    """`answers`: the statuses of what is answered; KEPT at the end, where the good request that follows is answered too."""

    name: str
    sent: bytes
    answers: tuple[int, ...]


MANY = {b"/v1/presence": b"/v1/presence/batch"}
"""Where much may be sent, by where little may."""


def fill(template: bytes, *, path: bytes, key: str, body: bytes) -> bytes:
    words = {
        b"@LINE": b"POST @PATH HTTP/1.1",
        b"@MANY": MANY.get(path, path),
        b"@PATH": path,
        b"@AUTH": f"Authorization: Bearer {key}".encode(),
        b"@JSON": b"Content-Type: application/json",
        b"@BODY": body,
        b"@LEN": str(len(body)).encode(),
        b"@HEX": f"{len(body):x}".encode(),
    }
    for word, meaning in words.items():
        template = template.replace(word, meaning)
    return template


def with_line(line: bytes) -> bytes:
    return GOOD.replace(b"@LINE", line)


def with_header(*headers: bytes) -> bytes:
    return GOOD.replace(b"Host: x", b"Host: x\r\n" + b"\r\n".join(headers))


def with_framing(*headers: bytes, body: bytes = b"@BODY") -> bytes:
    return HEAD + b"\r\n".join(headers) + b"\r\n\r\n" + body


def with_body(body: bytes) -> bytes:
    head = HEAD if len(body) <= ONE_MAX_BYTES else HEAD.replace(b"@LINE", b"POST @MANY HTTP/1.1")
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


REFUSED, ANSWERED = (400,), (200, KEPT)
FOREIGN = [
    Case("nothing", b"", (KEPT,)),
    Case("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03zebra", REFUSED),
    Case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00\x00\x00\x00\x00", REFUSED),
    Case("SSH", b"SSH-2.0-zebra_9.2\r\n", REFUSED),
    Case("SMTP", b"EHLO zebra\r\nMAIL FROM:<okapi>\r\n", REFUSED),
    Case("Redis", b"*1\r\n$4\r\nPING\r\n", REFUSED),
    Case("PostgreSQL", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", REFUSED),
    Case("PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GOOD, REFUSED),
    Case("PROXY protocol 2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + GOOD, REFUSED),
    Case("64 KiB of NULs", bytes(65536), REFUSED),
    Case("64 KiB of one letter", b"z" * 65536, REFUSED),
    Case("64 KiB of line ends", b"\r\n" * 32768, (KEPT,)),
    Case("all bytes", bytes(range(256)), REFUSED),
    Case("HTTP/0.9", b"GET /\r\n", REFUSED),
]
LINES = [
    Case("empty lines before", b"\r\n\r\n" + GOOD, ANSWERED),
    Case("a method in lower case", with_line(b"post @PATH HTTP/1.1"), REFUSED),
    Case("a method with a NUL", with_line(b"PO\x00ST @PATH HTTP/1.1"), REFUSED),
    Case("a method that is not ASCII", with_line(b"P\xd0\x9eST @PATH HTTP/1.1"), REFUSED),
    Case("a method of 10,000 letters", with_line(b"Z" * 10_000 + b" @PATH HTTP/1.1"), REFUSED),
    Case("a method of WebDAV", with_line(b"PROPFIND @PATH HTTP/1.1"), (405, KEPT)),
    Case("a method of UPnP", with_line(b"M-SEARCH @PATH HTTP/1.1"), (405, KEPT)),
    Case("a blank before the method", with_line(b" POST @PATH HTTP/1.1"), REFUSED),
    Case("two blanks", with_line(b"POST  @PATH  HTTP/1.1"), ANSWERED),
    Case("tabs", with_line(b"POST\t@PATH\tHTTP/1.1"), REFUSED),
    Case("a word after the version", with_line(b"POST @PATH HTTP/1.1 zebra"), REFUSED),
    Case("no version", with_line(b"POST @PATH"), REFUSED),
    Case("no path", with_line(b"POST HTTP/1.1"), REFUSED),
    *(
        Case(f"version {version}", with_line(f"POST @PATH {version}".encode()), REFUSED)
        for version in (
            "http/1.1",
            "HTTP/1.10",
            "HTTP/11",
            "HTTP/2.0",
            "HTTP/0.9",
            "HTTP/1.2",
            "HTTP/-1.1",
            "HTTPS/1.1",
            "HTTP 1.1",
            "ICE/1.0",
        )
    ),
    Case("RTSP", with_line(b"DESCRIBE @PATH RTSP/1.0"), REFUSED),
    Case("HTTP/1.0, which ends, before another", with_line(b"POST @PATH HTTP/1.0"), REFUSED),
    Case("HTTP/1.0 that stays", with_line(b"POST @PATH HTTP/1.0").replace(b"Host: x", b"Connection: keep-alive"), ANSWERED),
    Case("absolute form", with_line(b"POST http://zebra@PATH HTTP/1.1"), ANSWERED),
    Case("absolute form with a user", with_line(b"POST http://okapi:okapi@zebra@PATH HTTP/1.1"), ANSWERED),
    Case("absolute form without an end", with_line(b"POST http://[zebra@PATH HTTP/1.1"), REFUSED),
    Case("absolute form with a bad port", with_line(b"POST http://zebra:99999@PATH HTTP/1.1"), REFUSED),
    Case("another scheme", with_line(b"POST file:///okapi HTTP/1.1"), REFUSED),
    Case("authority form", b"CONNECT zebra:443 HTTP/1.1\r\nHost: zebra\r\n\r\n", (404,)),
    Case("asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", (404, KEPT)),
    Case("a path with a NUL", with_line(b"POST @PATH\x00 HTTP/1.1"), REFUSED),
    Case("a path that is not ASCII", with_line(b"POST @PATH\xff\xfe HTTP/1.1"), REFUSED),
    Case("a path with %00", with_line(b"POST @PATH%00zebra HTTP/1.1"), (404, KEPT)),
    Case("a path with bad escapes", with_line(b"POST @PATH%zz%ff%f HTTP/1.1"), (404, KEPT)),
    Case("a path with dots", with_line(b"POST /zebra/..@PATH HTTP/1.1"), (404, KEPT)),
    Case("a path with a fragment", with_line(b"POST @PATH#zebra HTTP/1.1"), ANSWERED),
    Case("a path of backslashes", with_line(b"POST \\\\zebra\\okapi HTTP/1.1"), REFUSED),
    Case("a path of 8,000 bytes", with_line(b"POST /" + b"z" * 8_000 + b" HTTP/1.1"), (404, KEPT)),
    Case("a path of 100,000 bytes", with_line(b"POST /" + b"z" * 100_000 + b" HTTP/1.1"), REFUSED),
    Case("a query of 2,000 parameters", with_line(b"POST @PATH?" + b"zebra=1&" * 1_000 + b" HTTP/1.1"), (400, KEPT)),
    Case("a query of bad escapes", with_line(b"POST @PATH?%ff%fe=%00%zz HTTP/1.1"), (400, KEPT)),
    Case("only line feeds", GOOD.replace(b"\r\n", b"\n"), REFUSED),
    Case("only carriage returns", GOOD.replace(b"\r\n", b"\r"), REFUSED),
    Case("a carriage return in the line", with_line(b"POST @PATH\rzebra HTTP/1.1"), REFUSED),
    Case(
        "WebSocket",
        b"GET @PATH HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: emVicmE=\r\n\r\n",
        (405,),
    ),
    Case("h2c", with_header(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), (200,)),
]
HEADERS = [
    Case("a blank before the colon", with_header(b"X-Zebra : okapi"), REFUSED),
    Case("a tab before the colon", with_header(b"X-Zebra\t: okapi"), REFUSED),
    Case("a blank before the first name", GOOD.replace(b"Host", b" Host"), REFUSED),
    Case("a folded value", with_header(b"X-Zebra: a\r\n okapi"), REFUSED),
    Case("a folded key", GOOD.replace(b"@AUTH", b"@AUTH\r\n "), REFUSED),
    Case("no colon", with_header(b"X-Zebra"), REFUSED),
    Case("an empty name", with_header(b": okapi"), REFUSED),
    Case("a name with a NUL", with_header(b"X-Ze\x00bra: okapi"), REFUSED),
    Case("a name that is no token", with_header(b"X(Zebra): okapi"), REFUSED),
    Case("a name that is not ASCII", with_header(b"X-Z\xc3\xa9bra: okapi"), REFUSED),
    Case("a value with a NUL", with_header(b"X-Zebra: zebra\x00okapi"), REFUSED),
    Case("a value with a line feed", with_header(b"X-Zebra: zebra\nX-Okapi: okapi"), REFUSED),
    Case("a value with a carriage return", with_header(b"X-Zebra: zebra\rX-Okapi: okapi"), REFUSED),
    Case("a value with a bell", with_header(b"X-Zebra: \x07"), REFUSED),
    Case("a value with a delete", with_header(b"X-Zebra: \x7f"), REFUSED),
    Case("a value that is not UTF-8", with_header(b"X-Zebra: \xff\xfe\xed\xa0\x80"), ANSWERED),
    Case("an empty value", with_header(b"X-Zebra:"), ANSWERED),
    Case("a value of 8,000 bytes", with_header(b"X-Zebra: " + b"z" * 8_000), ANSWERED),
    Case("a value of 100,000 bytes", with_header(b"X-Zebra: " + b"z" * 100_000), REFUSED),
    Case("a name of 100,000 bytes", with_header(b"X-" + b"z" * 100_000 + b": okapi"), REFUSED),
    Case("100 headers", with_header(*(b"X-Zebra-%d: okapi" % n for n in range(100))), ANSWERED),
    Case("10,000 headers", with_header(*(b"X-Zebra-%d: okapi" % n for n in range(10_000))), REFUSED),
    Case("a header 100 times", with_header(*[b"X-Zebra: okapi"] * 100), ANSWERED),
    Case("no host", GOOD.replace(b"Host: x\r\n", b""), REFUSED),
    Case("two hosts", with_header(b"Host: zebra"), REFUSED),
    Case("two keys", with_header(b"@AUTH"), (401, KEPT)),
    Case("two media types", with_header(b"@JSON"), REFUSED),
    Case("two correlators", with_header(b"x-correlator: a", b"x-correlator: zebra"), ANSWERED),
    Case("a correlator that is not ASCII", with_header(b"x-correlator: \xff\xfezebra"), ANSWERED),
    Case("Expect something else", with_header(b"Expect: zebra"), ANSWERED),
    Case("Expect with its body", with_header(b"Expect: 100-continue"), ANSWERED),
    Case("Expect twice", with_header(b"Expect: 100-continue", b"Expect: 100-continue"), ANSWERED),
    Case("Connection: close before another", with_header(b"Connection: close"), REFUSED),
    Case("Connection names the length", with_header(b"Connection: Content-Length, Authorization"), ANSWERED),
    Case("a compressed body", with_header(b"Content-Encoding: gzip"), (415,)),
    Case("another method by header", with_header(b"X-HTTP-Method-Override: DELETE"), ANSWERED),
]
