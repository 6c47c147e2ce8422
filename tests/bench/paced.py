"""Single queries at a steady rate over kept connections, in a process of its own: a query's wait counts from when it was due."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import uvloop

CONNECTIONS = 64


async def _client(host: str, port: int, key: str, numbers: list[int], due: Iterator[float], waits: list[float]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/presence HTTP/1.1\r\nHost: registry\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n".encode()
    for at in due:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        body = b'{"phoneNumber":"+%d"}' % random.choice(numbers)
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer[:40])
        start = answer.index(b"Content-Length: ") + 16
        await reader.readexactly(int(answer[start : answer.index(b"\r\n", start)]))
        waits.append(time.perf_counter() - at)
    writer.close()


async def _main() -> None:
    given = json.load(sys.stdin)
    address = urlsplit(given["api"])
    started, waits = time.perf_counter() + 0.5, list[float]()
    due = (started + number / given["per_s"] for number in range(int(given["per_s"] * given["seconds"])))
    host, port = str(address.hostname), address.port or 80
    await asyncio.gather(*(_client(host, port, given["key"], given["numbers"], due, waits) for _ in range(CONNECTIONS)))
    waits.sort()
    sys.stdout.write(f"{waits[int(len(waits) * 0.99)] * 1000}")


if __name__ == "__main__":
    uvloop.run(_main())
