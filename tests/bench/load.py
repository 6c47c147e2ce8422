"""A closed-loop load of single queries over kept connections, in a process of its own so that its CPU is not the daemon's."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop


class Load(NamedTuple):
    answers: int
    seconds: float
    p50_ms: float
    p99_ms: float


def run_load(api: str, key: str, numbers: list[int], connections: int, seconds: float) -> Load:
    """Runs this file as a process and returns what it measured."""
    given = json.dumps({"api": api, "key": key, "numbers": numbers, "connections": connections, "seconds": seconds})
    done = subprocess.run([sys.executable, __file__], input=given, capture_output=True, text=True, check=True)
    return Load(*json.loads(done.stdout))


async def _client(host: str, port: int, key: str, numbers: list[int], end: float, waits: list[float]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/presence HTTP/1.1\r\nHost: registry\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n".encode()
    while time.perf_counter() < end:
        body = b'{"phoneNumber":"+%d"}' % random.choice(numbers)
        started = time.perf_counter()
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer[:40])
        at = answer.index(b"Content-Length: ") + 16
        await reader.readexactly(int(answer[at : answer.index(b"\r\n", at)]))
        waits.append(time.perf_counter() - started)
    writer.close()


async def _main() -> None:
    given = json.load(sys.stdin)
    address = urlsplit(given["api"])
    waits: list[float] = []
    started = time.perf_counter()
    clients = [
        _client(str(address.hostname), address.port or 80, given["key"], given["numbers"], started + given["seconds"], waits)
        for _ in range(given["connections"])
    ]
    await asyncio.gather(*clients)
    seconds = time.perf_counter() - started
    waits.sort()
    sys.stdout.write(json.dumps([len(waits), seconds, waits[len(waits) // 2] * 1000, waits[int(len(waits) * 0.99)] * 1000]))


if __name__ == "__main__":
    uvloop.run(_main())
