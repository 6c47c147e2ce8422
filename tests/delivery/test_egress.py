"""Where a push really goes, and over what: byte for byte to an allowed address, by TLS of its own, past names that hang or change."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.web import Response
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from registryd.config import Credentials
from registryd.delivery import resolver, signing
from registryd.delivery.egress import Egress, EgressRefused
from registryd.delivery.identity import endpoint_tls
from registryd.delivery.push import Pusher
from registryd.delivery.resolver import Resolver
from registryd.domain.notification import Acknowledged, Failed
from registryd.store.secretbox import SecretBox
from tests.delivery.conftest import LOOPBACK, database_away, listening
from tests.delivery.raw import NOTICE, NOW, pushing, raw_server, read_request

pytestmark = pytest.mark.usefixtures("loops")


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
