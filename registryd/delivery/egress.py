"""The rule for where pushes may go (domain/endpoint.py), held where the socket is made, after the name was resolved.

So a name that resolves differently the second time does not get past the check, nor does an address in the URL.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from registryd import config
from registryd.domain.endpoint import EndpointRules


class EgressRefused(OSError):
    """Pushes may not go to the endpoint's address."""


class Egress(EndpointRules):
    """The rules, and the sockets that keep them."""

    @classmethod
    def of(cls, section: config.DeliverySection) -> Egress:
        """The egress rules of the configuration."""
        return cls(section.allow_networks, section.deny_networks, allow_http=section.allow_http)

    def socket_factory(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """aiohttp's `TCPConnector(socket_factory=…)`: sees the final address. Raises: EgressRefused."""
        family, kind, proto, _, sockaddr = addr_info
        if family not in (socket.AF_INET, socket.AF_INET6) or not self.allows(ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])):
            raise EgressRefused("refused by the egress guard")
        return socket.socket(family, kind, proto)
