"""A messenger's endpoint that costs as little as one can, in a process of its own: answers 204 after a delay, and counts.

`python receiver.py DELAY_S [CERTIFICATE KEY]`, with PEM files for TLS: prints its port; then, for each line on stdin, one line of JSON:
pushes, notifications, and when each notification whose code begins with "probe" came (time.time()).
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, cast

import uvloop

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
PROBE = re.compile(rb'"identificationCode":"(probe[^"]*)"')


class Receiver:
    """The process, from outside."""

    def __init__(self, delay_s: float = 0.0, tls: tuple[Path, Path] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(delay_s), *map(str, tls or ())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdout is not None
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{int(self._process.stdout.readline())}/notices"

    def seen(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        return dict(json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class _Endpoint(asyncio.Protocol):
    delay_s = 0.0
    pushes = 0
    notifications = 0
    arrivals: ClassVar[dict[str, float]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._needed = 0

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < self._needed:
            return
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
            self._needed = end + 4 + length
            if len(self._buffer) < self._needed:
                return
            body = bytes(self._buffer[end + 4 : self._needed])
            del self._buffer[: self._needed]
            self._needed = 0
            self._receive(body)

    def _receive(self, body: bytes) -> None:
        _Endpoint.pushes += 1
        _Endpoint.notifications += body.count(b'"notificationId"')
        if b'"probe' in body:
            now = time.time()
            _Endpoint.arrivals.update((code.decode(), now) for code in PROBE.findall(body))
        if self.delay_s:
            self._loop.call_later(self.delay_s, self._transport.write, ANSWER)
        else:
            self._transport.write(ANSWER)


async def _main() -> None:
    _Endpoint.delay_s = float(sys.argv[1])
    loop = asyncio.get_running_loop()
    tls = None
    if sys.argv[2:]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*sys.argv[2:])
    server = await loop.create_server(_Endpoint, "127.0.0.1", 0, backlog=4096, ssl=tls)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while await stdin.readline():
        seen = {"pushes": _Endpoint.pushes, "notifications": _Endpoint.notifications, "arrivals": _Endpoint.arrivals}
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_main())
