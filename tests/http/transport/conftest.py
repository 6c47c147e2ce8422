"""A registry whose APIs are met connection by connection: in the clear, behind TLS, and on a listener that outlives its process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from registryd.config import ApiSection
from tests.certificates import Pair, make_pair, put_certificate
from tests.conftest import Daemon, Site, TestDatabase, TestMessenger, make_site
from tests.served import handed_over

SNDBUF = 65536
STALLED = 'registryd_connections_closed_total{api="messenger",reason="stalled"} 1.0'
NUMBERS = range(79_160_000_000, 79_160_000_100)
BODY_TIMEOUT_S = ApiSection().body_timeout_s
FOUND = json.dumps({"phoneNumber": f"+{NUMBERS[0]}"}).encode()


class Tls(NamedTuple):
    """Who vouches for whom."""

    directory: Path
    ca: Pair
    server: Pair
    pinned: Pair
    unpinned: Pair
    stranger: Pair

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """A client's, that presents `pair`."""
        context = ssl.create_default_context(cadata=self.ca.certificate.decode())
        if pair is not None:
            context.load_cert_chain(*pair.write(self.directory, hashlib.sha256(pair.certificate).hexdigest()))
        return context


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    ca = make_pair("test CA")
    server, pinned, unpinned = (make_pair(name, ca) for name in ("registry", "pinned", "unpinned"))
    return Tls(tmp_path_factory.mktemp("tls"), ca, server, pinned, unpinned, make_pair("stranger"))


@pytest.fixture(scope="module")
def site(module_database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = make_site(module_database, tmp_path_factory.mktemp("transport"))
    asyncio.run(site.add_contracts(*NUMBERS))
    return site


@pytest.fixture(scope="module")
def messenger(site: Site) -> TestMessenger:
    return asyncio.run(site.add_messenger("plain"))


@pytest.fixture(scope="module")
def pinned(site: Site, tls: Tls) -> TestMessenger:
    """A messenger that must present its certificate."""
    return asyncio.run(site.add_messenger("pinned", certificate_sha256=[tls.pinned.sha256]))


@pytest.fixture(scope="module")
def tls_site(site: Site, tls: Tls, messenger: TestMessenger, pinned: TestMessenger, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The same registry behind TLS."""
    made = make_site(site.database, tmp_path_factory.mktemp("tls-site"))
    credentials = made.directory / "credentials"
    for name in ("secrets-key", "journal-key"):
        (credentials / name).write_bytes((site.directory / "credentials" / name).read_bytes())
    put_certificate(made, tls.server)
    (credentials / "client-ca").write_bytes(tls.ca.certificate)
    return made


@pytest.fixture(scope="module")
def plain_daemon(site: Site, messenger: TestMessenger) -> Iterator[Daemon]:
    with listening(SNDBUF) as listener, handed_over(site, listener) as started:
        yield started


@pytest.fixture(scope="module")
def tls_daemon(tls_site: Site) -> Iterator[Daemon]:
    with listening(SNDBUF) as listener, handed_over(tls_site, listener) as started:
        started.scheme = "https"
        yield started


def listening(sndbuf: int | None = None, host: str = "127.0.0.1") -> socket.socket:
    """A listener whose connections let the daemon send so much ahead of its client."""
    listener = socket.socket()
    if sndbuf is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
    listener.bind((host, 0))
    listener.listen(512)
    return listener


def address(base: str) -> tuple[str, int]:
    host, _, port = base.partition("://")[2].rpartition(":")
    return host, int(port)


def request(messenger: TestMessenger, body: bytes = FOUND, *headers: str, path: str = "/v1/presence", length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Authorization: Bearer {messenger.api_key}", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connected(started: Daemon, count: int) -> bool:
    return f'registryd_connections{{api="messenger"}} {count}.0' in started.metrics()


def asked_again(sock: socket.socket, messenger: TestMessenger, status: bytes = b"HTTP/1.1 200 ", body: bytes = FOUND) -> bool:
    sock.sendall(request(messenger, body))
    return sock.recv(65536).startswith(status)


async def present(connector: Callable[[], aiohttp.BaseConnector], base: str, messenger: TestMessenger) -> int:
    """The status of a query."""
    async with (
        aiohttp.ClientSession(base, connector=connector(), headers=messenger.headers) as session,
        session.post("/v1/presence", data=FOUND, headers={"Content-Type": "application/json"}) as response,
    ):
        await response.read()
        return response.status


def events(started: Daemon, name: str) -> list[dict[str, Any]]:
    return [line for line in started.log() if line["event"] == name]
