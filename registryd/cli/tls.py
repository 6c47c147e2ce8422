"""TLS of the commands that a messenger's engineers run."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from registryd.cli.running import Exit, fail

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def tls_options(who: str) -> Callable[[Any], Any]:
    """--ca, --certificate and --key; `who` may ask for a client certificate."""

    def add(run: Any) -> Any:
        for option in (
            click.option("--key", type=_FILE, help="Its private key, PEM, where it is not in the same file."),
            click.option("--certificate", type=_FILE, help=f"The client certificate, PEM, where {who} asks for one."),
            click.option("--ca", type=_FILE, help="Trust the certificates of this PEM file instead of the system's."),
        ):
            run = option(run)
        return run

    return add


def context(url: str, what: str, why: str, ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """None for http, which is taken for this machine alone. `what` names the URL, and `why` says what http would give away."""
    if key is not None and certificate is None:
        fail("--key goes with --certificate", Exit.USAGE)
    parts = urlsplit(url)
    if parts.scheme == "http" and _is_here(parts.hostname or ""):
        return None
    if parts.scheme != "https" or not parts.hostname:
        fail(f"{what} is https://…: {why}", Exit.USAGE)
    try:
        made = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            made.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        fail(f"--ca, --certificate or --key cannot be used: {error}", Exit.USAGE)
    return made


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
