"""Queries at a steady pace, over kept connections and over new ones, without a retry: what was not answered was lost.

Runs until SIGTERM as a program of the host that sees the machine's network alone, and then prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import ssl
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp

TIMEOUT_S = 60.0


def known(count: int) -> list[int]:
    """The numbers that have contracts. They lie apart: neighbours that are asked in a row look like a search for subscribers."""
    return [79010000001, *random.Random(1).sample(range(79010000100, 79019999999), count - 1)]


class Load:
    def __init__(self, key: str, certificate: Path, numbers: int) -> None:
        self.headers = {"Authorization": f"Bearer {key}"}
        self.context = ssl.create_default_context(cafile=str(certificate))
        self.numbers = itertools.cycle(known(numbers))
        self.ended = asyncio.Event()
        self.asked: Counter[str] = Counter()
        self.lost: list[str] = []
        self.worst_s = 0.0
        self.began = time.monotonic()

    def session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=1, ssl=self.context)
        return aiohttp.ClientSession(connector=connector, headers=self.headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

    async def query(self, session: aiohttp.ClientSession, kind: str) -> None:
        number, began, outcome = next(self.numbers), time.monotonic(), ""
        body = {"phoneNumber": f"+{number}", "identificationCode": f"code-of-{number}"}
        try:
            async with session.post("https://localhost:8443/v1/presence", json=body) as response:
                answer = await response.json()
                if response.status != 200 or answer["present"] is not True:
                    outcome = f"{response.status} {answer.get('code', answer)}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            outcome = repr(error)
        self.asked[kind] += 1
        self.worst_s = max(self.worst_s, time.monotonic() - began)
        if outcome:
            self.lost.append(f"{kind} at {began - self.began:.1f} s: {outcome}")

    async def pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.ended.wait(), seconds)
        except TimeoutError:
            return

    async def keep(self, interval_s: float) -> None:
        async with self.session() as session:
            while not self.ended.is_set():
                await self.query(session, "kept")
                await self.pause(interval_s)

    async def renew(self, interval_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            while not self.ended.is_set():
                group.create_task(self.once())
                await self.pause(interval_s)

    async def once(self) -> None:
        async with self.session() as session:
            await self.query(session, "new")


async def run(options: argparse.Namespace) -> None:
    load = Load(sys.stdin.readline().strip(), options.certificate, options.numbers)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.ended.set)
    sys.stdout.write("runs\n")
    sys.stdout.flush()
    async with asyncio.TaskGroup() as group:
        for _ in range(options.kept):
            group.create_task(load.keep(options.kept / options.rate))
        group.create_task(load.renew(1 / options.new))
    told = {"asked": load.asked.total(), "new": load.asked["new"], "lost": load.lost, "worst_s": round(load.worst_s, 2)}
    sys.stdout.write(json.dumps(told) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("certificate", type=Path)
    parser.add_argument("--rate", type=float, default=100, help="queries a second over kept connections")
    parser.add_argument("--kept", type=int, default=16)
    parser.add_argument("--new", type=float, default=20, help="new connections a second, a query each")
    parser.add_argument("--numbers", type=int, default=1000)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
