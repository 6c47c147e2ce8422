"""Listening sockets and their TLS."""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registryd.addresses import is_local
from registryd.config import ConfigError, Credentials


@dataclass
class Tls:
    """TLS 1.2 and up, with one certificate for both APIs.

    Where `client_ca` is among the credentials, the messenger API takes client certificates, which auth.py compares with the messenger's;
    the operator API demands one.
    """

    credentials: Credentials
    client_ca: Literal["client-ca", "operator-client-ca"] = "client-ca"

    def context(self) -> ssl.SSLContext | None:
        """The TLS context; None where there is no certificate. Raises: ConfigError."""
        certificate = self.credentials.path("tls-certificate")
        if certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.load(context)
        client_ca = self.credentials.path(self.client_ca)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL if self.client_ca == "client-ca" else ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(client_ca)
            except (ssl.SSLError, OSError):
                raise ConfigError(f"{client_ca}: not a PEM bundle of certificates") from None
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Loads the certificate on disk; new connections get it. Raises: ConfigError, and the former certificate stays."""
        key = self.credentials.path("tls-key")
        certificate = self.credentials.path("tls-certificate")
        if key is None or certificate is None:
            raise ConfigError(f"{self.credentials.directory}: tls-certificate and tls-key come together; one is missing")
        try:
            # First load it into a context that nobody uses: a certificate without its key would leave the real one half changed.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            context.load_cert_chain(certificate, key)
        except (ssl.SSLError, OSError):
            raise ConfigError(f"{certificate}: not a PEM certificate chain that fits {key.name}") from None


def bind(listen: str) -> socket.socket:
    """A listening socket for an address of the configuration. Raises: ConfigError."""
    try:
        if listen.startswith("unix:"):
            path = Path(listen.removeprefix("unix:"))
            _claim(path)
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(str(path))
            path.chmod(0o660)
        else:
            host, _, port = listen.rpartition(":")
            host = host.strip("[]")
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, int(port)))
    except OSError as error:
        raise ConfigError(f"cannot listen on {listen}: {error.strerror}; is another process there?") from None
    sock.setblocking(False)
    return sock


_claims: list[int] = []
"""Locks on the Unix listeners of this process, held until it ends."""


def _claim(path: Path) -> None:
    """Locks a file beside a Unix socket, so that no second process unlinks the socket of one that still listens. Raises: OSError."""
    lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    _claims.append(lock)


def address(sock: socket.socket) -> str:
    """The address of a socket, in the configuration's form."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def refuse_plain(sock: socket.socket) -> None:
    """Raises: ConfigError, where a listener without TLS can be reached from other machines: numbers would travel in the clear."""
    if not is_local(address(sock)):
        raise ConfigError(
            f"{address(sock)} is reachable from other machines, so it needs TLS: give the credentials tls-certificate and tls-key"
        )
