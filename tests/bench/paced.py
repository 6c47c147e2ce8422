"""Single queries at a steady rate, in a process of its own: each is sent when it is due, and its wait counts from then."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import aiohttp
import uvloop


async def _main() -> None:
    given = json.load(sys.stdin)
    waits: list[float] = []
    async with aiohttp.ClientSession(
        given["api"], headers={"Authorization": f"Bearer {given['key']}"}, connector=aiohttp.TCPConnector(limit=256)
    ) as http:

        async def ask(due: float) -> None:
            async with http.post("/v1/presence", json={"phoneNumber": f"+{random.choice(given['numbers'])}"}) as answer:
                await answer.read()
                if answer.status != 200:
                    raise RuntimeError(str(answer.status))
            waits.append(time.perf_counter() - due)

        asking = []
        started = time.perf_counter()
        for number in range(int(given["per_s"] * given["seconds"])):
            due = started + number / given["per_s"]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asking.append(asyncio.create_task(ask(due)))
        await asyncio.gather(*asking)
    waits.sort()
    sys.stdout.write(f"{waits[int(len(waits) * 0.99)] * 1000}")


if __name__ == "__main__":
    uvloop.run(_main())
