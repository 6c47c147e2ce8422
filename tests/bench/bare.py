"""A bare aiohttp client that does the daemon's POSTs and nothing else, in a process of its own: what a push costs at least.

`python bare.py URL POSTS NOTIFICATIONS CONCURRENCY`: prints posts a second and its CPU seconds for each 1,000.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import NamedTuple

import aiohttp
import uvloop


class Bare(NamedTuple):
    rate: float
    cpu_s_per_1000: float


def run_bare(url: str, posts: int, notifications: int, concurrency: int) -> Bare:
    """`notifications`: in each body."""
    done = subprocess.run(
        [sys.executable, __file__, url, *map(str, (posts, notifications, concurrency))], capture_output=True, text=True, check=True
    )
    return Bare(*map(float, done.stdout.split()))


async def _main(url: str, posts: int, notifications: int, concurrency: int) -> None:
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
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=15)) as session:

        async def post() -> None:
            for _ in left:
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()

        started, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(post() for _ in range(concurrency)))
        sys.stdout.write(f"{posts / (time.perf_counter() - started)} {(time.process_time() - used) * 1000 / posts}\n")


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], *map(int, sys.argv[2:])))
