"""TLS and client certificates are as configured, and what fails of them is told."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time
import warnings

import aiohttp
import pytest

from tests.certificates import Pair, make_pair, put_certificate
from tests.conftest import Daemon, Site, TestMessenger, daemon, wait_for
from tests.http.transport.conftest import (
    Tls,
    address,
    events,
    listening,
    present,
    request,
)
from tests.served import handed_over


def test_plain_http_never_crosses_a_network(site: Site, tls: Tls) -> None:
    """Refused at the start, by its address and by the listener that systemd hands over."""
    try:
        for role, section in (("answer", "api"), ("operate", "operator")):
            site.write_config(**{section: 'listen = "0.0.0.0:0"'})
            with pytest.raises(AssertionError, match=r"ended with 78: .*tls-certificate"), daemon(site, role):
                pass
        site.write_config()
        with (
            listening(host="0.0.0.0") as listener,
            pytest.raises(AssertionError, match=r"ended with 78: .*needs TLS"),
            handed_over(site, listener),
        ):
            pass
    finally:
        site.write_config()


def test_a_certificate_without_its_key_is_refused_at_the_start(tls_site: Site, tls: Tls) -> None:
    put_certificate(tls_site, Pair(tls.server.certificate, tls.pinned.key))
    try:
        with pytest.raises(AssertionError, match=r"ended with 78: .*tls-key"), daemon(tls_site):
            pass
    finally:
        put_certificate(tls_site, tls.server)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(tls_daemon: Daemon, tls: Tls, messenger: TestMessenger, version: ssl.TLSVersion) -> None:
    context = tls.context()
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(address(tls_daemon.api)) as sock, context.wrap_socket(sock, server_hostname="127.0.0.1") as secure:
        assert secure.version() == f"TLSv1.{version.value - 0x301}"
        secure.sendall(request(messenger))
        assert secure.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_tls_1_1_is_refused(tls_daemon: Daemon, tls: Tls) -> None:
    context = tls.context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is not our side that refuses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(address(tls_daemon.api)) as sock, pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNEXPECTED_EOF"):
        context.wrap_socket(sock, server_hostname="127.0.0.1")


def test_plain_http_to_a_tls_listener_is_cut_off(tls_daemon: Daemon, messenger: TestMessenger) -> None:
    with socket.create_connection(address(tls_daemon.api), timeout=60) as sock:
        sock.sendall(request(messenger))
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in sock.recv(65536)


def test_a_pinned_messenger_must_present_its_certificate(
    tls_daemon: Daemon, tls: Tls, plain_daemon: Daemon, messenger: TestMessenger, pinned: TestMessenger
) -> None:
    def status(asker: TestMessenger, pair: Pair | None) -> int:
        return asyncio.run(present(lambda: aiohttp.TCPConnector(ssl=tls.context(pair)), tls_daemon.api, asker))

    assert status(pinned, tls.pinned) == 200
    assert status(pinned, tls.unpinned) == 401, "a certificate of the same CA is not the one that is pinned"
    assert status(pinned, None) == 401
    assert status(messenger, tls.pinned) == 200, "nothing is asked of a messenger without a pin"
    assert status(messenger, None) == 200
    with pytest.raises(aiohttp.ClientError):
        status(pinned, tls.stranger)
    assert asyncio.run(present(aiohttp.TCPConnector, plain_daemon.api, pinned)) == 401, "there is no certificate without TLS"


def test_a_failed_handshake_is_counted_by_its_reason_and_told_without_a_byte_of_the_clients(tls_site: Site, tls: Tls) -> None:
    def shake(context: ssl.SSLContext) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address(running.api)) as sock,
            context.wrap_socket(sock, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(b"GET / HTTP/1.1\r\n\r\n")
            secure.recv(1)

    def counted(reason: str, times: int) -> bool:
        return f'registryd_tls_handshakes_failed_total{{api="messenger",reason="{reason}"}} {times}.0' in running.metrics()

    with daemon(tls_site) as running:
        for _ in range(3):
            with socket.create_connection(address(running.api)) as sock:
                sock.sendall(b"GET /zebra HTTP/1.1\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    sock.recv(1)
        shake(tls.context(tls.stranger))
        shake(ssl.create_default_context())
        for reason, times in (("plain_http", 3), ("client_certificate", 1), ("our_certificate_refused", 1)):
            wait_for(lambda reason=reason, times=times: counted(reason, times))  # type: ignore[misc] # their types are the tuple's
        wait_for(lambda: len(events(running, "tls_handshake_failed")) == 3)
        told = events(running, "tls_handshake_failed")
        assert [line["reason"] for line in told] == ["plain_http", "client_certificate", "our_certificate_refused"]
        assert "self-signed" in told[1]["cause"]
        assert "zebra" not in running.written()


def test_a_certificate_that_ends_soon_is_told_at_the_start_and_by_a_metric(tls_site: Site, tls: Tls) -> None:
    put_certificate(tls_site, make_pair("registry", tls.ca, days=20))
    try:
        with daemon(tls_site, "operate") as running:
            [told] = wait_for(lambda: events(running, "certificate_expires"))
            assert (told["level"], told["certificate"], told["days"]) == ("warning", "tls-certificate", 19)
            shown = dict(line.rsplit(" ", 1) for line in running.metrics().splitlines() if "certificate_expires" in line and line[0] != "#")
        left = {name.split('"')[1]: float(value) - time.time() for name, value in shown.items()}
        assert set(left) == {"tls-certificate", "client-ca"}
        assert 19 * 86_400 < left["tls-certificate"] <= 20 * 86_400
    finally:
        put_certificate(tls_site, tls.server)


def test_the_operator_api_takes_clients_of_its_own_ca_alone(tls_site: Site, tls: Tls) -> None:
    (tls_site.directory / "credentials" / "operator-client-ca").write_bytes(tls.ca.certificate)

    async def ask(base: str, pair: Pair | None) -> int:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls.context(pair))) as session,
            session.get(f"{base}/operator/v1/contract-events", headers=tls_site.operator_headers) as response,
        ):
            return response.status

    with daemon(tls_site, "operate") as operating:
        base = operating.operator.replace("http:", "https:")
        assert asyncio.run(ask(base, tls.pinned)) == 405, "it was let in"
        for pair in (None, tls.stranger):
            with pytest.raises(aiohttp.ClientError):
                asyncio.run(ask(base, pair))


def test_a_renewed_certificate_is_served_after_a_reload(tls_site: Site, tls_daemon: Daemon, tls: Tls, messenger: TestMessenger) -> None:
    def served() -> bytes:
        with (
            socket.create_connection(address(tls_daemon.api)) as sock,
            tls.context().wrap_socket(sock, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(request(messenger))
            assert secure.recv(65536).startswith(b"HTTP/1.1 200 ")
            return secure.getpeercert(True) or b""

    def reload(event: str) -> None:
        seen = len(events(tls_daemon, event))
        tls_daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(events(tls_daemon, event)) > seen)

    former = ssl.PEM_cert_to_DER_cert(tls.server.certificate.decode())
    renewed = make_pair("registry", tls.ca)
    try:
        with (
            socket.create_connection(address(tls_daemon.api)) as sock,
            tls.context().wrap_socket(sock, server_hostname="127.0.0.1") as kept,
        ):
            assert served() == former
            put_certificate(tls_site, Pair(renewed.certificate, tls.server.key))
            reload("reload_failed")
            assert served() == former, "half of a renewal changes nothing"
            (tls_site.directory / "credentials" / "tls-key").unlink()
            reload("reload_failed")
            assert served() == former
            put_certificate(tls_site, renewed)
            reload("reloaded")
            assert served() == ssl.PEM_cert_to_DER_cert(renewed.certificate.decode())
            kept.sendall(request(messenger))
            assert kept.recv(65536).startswith(b"HTTP/1.1 200 "), "connections from before go on"
    finally:
        put_certificate(tls_site, tls.server)
