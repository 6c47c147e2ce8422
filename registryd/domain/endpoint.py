"""Where pushes may go. A messenger chooses its endpoint's URL, so the URL must not lead into the operator's own network (SSRF)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The only part of IPv6 that is given to networks. NAT64, SIIT, site-local and IPv4-compatible addresses lie outside.
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
# Global by some of Python's tables, and yet no place for an endpoint: protocol assignments (Teredo among them), 6to4 and its relays,
# documentation.
_SPECIAL: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
)
# The interface identifiers of ISATAP (RFC 5214), which carry an IPv4 address under anybody's prefix.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


ENDPOINT_MAX_BYTES = 2048
ENDPOINT = re.compile(r"(?P<scheme>https?)://(?P<host>[a-z0-9._:\[\]-]+)(?P<path>/[!-\"$->@-\[\]-~]*)?(?P<query>\?[!-\"$-\[\]-~]+)?")
"""What is sent byte for byte: printable ASCII without blanks, and no `?` before an empty query, which would be lost. The table's CHECK
says the same.
"""


class EndpointRules:
    """`allow_networks`: private interconnects to messengers, whatever else is refused. `deny_networks`: the operator's own public prefixes.
    `allow_http`: plain http, for test networks."""

    def __init__(self, allow_networks: Sequence[str] = (), deny_networks: Sequence[str] = (), *, allow_http: bool = False) -> None:
        self._allowed = tuple(ipaddress.ip_network(network) for network in allow_networks)
        self._denied = (*_SPECIAL, *(ipaddress.ip_network(network) for network in deny_networks))
        self._allow_http = allow_http

    def check_url(self, url: str) -> None:
        """Raises: ValueError, saying what an endpoint's URL must be."""
        if len(url) > ENDPOINT_MAX_BYTES:
            raise ValueError(f"the endpoint is longer than {ENDPOINT_MAX_BYTES:,} bytes")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("the endpoint is not a URL") from None
        if parts.scheme != "https" and not (parts.scheme == "http" and self._allow_http):
            raise ValueError("the endpoint must be https (http only where delivery.allow_http says so, for test networks)")
        if not parts.hostname or parts.username or parts.password or parts.fragment or port == 0:
            raise ValueError("the endpoint must be a URL with a host, and without a user, password or fragment")
        if ENDPOINT.fullmatch(url) is None:
            raise ValueError(
                "the endpoint must be ASCII without blanks, backslashes or an empty query, its scheme and host in lower case, "
                "a host of other letters as xn--: only such a URL is sent byte for byte"
            )
        try:
            address = ipaddress.ip_address(parts.hostname)
        except ValueError:
            return
        if not self.allows(address):
            raise ValueError("the endpoint's address is not public; a private interconnect is named in delivery.allow_networks")

    def endpoint(self, text: str) -> str:
        """A URL as a person pasted it, without the blanks around it, and with scheme and host in lower case. Raises: ValueError."""
        url = text.strip(" \t\r\n\f\v")
        beginning = re.match(r"[A-Za-z]+://[^/?#@]*", url)
        if beginning is not None:
            url = beginning[0].lower() + url[beginning.end() :]
        self.check_url(url)
        return url

    def allows(self, address: Address) -> bool:
        """Whether a push may connect to an address: global unicast, or allowed by name."""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._allowed):
            return True
        if isinstance(address, ipaddress.IPv6Address) and (address not in _UNICAST_V6 or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP):
            return False
        if any(address in network for network in self._denied):
            return False
        return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
