"""A load of presence queries over kept connections, in a process of its own so that its CPU is not the daemon's.

Closed loop: a connection asks again as soon as it is answered. With a `rate` the process asks that often in all, on whichever
connection is free, so that what a query waits does not thin the load out. Requests are made before the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

from registryd.http.decrypting import Decrypted

BODIES = 200
"""How many different bodies of a batch are made."""


class Load(NamedTuple):
    numbers: int
    """How many were answered."""
    seconds: float
    p50_ms: float
    p99_ms: float


def command(
    api: str,
    key: str | Sequence[str],
    numbers: Sequence[int],
    *,
    connections: int,
    seconds: float,
    batch: int = 0,
    rate: float = 0,
    ca: str | None = None,
    with_codes: bool = False,
    requests: Sequence[tuple[str, str]] = (),
) -> tuple[list[str], str]:
    """This file as a command, and what it reads from stdin. `key`: of whom to ask as, or one of several for each request, at random.
    `batch`: numbers a request, 0 for single queries. `ca`: who vouches for the server, where `api` is https. `with_codes`: each single
    query brings the code that belongs to its number. `requests`: what to send instead, as method with path, and body; any answer counts.
    """
    keys = [key] if isinstance(key, str) else list(key)
    load = {"api": api, "keys": keys, "numbers": numbers, "connections": connections, "seconds": seconds, "batch": batch, "rate": rate}
    return [sys.executable, __file__], json.dumps(load | {"ca": ca, "with_codes": with_codes, "requests": list(requests)})


def run_load(api: str, key: str | Sequence[str], numbers: Sequence[int], **how: Any) -> Load:
    """Runs this file as a process and returns what it measured."""
    words, given = command(api, key, numbers, **how)
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return Load(*json.loads(done.stdout))


def _requests(given: dict[str, Any]) -> list[bytes]:
    rest = "\r\nContent-Type: application/json\r\n"
    heads = [f"HTTP/1.1\r\nHost: registry\r\nAuthorization: Bearer {key}{rest}".encode() for key in given["keys"]]
    if given["requests"]:
        sent = [(start.encode(), body.encode()) for start, body in given["requests"]]
        return [b"%b %bContent-Length: %d\r\n\r\n%b" % (start, random.choice(heads), len(body), body) for start, body in sent]
    numbers, size = given["numbers"], given["batch"]
    if not size:
        code = b',"identificationCode":"u%d"' if given["with_codes"] else b""
        bodies = [b'{"phoneNumber":"+%d"%b}' % (number, code % number if code else b"") for number in numbers]
        return [b"POST /v1/presence %bContent-Length: %d\r\n\r\n%b" % (random.choice(heads), len(body), body) for body in bodies]
    chosen = (random.choices(numbers, k=size) for _ in range(BODIES * 1000 // max(size, 1000)))
    bodies = [b'{"queries":[%b]}' % b",".join([b'{"phoneNumber":"+%d"}' % number for number in batch]) for batch in chosen]
    return [b"POST /v1/presence/batch %bContent-Length: %d\r\n\r\n%b" % (random.choice(heads), len(body), body) for body in bodies]


class _Client(asyncio.Protocol):
    """One connection: a request at a time, its answer awaited whole."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.received = bytearray()
        self.wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.refused = self.run.refused or "a connection was closed"

    def ask(self, since: float) -> None:
        self.since = since
        self.transport.write(random.choice(self.run.requests))

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.wanted:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return
            if not (self.run.takes_any or self.received.startswith(b"HTTP/1.1 200")):
                self.run.refused = self.received[:end].split(b"\r\n")[0].decode()
                return
            at = self.received.index(b"Content-Length: ") + 16
            self.wanted = end + 4 + int(self.received[at : self.received.index(b"\r\n", at)])
        if len(self.received) >= self.wanted:
            self.received.clear()
            self.wanted = 0
            self.run.answered(self)


class _Run:
    def __init__(self, given: dict[str, Any]) -> None:
        self.requests = _requests(given)
        self.takes_any = bool(given["requests"])
        self.waits: list[float] = []
        self.rate = given["rate"]
        self.free: deque[_Client] = deque()
        self.due: deque[float] = deque()
        self.refused = ""
        """The first line of an answer that was none, or that a connection ended before the load did: it takes with it what was asked."""

    def answered(self, client: _Client) -> None:
        now = time.perf_counter()
        self.waits.append(now - client.since)
        if self.rate:
            self.free.append(client)
            self.pace()
        elif now < self.end:
            client.ask(now)

    def pace(self) -> None:
        """Asks what is due on what is free; a query that finds nothing free waits from when it was due."""
        while self.due and self.free:
            self.free.popleft().ask(self.due.popleft())

    async def run(self, given: dict[str, Any]) -> Load:
        loop = asyncio.get_running_loop()
        address = urlsplit(given["api"])
        tls = ssl.create_default_context(cafile=given["ca"]) if address.scheme == "https" else None
        clients = [_Client(self) for _ in range(given["connections"])]
        for client in clients:
            protocol = client if tls is None else Decrypted(client)
            await loop.create_connection(lambda made=protocol: made, address.hostname, address.port, ssl=tls)
        started = time.perf_counter()
        self.end = started + given["seconds"]
        if self.rate:
            self.free.extend(clients)
            asked = 0
            while (now := time.perf_counter()) < self.end:
                while asked < (now - started) * self.rate:
                    self.due.append(started + asked / self.rate)
                    asked += 1
                self.pace()
                await asyncio.sleep(0.001)
        else:
            for client in clients:
                client.ask(time.perf_counter())
            await asyncio.sleep(given["seconds"])
        seconds = time.perf_counter() - started
        if self.refused:
            raise SystemExit(self.refused)
        numbers = len(self.waits) * max(given["batch"], 1)
        self.waits.sort()
        for client in clients:
            client.transport.abort()
        return Load(numbers, seconds, self.waits[len(self.waits) // 2] * 1000, self.waits[int(len(self.waits) * 0.99)] * 1000)


def main() -> None:
    given = json.load(sys.stdin)
    sys.stdout.write(json.dumps(uvloop.run(_Run(given).run(given))))


if __name__ == "__main__":
    main()
