"""`make timing`: whether what a query asks for can be told by how long its answer takes.

Present, ended and unknown numbers are asked for in random order, without codes and with them, over one connection and over four. Each
difference stands beside the noise of one answer. Durability is off, because its waits would hide much. A query that records a binding
takes longer than one that does not, as the API's document says: that difference is shown and not judged.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from registryd.demo import embedded
from tests.bench.measure import bench_site
from tests.conftest import Site, TestMessenger, client, daemon
from tests.fuzz.laws import answers

FIRST = 79_000_000_000
NUMBERS = 300_000
"""Of each kind; they stand beside each other."""
PLACES = {"present": 0, "recorded": 0, "ended": 1, "unknown": 2}
"""Where a number of a kind stands in its three. `present`: asked for without a code or with its own; `recorded`: with a new one."""
BOUND_STEP = 15
"""Of so many present numbers one has a code."""
BLOCKS = 40
CONNECTIONS = 4
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}
RECORDED = "recorded - absent"
STUDENT_99 = 2.71
"""The 99 % quantile of Student's distribution for 39 degrees of freedom, on both sides."""


class Round(NamedTuple):
    """So many queries of one sort."""

    name: str
    queries: int
    connections: int
    with_codes: bool


ROUNDS = (
    Round("without codes, 1 connection", 100_000, 1, False),
    Round("without codes, 4 connections", 60_000, CONNECTIONS, False),
    Round("with codes, 1 connection", 40_000, 1, True),
    Round("with codes, 4 connections", 20_000, CONNECTIONS, True),
)


class Sample(NamedTuple):
    kind: str
    us: float


class Difference(NamedTuple):
    """Of two kinds of answers, in microseconds, each with half the width of its 99 % confidence interval."""

    mean: float
    mean_width: float
    median: float
    median_width: float
    noise: float
    """The standard deviation of one answer, robust: half of what lies between the 16th and the 84th percentile."""

    @property
    def is_below_noise(self) -> bool:
        return abs(self.mean) < self.noise and abs(self.median) < self.noise


def compare(samples: Sequence[Sample], ones: Sequence[str], others: Sequence[str]) -> Difference:
    """The differences within many short stretches of time, so that what changes slowly touches both kinds alike.

    Means leave out the slowest hundredth.
    """
    means, medians, spread = [], [], []
    size = len(samples) // BLOCKS
    for start in range(0, size * BLOCKS, size):
        block = samples[start : start + size]
        bound = sorted(sample.us for sample in block)[int(size * 0.99)]
        one, other = ([sample.us for sample in block if sample.kind in kinds] for kinds in (ones, others))
        means.append(_mean(one, bound) - _mean(other, bound))
        medians.append(statistics.median(one) - statistics.median(other))
        other.sort()
        spread.append((other[int(len(other) * 0.84)] - other[int(len(other) * 0.16)]) / 2)
    width = STUDENT_99 / math.sqrt(BLOCKS)
    return Difference(
        statistics.mean(means),
        statistics.stdev(means) * width,
        statistics.mean(medians),
        statistics.stdev(medians) * width,
        statistics.median(spread),
    )


def _mean(values: Sequence[float], bound: float) -> float:
    return statistics.mean(value for value in values if value <= bound)


def ask(api: str, messenger: TestMessenger, round_: Round, seed: int) -> list[Sample]:
    """Asks, and returns what took how long, in the order of the answers."""
    host, _, port = api.removeprefix("http://").rpartition(":")
    head = f"POST /v1/presence HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {messenger.api_key}\r\n"
    taken: list[Sample] = []
    lines = [random.Random(f"{seed} {place}") for place in range(round_.connections)]

    def work(place: int, random_: random.Random) -> None:
        with socket.create_connection((host, int(port)), timeout=60) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for turn in range(round_.queries // round_.connections):
                kind = random_.choice(("present", "recorded" if round_.with_codes else "present", "ended", "unknown"))
                index = random_.randrange(0, NUMBERS, BOUND_STEP)
                if kind != "present" or not round_.with_codes:
                    index += random_.randrange(1, BOUND_STEP)
                code = bound_code(index) if kind == "present" else f"{seed}-{place:02}-{turn:07}"
                shown = f',"identificationCode":"{code}"' if round_.with_codes else ""
                body = f'{{"phoneNumber":"+{FIRST + 3 * index + PLACES[kind]}"{shown}}}'
                sent = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
                began = time.perf_counter_ns()
                sock.sendall(sent)
                told = sock.recv(65536)
                taken.append(Sample(kind, (time.perf_counter_ns() - began) / 1000))
                [(status, answer)] = answers(told)
                assert (status, b'"present":true' in answer) == (200, PLACES[kind] == 0)

    threads = [threading.Thread(target=work, args=line) for line in enumerate(lines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == round_.queries // round_.connections * round_.connections
    return taken


def fill(site: Site) -> None:
    done = site.database.psql(
        "-c",
        f"""
        INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason)
        SELECT {FIRST} + 3 * n + place, 1, status::registry.contract_status, 'individual', 'not_required', '2020-01-01', at, why
          FROM generate_series(0, {NUMBERS - 1}) AS n,
               (VALUES (0, 'active', NULL::timestamptz, NULL::registry.end_reason), (1, 'ended', '2024-01-01', 'terminated'))
               AS kind(place, status, at, why)
         ORDER BY n, place
        """,
        *("-c", "VACUUM ANALYZE registry.contract", "-c", "CHECKPOINT"),
    )
    assert done.returncode == 0, done.stderr


def bound_code(index: int) -> str:
    """As long as a new one."""
    return f"bound-{index:06}"


async def bind(api: str, messenger: TestMessenger) -> None:
    async with client(api, messenger) as session:
        for start in range(0, NUMBERS, 10_000 * BOUND_STEP):
            places = range(start, start + 10_000 * BOUND_STEP, BOUND_STEP)
            queries = [{"phoneNumber": f"+{FIRST + 3 * n}", "identificationCode": bound_code(n)} for n in places]
            async with session.post("/v1/presence/batch", json={"queries": queries}) as response:
                assert response.status == 200, await response.text()


def rounds(site: Site, scale: float, chosen: Sequence[int]) -> Iterator[tuple[str, dict[str, Difference]]]:
    fill(site)
    asyncio.run(site.slow_nobody())
    messenger = asyncio.run(site.add_messenger())
    with daemon(site) as running:
        asyncio.run(bind(running.api, messenger))
        ask(running.api, messenger, Round("before", 2_000, 1, False), 0)
        for place in chosen:
            round_ = ROUNDS[place]._replace(queries=int(ROUNDS[place].queries * scale))
            samples = ask(running.api, messenger, round_, place + 1)
            found = {
                "present - absent": compare(samples, ("present",), ("ended", "unknown")),
                "ended - unknown": compare(samples, ("ended",), ("unknown",)),
            }
            if round_.with_codes:
                found[RECORDED] = compare(samples, ("recorded",), ("ended", "unknown"))
            yield f"{round_.name}, {len(samples):,}", found


@click.command()
@click.argument("chosen", nargs=-1, type=click.IntRange(1, len(ROUNDS)))
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiplies the queries.")
def main(chosen: Sequence[int], scale: float) -> None:
    """Run the rounds chosen by their places, or all."""
    table = Table("queries", "difference", "of means, µs", "of medians, µs", "noise of one answer, µs", "")
    has_failed = False
    with (
        tempfile.TemporaryDirectory() as directory,
        embedded.Server(embedded.find_binaries(), durable=False, options=SETTINGS) as server,
        bench_site(server, Path(directory)) as site,
    ):
        for name, found in rounds(site, scale, [place - 1 for place in chosen] or range(len(ROUNDS))):
            for what, difference in found.items():
                has_failed |= what != RECORDED and not difference.is_below_noise
                table.add_row(
                    name,
                    what,
                    f"{difference.mean:+.1f} ± {difference.mean_width:.1f}",
                    f"{difference.median:+.1f} ± {difference.median_width:.1f}",
                    f"{difference.noise:.0f}",
                    "as documented" if what == RECORDED else "below noise" if difference.is_below_noise else "FAILED",
                )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
