"""A bare aiohttp client that does the daemon's POSTs and nothing else, in a process of its own.

`python bare.py URL POSTS NOTIFICATIONS CONCURRENCY SESSIONS CA`: prints posts a second and its CPU seconds for each 1,000. Each session has
`CONCURRENCY` POSTs under way. `CA` is empty without TLS.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import aiohttp
import uvloop


class Bare(NamedTuple):
    rate: float
    cpu_s_per_1000: float


def run_bare(url: str, posts: int, notifications: int, concurrency: int, sessions: int = 1, ca: Path | None = None) -> Bare:
    """`notifications`: in each body. `sessions`: one for each endpoint. `ca`: the one that issued the endpoint's certificate."""
    words = [sys.executable, __file__, url, *map(str, (posts, notifications, concurrency, sessions, ca or ""))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return Bare(*map(float, done.stdout.split()))


async def _main(url: str, ca: str, posts: int, notifications: int, concurrency: int, sessions: int) -> None:
    item = (
        '{"notificationId":"01970000-0000-7000-8000-000000000001","identificationCode":"user-0000001","generation":1,'
        '"terminatedAt":"2026-01-02T03:04:05.678Z","deadlineAt":"2026-01-03T03:04:05.678Z"}'
    )
    items = ",".join([item] * notifications)
    body = f'{{"type":"binding.terminated","timestamp":"2026-01-02T03:04:06.000Z","data":{{"notifications":[{items}]}}}}'.encode()
    headers = {
        "webhook-id": "msg_01970000000070008000000000000001",
        "webhook-timestamp": "1767323047",
        "webhook-signature": "v1,QDOigUiLEc18qkeb07rH/mct9NAPvAlS7nEp3jiCEso=",
        "Content-Type": "application/json",
    }
    left = iter(range(posts))
    tls = ssl.create_default_context(cafile=ca) if ca else True

    async def post(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()

    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=tls), timeout=aiohttp.ClientTimeout(total=15))
            )
            for _ in range(sessions)
        ]
        started, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(post(session) for session in opened for _ in range(concurrency)))
        sys.stdout.write(f"{posts / (time.perf_counter() - started)} {(time.process_time() - used) * 1000 / posts}\n")


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], sys.argv[6], *map(int, sys.argv[2:6])))
