"""Where a push may go and what an answer may cost: addresses, URLs, redirects, and endpoints that flood, drip, hang or hang up."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import uvloop
from aiohttp.web import Response
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from registryd.config import Credentials
from registryd.delivery import push, resolver, signing
from registryd.delivery.egress import Egress, EgressRefused
from registryd.delivery.identity import endpoint_tls
from registryd.delivery.push import Pusher
from registryd.delivery.resolver import Resolver
from registryd.domain.notification import Acknowledged, Failed, Notification, Outcome, Rejected
from registryd.store.secretbox import SecretBox
from tests.conftest import PATIENCE_S
from tests.delivery.conftest import LOOPBACK, database_away, listening

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "77.88.55.242",
    "93.158.134.3",
    "100.63.255.255",
    "100.128.0.1",
    "126.255.255.255",
    "172.15.255.255",
    "172.32.0.1",
    "192.167.255.255",
    "198.17.255.255",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "2400:cb00::1",
    "2606:4700:4700::1111",
    "2a02:6b8::2:242",
]
NOT_PUBLIC = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"],
    "carrier-grade NAT": ["100.64.0.1", "100.127.255.255"],
    "link-local": ["169.254.0.1", "fe80::1", "febf::1"],
    "metadata services": ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"],
    "protocol assignments": ["192.0.0.1", "192.0.0.8", "192.0.0.170", "2001:1::1", "2001:20::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "4000::1", "8000::1"],
    "unique local": ["fc00::1", "fd12:3456::1"],
    "site-local": ["fec0::1"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe"],
    "IPv4-compatible": ["::127.0.0.1", "::8.8.8.8"],
    "SIIT": ["::ffff:0:127.0.0.1"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::10.0.0.1"],
    "6to4": ["2002:7f00:1::1", "2002:a00:1::", "192.88.99.1"],
    "Teredo": ["2001::7f00:1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "ISATAP": ["2a02:6b8::5efe:7f00:1", "2a02:6b8::200:5efe:10.0.0.1"],
    "discard-only": ["100::1"],
    "segment routing": ["5f00::1"],
}


@pytest.fixture(autouse=True, params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On production's loop too, where what an endpoint does may arrive in another order."""
    monkeypatch.setattr(asyncio, "run", request.param)


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


def test_public_addresses_are_allowed() -> None:
    guard = Egress()
    assert [text for text in PUBLIC if not guard.allows(address(text))] == []


@pytest.mark.parametrize("kind", NOT_PUBLIC)
def test_addresses_that_lead_elsewhere_are_refused(kind: str) -> None:
    guard = Egress()
    assert [text for text in NOT_PUBLIC[kind] if guard.allows(address(text))] == []


def test_the_table_of_addresses_is_a_real_one() -> None:
    assert len(PUBLIC) + sum(map(len, NOT_PUBLIC.values())) >= 40


def test_operators_own_networks_are_refused_but_for_the_exceptions_it_names() -> None:
    guard = Egress(["93.158.134.128/25"], ["93.158.134.0/24", "2a02:6b8::/32"])
    assert [text for text in ("93.158.134.3", "::ffff:93.158.134.3", "2a02:6b8::2") if guard.allows(address(text))] == []
    assert [text for text in ("93.158.134.129", "93.158.135.1", "2a02:6b9::1") if not guard.allows(address(text))] == []


def test_private_interconnects_are_allowed_by_name_and_nothing_beside_them() -> None:
    guard = Egress(["10.20.0.0/16", "fd00:aa::/32", "64:ff9b::/96"])
    allowed = ["10.20.0.1", "10.20.255.255", "::ffff:10.20.3.4", "fd00:aa::1", "64:ff9b::10.20.0.1", "8.8.8.8"]
    refused = ["10.21.0.1", "10.19.255.255", "::ffff:10.21.0.1", "fd00:ab::1", "127.0.0.1", "169.254.169.254", "fe80::1", "2002:a14:1::"]
    assert [text for text in allowed if not guard.allows(address(text))] == []
    assert [text for text in refused if guard.allows(address(text))] == []


@pytest.mark.parametrize(
    "url",
    [
        "http://messenger.example/notices",
        "ftp://messenger.example/",
        "file:///etc/passwd",
        "gopher://messenger.example/",
        "//messenger.example/",
        "messenger.example",
        "",
        "https://",
        "https:///path",
        "https://user:password@messenger.example/",
        "https://user@messenger.example/",
        "https://messenger.example/#fragment",
        "https://messenger.example:0/",
        "https://messenger.example:70000/",
        "https://messenger.example:port/",
        "https://[::1",
        "https://127.0.0.1/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "HTTPS://messenger.example/",
        "https://Messenger.example/",
        "https://messenger.example/a b",
        "https://messenger.example/a?",
        "https://messenger.example?",
        "https://messenger.example/\u00a0",
        "https://messenger.example/\u0456",
        "https://messenger.example\\@evil.example/",
        "https://messenger.example/a\\b",
        "https://messenger.example/\x7f",
        "https://\u043f\u0440\u0438\u043c\u0435\u0440.example/",
        "https://messenger.example/" + "x" * 2_100,
    ],
)
def test_urls_that_cannot_be_an_endpoint_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^the endpoint"):
        Egress().check_url(url)


def test_urls_that_can_be_an_endpoint_are_not_refused() -> None:
    for url in (
        "https://messenger.example",
        "https://messenger.example:8443/a?b=c",
        "https://8.8.8.8/",
        "https://[2a02:6b8::2]/",
        "https://m.example/a/../b//c;d=1?e=%2F%2f%7E~[]|&f?",
    ):
        Egress().check_url(url)
    LOOPBACK.check_url("http://127.0.0.1:8080/notices")
    Egress(allow_http=True).check_url("http://messenger.example/")
    with pytest.raises(ValueError, match="not public"):
        Egress(allow_http=True).check_url("http://127.0.0.1:8080/notices")


NOW = datetime.now(UTC)
NOTICE = Notification(uuid4(), NOW + timedelta(hours=24), 79161234567, 1, "u-81f3", NOW, NOW, 0)


@asynccontextmanager
async def pushing(guard: Egress = LOOPBACK) -> AsyncIterator[Callable[[str], Awaitable[Outcome]]]:
    signer = signing.Signer([signing.new_secret()])
    async with Pusher(database_away(), SecretBox(b"k" * 32), guard) as pusher:

        async def outcome(url: str) -> Outcome:
            return await pusher.channel(url, url).push(signer, [NOTICE], with_phone_number=False)

        yield outcome


@asynccontextmanager
async def raw_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server that says what it likes; its URL."""

    serving: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        serving.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await task
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in serving:
            task.cancel()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return head


def test_guard_judges_the_final_address_whatever_the_url_calls_it() -> None:
    async def run() -> None:
        async with listening() as endpoint:
            port = endpoint.url.split(":")[2].split("/")[0]
            names = [
                "localhost",
                "LOCALHOST",
                "127.1",
                "2130706433",
                "0x7f000001",
                "0177.0.0.1",
                "127.0.0.1",
                "[::ffff:127.0.0.1]",
                "０",
                "127。0。0。1",
            ]
            async with pushing(Egress(allow_http=True)) as outcome:
                for name in names:
                    assert isinstance(await outcome(f"http://{name}:{port}/"), Failed), name
                assert await outcome(f"http://localhost:{port}/") == Failed("the address is refused by the egress guard")
            # The URL's check left out: an address in the URL bypasses resolvers, but not the factory of sockets.
            connector = aiohttp.TCPConnector(socket_factory=Egress(allow_http=True).socket_factory)
            async with aiohttp.ClientSession(connector=connector) as session:
                for name in ("127.0.0.1", "localhost"):
                    with pytest.raises(aiohttp.ClientConnectorError) as refused:
                        await session.post(f"http://{name}:{port}/")
                    assert isinstance(refused.value.os_error, EgressRefused), name
            assert endpoint.received == []
            async with pushing() as outcome:
                assert await outcome(f"http://localhost:{port}/") == Acknowledged(204), "the same name, where loopback is allowed"
            assert len(endpoint.received) == 1

    asyncio.run(run())


def test_guard_makes_sockets_of_the_internet_alone() -> None:
    guard = Egress()
    for family, sockaddr in ((socket.AF_INET6, ("fe80::1%lo", 443, 0, 1)), (socket.AF_UNIX, "/run/x"), (socket.AF_INET, ("10.0.0.1", 443))):
        with pytest.raises(EgressRefused):
            guard.socket_factory((family, socket.SOCK_STREAM, 0, "", sockaddr))
    with guard.socket_factory((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 443))) as made:
        assert made.family == socket.AF_INET


def test_redirects_are_failures_and_never_followed() -> None:
    async def run() -> None:
        async with listening() as trap:
            for status in (300, 301, 302, 303, 307, 308):
                moved = Response(status=status, headers={"Location": trap.url, "Refresh": f"0; url={trap.url}"})
                async with listening(lambda _, moved=moved: moved) as endpoint, pushing() as outcome:  # type: ignore[misc] # mypy infers no default
                    assert await outcome(endpoint.url) == Failed(f"status {status}", status)
                    assert len(endpoint.received) == 1
            assert trap.received == []

    asyncio.run(run())


@pytest.mark.parametrize(
    "target",
    [
        "/hook?sp=%2Ftriggers%2Frun&sig=a%2Fb%3D%3D&u=%7Ex",
        "/a%2fb",
        "/[]?[]",
        "/a/../b/./c",
        "//a//",
        "/%zz%",
        "/a+b%20c%C3%A9?q=+%2B&q",
        '/a;b=1,c:d@e|f^g`h{i}"<>',
        "/?a?b=c??",
        "/" + "x" * 2_000,
    ],
)
def test_an_endpoint_is_sent_byte_for_byte(target: str) -> None:
    """Gateways sign URLs: one byte that is written in another way is a refusal."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def run() -> None:
        async with raw_server(serve) as url, pushing() as outcome:
            assert await outcome(url.rstrip("/") + target) == Acknowledged(204)

    asyncio.run(run())
    assert heads[0].split(b"\r\n")[0] == f"POST {target} HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("pasted", "kept"),
    [
        (" https://m.example/h", "https://m.example/h"),
        ("https://m.example/h \r\n", "https://m.example/h"),
        ("HTTPS://M.Example:8443/Hook?Key=A", "https://m.example:8443/Hook?Key=A"),
        ("https://M.EXAMPLE", "https://m.example"),
        ("\thttps://m.example/h\n", "https://m.example/h"),
    ],
)
def test_a_pasted_endpoint_loses_its_blanks_and_the_capitals_of_its_host(pasted: str, kept: str) -> None:
    assert Egress().endpoint(pasted) == kept
    assert Egress().endpoint(kept) == kept


BROKEN_RECEIPTS = {
    "a body behind 204": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "chunks behind 204": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "bytes of nobody": b"HTTP/1.1 204 No Content\r\n\r\nhello",
    "a length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
    "chunks and a length": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
    "a header of 9,000 bytes": b"HTTP/1.1 204 No Content\r\nContent-Security-Policy: " + b"x" * 9_000 + b"\r\n\r\n",
    "a header of 100,000 bytes": b"HTTP/1.1 204 No Content\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "200 headers": b"HTTP/1.1 204 No Content\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
    "a blank in a name": b"HTTP/1.1 200 OK\r\nFoo : bar\r\nContent-Length: 0\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nFoo: b\x00r\r\nContent-Length: 0\r\n\r\n",
    "a chunk that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "hints first": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", BROKEN_RECEIPTS.values(), ids=BROKEN_RECEIPTS)
def test_the_status_is_the_verdict_whatever_the_rest_of_the_answer_is(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where other statuses come so; and the next push on that channel is one of its own."""
    monkeypatch.setattr(push, "ANSWER_TIMEOUT_S", 0.2)

    async def run(answer: bytes, verdict: Outcome) -> None:
        asked = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            while True:
                await read_request(reader)
                asked += 1
                writer.write(answer)
                await writer.drain()

        async with raw_server(serve) as url, pushing() as outcome:
            for _ in range(2):
                assert await outcome(url) == verdict
        assert asked == 2

    status = 204 if b" 204 " in answer else 200
    asyncio.run(run(answer, Acknowledged(status)))
    asyncio.run(run(answer.replace(b" %d" % status, b" 422", 1), Rejected(422)))
    asyncio.run(run(answer.replace(b" %d" % status, b" 500", 1), Failed("status 500", 500)))


def test_receipt_counts_whatever_follows_it() -> None:
    """A 2xx is a receipt: its body may be endless, broken, compressed or late, and costs next to nothing."""
    ended = asyncio.Event()
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await writer.drain()
                written += 0x10000
        finally:
            ended.set()

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")

    async def compressed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip")
        await writer.drain()

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        await reader.read()

    async def run(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]) -> Outcome:
        async with raw_server(serve) as url, pushing() as outcome:
            verdict = await outcome(url)  # although none of these answers ends
            if serve is endless:
                await asyncio.wait_for(ended.wait(), PATIENCE_S)
            return verdict

    assert asyncio.run(run(endless)) == Acknowledged(200)
    assert written < 16 * 1024 * 1024, "no more than the sockets' buffers took"
    assert asyncio.run(run(broken)) == Acknowledged(200)
    assert asyncio.run(run(compressed)) == Acknowledged(201)
    assert asyncio.run(run(dripping)) == Acknowledged(200)


def test_answer_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "TOTAL_TIMEOUT_S", 0.4)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def continuing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(0.3)

    async def run() -> None:
        for serve in (silent, dripping, continuing, hanging_up):
            async with raw_server(serve) as url, pushing() as outcome:
                # A bound on each try alone would let the second one after hanging_up end as a lost connection.
                assert await outcome(url) == Failed("timeout"), serve.__name__

    asyncio.run(run())


def test_what_is_no_answer_is_told_in_words_of_ours(tmp_path: Path) -> None:
    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"secret of the endpoint\r\n\r\n")

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> None:
        async with pushing() as outcome:
            async with raw_server(gibberish) as url:
                failed = await outcome(url)
                assert isinstance(failed, Failed)
                assert failed.error.startswith("connection lost (")
                assert "secret" not in failed.error
            async with raw_server(nothing) as url:
                pass
            assert await outcome(url) == Failed("no connection")
            assert await outcome("http://" + "a" * 64 + ".example/") == Failed("the endpoint's name cannot be resolved")
            assert isinstance(await outcome("http://127.0.0.1:1/\x00 secret"), Failed)
            async with raw_server(nothing, self_signed(tmp_path)) as url:
                assert await outcome(url) == Failed("the endpoint's certificate is not valid")
            async with raw_server(plain) as url:
                assert await outcome(url.replace("http:", "https:")) == Failed("TLS failed")
        async with pushing(Egress()) as outcome:
            failed = await outcome("http://messenger.example/?token=secret")
            assert isinstance(failed, Failed)
            assert "https" in failed.error
            assert "secret" not in failed.error

    asyncio.run(run())


def issued(directory: Path, name: str, ca: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None) -> Path:
    """A certificate for 127.0.0.1 with its key, by a CA; without one, the CA itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
    if ca is not None:
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.issuer_name(ca[0].subject if ca else subject).sign(ca[1] if ca else key, hashes.SHA256())
    path = directory / name
    path.write_bytes(signed.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def read_issued(path: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    pem = path.read_bytes()
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate(pem), key


def test_messenger_may_ask_for_a_client_certificate_and_have_one_of_a_private_ca(tmp_path: Path) -> None:
    ca = issued(tmp_path, "endpoint-ca-bank")
    issued(tmp_path, "endpoint-certificate-bank", read_issued(ca))
    (tmp_path / "endpoint-ca-nameless").write_bytes(ca.read_bytes())
    (tmp_path / "endpoint-certificate-broken").write_text("not PEM")
    asks = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    asks.load_cert_chain(issued(tmp_path, "server", read_issued(ca)))
    asks.verify_mode = ssl.CERT_REQUIRED
    presented: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        presented.append(writer.get_extra_info("peercert")["subject"])
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    async def run() -> None:
        credentials = Credentials(tmp_path)
        signer = signing.Signer([signing.new_secret()])
        async with (
            raw_server(serve, asks) as url,
            Pusher(database_away(), SecretBox(b"k" * 32), LOOPBACK, lambda name: endpoint_tls(credentials, name)) as pusher,
        ):
            told = {
                name: await pusher.channel(name, url).push(signer, [NOTICE], with_phone_number=False)
                for name in ("bank", "nameless", "stranger", "broken")
            }
        assert told["bank"] == Acknowledged(204)
        assert isinstance(told["nameless"], Failed), "the endpoint's CA is known, but it is shown no certificate"
        assert told["stranger"] == Failed("the endpoint's certificate is not valid")
        assert told["broken"] == Failed("the credentials endpoint-certificate or endpoint-ca of this messenger cannot be used")
        assert presented == [((("commonName", "endpoint-certificate-bank"),),)]

    asyncio.run(run())


def test_name_that_hangs_in_dns_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """More names than the loop's executor has threads for, each asked for again and again."""
    hold = threading.Event()
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        if host.startswith("hangs-"):
            hold.wait(60)
        return real("127.0.0.1" if host.endswith(".example") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(resolver, "LOOKUP_TIMEOUT_S", 0.3)

    async def run() -> None:
        async with listening() as endpoint, pushing() as outcome:
            port = endpoint.url.split(":")[2].split("/")[0]
            try:
                hanging = [asyncio.ensure_future(outcome(f"http://hangs-{n}.example:{port}/")) for n in range(99)]
                await asyncio.sleep(0)
                assert await asyncio.wait_for(outcome(f"http://healthy.example:{port}/"), 60) == Acknowledged(204)
                assert {str(done) for done in await asyncio.gather(*hanging)} == {str(Failed("the endpoint's name cannot be resolved"))}
                again = await outcome(f"http://hangs-0.example:{port}/")
                assert again == Failed("the endpoint's name cannot be resolved")
                assert asked.count("hangs-0.example") == 1, "one look-up of a name at a time, however often it is asked for"
            finally:
                hold.set()

    asyncio.run(run())


def test_name_for_which_no_thread_could_be_started_is_looked_up_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        names = Resolver()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(OSError, match="thread"):
                await names.resolve("localhost", 80)
        assert [found["host"] for found in await names.resolve("localhost", 80)] == ["127.0.0.1"]

    asyncio.run(run())


def test_name_that_resolves_differently_the_second_time_is_judged_by_where_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when it was registered and looked at, the operator's own network when it is connected to."""
    answers = iter(["93.158.134.3", "127.0.0.1", "169.254.169.254"])

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    async def run() -> None:
        async with listening() as endpoint, pushing(Egress(allow_http=True)) as outcome:
            port = int(endpoint.url.split(":")[2].split("/")[0])
            monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
            Egress(allow_http=True).check_url(f"http://rebinds.example:{port}/")
            assert (await Resolver().resolve("rebinds.example", port))[0]["host"] == "93.158.134.3"
            assert await outcome(f"http://rebinds.example:{port}/") == Failed("the address is refused by the egress guard")
            assert await outcome(f"http://rebinds2.example:{port}/") == Failed("the address is refused by the egress guard")
            assert endpoint.received == []

    asyncio.run(run())


def self_signed(directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    path = directory / "self-signed.pem"
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_kept_connection_that_the_endpoint_ends_costs_one_resend(reset: bool) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        heads.append(await read_request(reader))  # of a connection that was kept
        if reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def run() -> None:
        async with raw_server(serve) as url, pushing() as outcome:
            assert await outcome(url) == Acknowledged(204)
            assert await outcome(url) == Acknowledged(204)
            assert len(heads) == 3
            ids = {line for head in heads for line in head.split(b"\r\n") if line.lower().startswith(b"webhook-id:")}
            assert len(ids) == 1

    asyncio.run(run())


def test_what_comes_unasked_is_no_receipt_for_the_next_push() -> None:
    answered, asked = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_request(reader)
        asked += 1
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n" if asked == 1 else b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        await answered.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await reader.read()

    async def run() -> None:
        async with raw_server(serve) as url, pushing() as outcome:
            assert await outcome(url) == Acknowledged(204)
            answered.set()
            for _ in range(10):  # turns of the loop, in which what was written arrives
                await asyncio.sleep(0)
            assert await outcome(url) == Failed("status 503", 503)
        assert asked == 2

    asyncio.run(run())


@pytest.mark.parametrize("greeting", [b"220 smtp ready\r\n", b""], ids=["speaks", "hangs up"])
def test_an_endpoint_that_speaks_first_is_a_failure_told_after_one_connection(greeting: bytes) -> None:
    connected: list[socket.socket] = []

    def serve(server: socket.socket) -> None:
        """At once, so that what it says is there before it is asked."""
        connected.append(server.accept()[0])
        connected[-1].sendall(greeting)
        if not greeting:
            connected[-1].close()

    async def run() -> Outcome:
        async with pushing() as outcome:
            with socket.create_server(("127.0.0.1", 0)) as server:
                asyncio.get_running_loop().add_reader(server, serve, server)
                failed = await asyncio.wait_for(outcome(f"http://127.0.0.1:{server.getsockname()[1]}/"), PATIENCE_S)
                asyncio.get_running_loop().remove_reader(server)
                return failed

    failed = asyncio.run(run())
    for connection in connected:
        connection.close()
    assert isinstance(failed, Failed)
    assert failed.error.startswith("connection lost (")
    assert len(connected) <= (1 if greeting else 2)


def test_endpoint_that_always_hangs_up_is_asked_twice_at_most() -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_request(reader)
        asked += 1

    async def run() -> None:
        async with raw_server(serve) as url, pushing() as outcome:
            assert await outcome(url) == Failed("connection lost (ServerDisconnectedError)")
        assert asked == 2

    asyncio.run(run())


def test_retry_after_is_read_in_both_of_its_forms() -> None:
    async def run() -> None:
        for value, least, most in (
            ("120", 120, 120),
            ("0", 0, 0),
            (f"{datetime.now(UTC) + timedelta(seconds=90):%a, %d %b %Y %H:%M:%S GMT}", 80, 91),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
            ("soon", None, None),
            ("-5", None, None),
            ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None, None),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 2e11, 3e11),
            ("Wed, 21 Oct 2015 07:28:00 -0000", None, None),
            ("", None, None),
            ("99999999999999999999", None, None),
            ("１２", None, None),
        ):
            for status in (429, 503, 500):
                answer = Response(status=status, headers={"Retry-After": value})
                async with listening(lambda _, answer=answer: answer) as endpoint, pushing() as outcome:  # type: ignore[misc] # as above
                    failed = await outcome(endpoint.url)
                assert isinstance(failed, Failed)
                if status == 500 or least is None or most is None:
                    assert failed.retry_after is None, value
                else:
                    assert failed.retry_after is not None, value
                    assert least <= failed.retry_after.total_seconds() <= most, value

    asyncio.run(run())
