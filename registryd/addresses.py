"""Addresses as the configuration writes them: DSNs of several hosts, and where a process listens."""

from __future__ import annotations

import ipaddress
from urllib.parse import parse_qsl, urlencode, urlsplit


def split_hosts(dsn: str) -> list[str]:
    """Splits a DSN that names several hosts, as libpq allows (`a:1,b:2`, or in `host=` and `port=`), into one DSN a host.

    Raises: ValueError, where there are neither as many ports as hosts nor one port for all.
    """
    url = urlsplit(dsn)
    user, at, named = url.netloc.rpartition("@")
    options = dict(parse_qsl(url.query))
    hosts = (options.pop("host", "") or named).split(",")
    if len(hosts) == 1:
        return [dsn]
    ports = options.pop("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise ValueError(f"{len(hosts)} hosts and {len(ports)} ports; give one port, or one for each host")
    singles = []
    for host, port in zip(hosts, ports, strict=True):
        place = {"host": host} | ({"port": port} if port else {})
        singles.append(url._replace(netloc=user + at, query=urlencode(options | place)).geturl())
    return singles


def is_local(listen: str) -> bool:
    """True where only this machine can connect: a Unix socket or a loopback address."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    return ipaddress.ip_address(host).is_loopback
