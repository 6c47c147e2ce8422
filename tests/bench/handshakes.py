"""TLS handshakes in a process of their own, so that their CPU is not the daemon's: connect, shake hands, close.

    python handshakes.py HOST PORT CA SECONDS full|resumed
    python handshakes.py CERTIFICATE KEY CA SECONDS openssl

Prints how many were done, and the CPU seconds of a server's side where that is here: `openssl` lets both sides meet in memory.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import time
from threading import Thread
from typing import NamedTuple

THREADS = 4


class Handshakes(NamedTuple):
    done: int
    cpu_s: float
    """Of the server's side, where it was here."""


def run_handshakes(*words: object) -> Handshakes:
    """Runs this file as a process and returns what it measured."""
    told = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True).stdout
    done, cpu_s = told.split()
    return Handshakes(int(done), float(cpu_s))


def connect(address: tuple[str, int], context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSocket:
    sock = socket.create_connection(address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(sock, server_hostname=address[0], session=session)


def first_session(address: tuple[str, int], context: ssl.SSLContext) -> ssl.SSLSession:
    """A session to resume; the server's tickets come before its first answer."""
    with connect(address, context, None) as secure:
        secure.sendall(b"GET / HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n")
        secure.recv(65536)
        assert secure.session is not None
        return secure.session


def over_sockets(address: tuple[str, int], ca: str, seconds: float, *, resumed: bool) -> int:
    """How many handshakes a server did; each of them on a connection of its own."""
    context = ssl.create_default_context(cafile=ca)
    session = first_session(address, context) if resumed else None
    counts = [0] * THREADS
    end = time.monotonic() + seconds

    def shake(place: int) -> None:
        while time.monotonic() < end:
            with connect(address, context, session) as secure:
                assert secure.session_reused is resumed
            counts[place] += 1

    threads = [Thread(target=shake, args=(place,)) for place in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def in_memory(certificate: str, key: str, ca: str, seconds: float) -> Handshakes:
    """What OpenSSL itself takes: no sockets and no event loop."""
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=ca)
    ours.load_cert_chain(certificate, key)
    count, cpu_s, end = 0, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = theirs.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
        _step(client)
        began = time.process_time()
        server = ours.wrap_bio(to_server, to_client, server_side=True)
        _step(server)
        cpu_s += time.process_time() - began
        _step(client)
        began = time.process_time()
        server.do_handshake()
        cpu_s += time.process_time() - began
        count += 1
    return Handshakes(count, cpu_s)


def _step(side: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()


def main() -> None:
    first, second, ca, seconds, kind = sys.argv[1:]
    if kind == "openssl":
        done = in_memory(first, second, ca, float(seconds))
    else:
        done = Handshakes(over_sockets((first, int(second)), ca, float(seconds), resumed=kind == "resumed"), 0.0)
    sys.stdout.write(f"{done.done} {done.cpu_s}\n")


if __name__ == "__main__":
    main()
