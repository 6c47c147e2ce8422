"""Where a push may go: addresses, networks, and the URLs that name them."""

from __future__ import annotations

import ipaddress

import pytest

from registryd.delivery.egress import Egress
from tests.delivery.conftest import LOOPBACK

pytestmark = pytest.mark.usefixtures("loops")

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
