"""Requests with another one hidden in them, where a proxy may see their ends elsewhere. The hidden one shows its sender's key."""

from __future__ import annotations

from tests.fuzz import framing
from tests.fuzz.cases import CHUNKED, GOOD, HEAD, Case, fill, with_header, with_line
from tests.fuzz.framing import END

SWALLOWS = HEAD + b"Content-Length: 500\r\n\r\n{"
"""The next request on the connection would be its body."""
TAKES_KEY = b"@LINE\r\nHost: x\r\nX-Zebra: "
"""The headers of the next request on the connection would be its own."""
HIDDEN = {"whole": GOOD, "a body's beginning": SWALLOWS, "a header's beginning": TAKES_KEY}
CODINGS = (
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding:chunked", b"Transfer-Encoding: xchunked"),
    *(b"Transfer-Encoding:\tchunked", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked\x0c", b"Transfer-Encoding: CHUNKED"),
    *(
        b"Transfer-Encoding:\r\n chunked",
        b"X: y\nTransfer-Encoding: chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b" Transfer-Encoding: chunked",
    ),
    *(
        b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    ),
    *(
        b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        b"Transfer_Encoding: chunked",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding\x00: chunked",
    ),
    *(b"Content-Encoding: chunked", b"TE: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked;x=y"),
)
LENGTHS = (
    *(
        b"Content-Length: 0\r\nContent-Length: @ALL",
        b"Content-Length: @ALL\r\nContent-Length: 0",
        b"Content-Length: 0, @ALL",
        b"Content-Length: @ALL, 0",
    ),
    *(b"Content-Length: +@ALL", b"Content-Length: 0\r\nContent-Length : @ALL", b"Content-Length: 0@ALL", b"Content-Length: 0\x00@ALL"),
    *(
        b"Content-Length: 0\r\n Content-Length: @ALL",
        b"Content-Length:\r\n @ALL",
        b"Content-Length: 0\r\nContent_Length: @ALL",
        b"Content-Length: 0 @ALL",
    ),
    *(
        b"Content-Length: @ALL\r\nConnection: Content-Length",
        b"Content-Length: @ALL\r\nExpect: 100-continue",
        b"Content-Length: 0\nContent-Length: @ALL",
    ),
)


def pair(name: str, headers: bytes, body: bytes, line: bytes = b"@LINE") -> Case:
    """`headers` and `body` with the words of `filled`."""
    sent = HEAD.replace(b"@LINE", line) + headers + b"\r\n\r\n" + body
    return Case(name, sent, ())


def pairs() -> list[Case]:
    found = []
    for what, hidden in HIDDEN.items():
        for coding in CODINGS:
            found.append(pair(f"a length, then {coding!r}: {what}", b"Content-Length: @ALL\r\n" + coding, END + hidden))
            found.append(
                pair(f"{coding!r}, then a short length: {what}", coding + b"\r\nContent-Length: @SIZE", b"@CHUNK" + hidden + b"\r\n" + END)
            )
        found += [pair(f"{length!r}: {what}", length, hidden) for length in LENGTHS]
        found += [
            pair(f"{method!r} with a length: {what}", b"Content-Length: @ALL", hidden, method + b" /v1/account HTTP/1.1")
            for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE")
        ]
        found += [
            pair(f"chunks in HTTP/1.0: {what}", b"Transfer-Encoding: chunked", END + hidden, b"POST @PATH HTTP/1.0"),
            pair(f"an absolute form, another host: {what}", b"Content-Length: 0", hidden, b"POST http://zebra@PATH HTTP/1.1"),
            pair(f"an escaped line end: {what}", b"Content-Length: 0", hidden, b"POST @PATH%20HTTP/1.1%0d%0aX:%20y HTTP/1.1"),
            Case(f"only line feeds: {what}", (HEAD + b"Content-Length: 0\r\n\r\n").replace(b"\r\n", b"\n") + hidden, ()),
            Case(f"an extension that ends in a line feed: {what}", CHUNKED + b"2;\nxx\r\n" + END + hidden, ()),
            Case(f"a size that ends in a line feed: {what}", CHUNKED + b"2\n{}\r\n0\n\n" + hidden, ()),
            Case(f"a chunk's end that is none: {what}", CHUNKED + b"2\r\n{}xx0\r\n\r\n" + hidden, ()),
            Case(f"a size beyond 64 bits: {what}", CHUNKED + b"10000000000000002\r\n{}\r\n" + END + hidden, ()),
            Case(f"a trailer with a length: {what}", CHUNKED + b"2\r\n{}\r\n0\r\nContent-Length: 500\r\n\r\n" + hidden, ()),
            Case(f"a trailer cut short: {what}", CHUNKED + b"2\r\n{}\r\n0\r\n" + hidden, ()),
            Case(f"an upgrade: {what}", with_header(b"Connection: Upgrade", b"Upgrade: websocket") + hidden, ()),
            Case(
                f"an upgrade to h2c: {what}",
                with_header(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA") + hidden,
                (),
            ),
            Case(f"CONNECT: {what}", with_line(b"CONNECT x:443 HTTP/1.1") + hidden, ()),
            Case(f"HTTP/0.9: {what}", b"GET /v1/account\r\n" + hidden, ()),
        ]
    found += [case._replace(sent=case.sent + GOOD) for case in framing.FOLLOWED if len(case.sent) < framing.SEED_MAX_BYTES]
    return [*found, Case("good ones", GOOD * 3, ())]


def filled(case: Case, *, path: bytes, key: str, body: bytes) -> bytes:
    """The case as it is sent. Its lengths are of what is sent, so they come last: `@ALL` is that of its whole body, `@SIZE` that of the
    line with its chunk's size.
    """
    head, end, rest = fill(case.sent, path=path, key=key, body=body).partition(b"\r\n\r\n")
    if rest.startswith(b"@CHUNK"):
        hidden = rest[len(b"@CHUNK") : -len(b"\r\n" + END)]
        size = b"%x\r\n" % len(hidden)
        head, rest = head.replace(b"@SIZE", b"%d" % len(size)), size + hidden + b"\r\n" + END
    return head.replace(b"@ALL", b"%d" % len(rest)) + end + rest
