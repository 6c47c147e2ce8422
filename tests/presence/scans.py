"""Scans and honest traffic against the enumeration guard's mathematics, with fixed seeds: `make scans`; its short form is a test.

The world: 100 million numbers. A scanner misses the share of them that nobody holds; an honest messenger asks for its users'.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import exp
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from registryd.domain.enumeration import Evidence, Weights, weigh

SPACE = range(79_100_000_000, 79_200_000_000)
DEFAULTS = {"honest_absent_ratio": 0.03, "scan_absent_ratio": 0.40, "honest_density": 0.70, "honest_queries_per_alarm": 1e12}
"""As the migration has them: a test compares."""
WEIGHTS = weigh(**DEFAULTS)
SCAN_MAX = 100_000
WAVE = 100_000_000
"""Queries of one messenger on the day of its first wave."""

Call = tuple[list[int], list[bool]]
"""The numbers of one request, and whether each is present."""
Traffic = Callable[[random.Random], Iterator[Call]]


# Honest traffic


def honest_singles(draw: random.Random, queries: int, absent: float = 0.03) -> Iterator[Call]:
    for _ in range(queries):
        yield [draw.choice(SPACE)], [draw.random() >= absent]


def honest_base(draw: random.Random, queries: int, density: float, size: int, absent: float = 0.03) -> Iterator[Call]:
    """A whole user base in ascending order, as an export has it: each next number is a user's with a probability of `density`."""
    number, numbers = SPACE.start, list[int]()
    for _ in range(queries):
        number += 1
        while draw.random() >= density:
            number += 1
        numbers.append(number)
        if len(numbers) == size:
            yield numbers, [draw.random() >= absent for _ in numbers]
            numbers = []


# Scans


def random_scan(draw: random.Random, absent: float, known: float = 0.0, size: int = 1) -> Iterator[Call]:
    """Unknown numbers of which a share is absent, mixed with a share of numbers that the scanner knows to be present."""
    while True:
        numbers = [draw.choice(SPACE) for _ in range(size)]
        yield numbers, [draw.random() < known or draw.random() >= absent for _ in numbers]


def run_scan(draw: random.Random, step: int, known: float = 0.0, size: int = 1, spread: int = 1) -> Iterator[Call]:
    """Numbers in a row, all of them present (a dense block), among known ones; `spread`: how far out of order they arrive."""
    start, place = draw.choice(SPACE), 0
    while True:
        numbers: list[int] = []
        while len(numbers) < max(size, spread):
            if draw.random() < known:
                numbers.append(draw.choice(SPACE))
            else:
                numbers.append(start + step * place)
                place += 1
        if spread > 1:
            draw.shuffle(numbers)
        for first in range(0, len(numbers), size):
            part = numbers[first : first + size]
            yield part, [True] * len(part)


UNSEEN = "misses 90 %, ten in eleven known"
SCANS: dict[str, Traffic] = {
    "random, misses 40 %": lambda draw: random_scan(draw, 0.4),
    "random, misses 50 %": lambda draw: random_scan(draw, 0.5),
    "random, misses 90 %": lambda draw: random_scan(draw, 0.9),
    "misses 90 %, half known": lambda draw: random_scan(draw, 0.9, known=0.5),
    "misses 90 %, batches of 100": lambda draw: random_scan(draw, 0.9, size=100),
    UNSEEN: lambda draw: random_scan(draw, 0.9, known=10 / 11),
    "ascending, all present": lambda draw: run_scan(draw, 1),
    "descending by 7": lambda draw: run_scan(draw, -7),
    "64 connections out of order": lambda draw: run_scan(draw, 1, spread=64),
    "ascending, half known": lambda draw: run_scan(draw, 1, known=0.5),
    "ascending, 80 % known": lambda draw: run_scan(draw, 1, known=0.8),
    "batches of 50, shuffled": lambda draw: run_scan(draw, 10, size=50, spread=50),
    "batches of 1,000, shuffled": lambda draw: run_scan(draw, 1, size=1000, spread=1000),
}


@dataclass
class Found:
    """After how many numbers each of some scans was found, and by what; missed: not within SCAN_MAX."""

    delays: list[int] = field(default_factory=list)
    signs: set[str] = field(default_factory=set)
    missed: int = 0

    @property
    def median(self) -> float:
        return median(self.delays) if self.delays else float("inf")

    @property
    def worst(self) -> float:
        return max(self.delays) if self.delays and not self.missed else float("inf")


def scan(name: str, times: int, weights: Weights = WEIGHTS) -> Found:
    found = Found()
    for seed in range(times):
        evidence, asked = Evidence(), 0
        for numbers, presents in SCANS[name](random.Random(seed)):
            sign = evidence.see(weights, numbers, presents)
            asked += len(numbers)
            if sign is not None:
                found.delays.append(asked)
                found.signs.add(sign)
                break
            if asked >= SCAN_MAX:
                found.missed += 1
                break
    return found


def false_alarms(calls: Iterator[Call], weights: Weights = WEIGHTS) -> int:
    evidence = Evidence()
    return sum(evidence.see(weights, numbers, presents) is not None for numbers, presents in calls)


def queries_per_false_alarm(absent: float, weights: Weights = WEIGHTS, samples: int = 20_000) -> float:
    """The mean number of queries between two alarms on absent answers, of a messenger that misses `absent`.

    Too rare to be counted, so by importance sampling: an excursion from zero is drawn under the conjugate measure, where it mostly
    reaches the threshold, and weighed by Wald's likelihood ratio identity (Siegmund, Sequential Analysis, 1985); its length is drawn as
    it is. `absent`: where the sum drifts down.
    """
    low, high = 1e-3, 20.0
    for _ in range(100):
        omega = (low + high) / 2
        above = absent * exp(omega * weights.absent) + (1 - absent) * exp(omega * weights.present) > 1
        low, high = (low, omega) if above else (omega, high)
    draw = random.Random(1801)
    reached, length = 0.0, 0
    for _ in range(samples):
        at = _excursion(draw, absent * exp(omega * weights.absent), weights)[0]
        reached += exp(-omega * at) if at > 0 else 0.0
        length += _excursion(draw, absent, weights)[1]
    return length / reached


def _excursion(draw: random.Random, absent: float, weights: Weights) -> tuple[float, int]:
    """From zero until it is back or an alarm: where it ended, and after how many answers."""
    at, length = 0.0, 0
    while True:
        at += weights.absent if draw.random() < absent else weights.present
        length += 1
        if at <= 0 or at >= weights.alarm:
            return at, length


def report(console: Console, *, scans: int, queries: int) -> None:
    """Prints what is found after how much, and what wrongly."""
    table = Table("scan", "sign", "numbers until the alarm: median", "worst", f"missed in {SCAN_MAX:,}", title="Detection")
    for name in SCANS:
        found = scan(name, scans if name != UNSEEN else min(scans, 20))
        table.add_row(name, ", ".join(sorted(found.signs)), f"{found.median:g}", f"{found.worst:g}", str(found.missed))
    console.print(table)

    table = Table("honest traffic", "queries", "false alarms", title="False alarms, counted")
    draw = random.Random(1801)
    table.add_row("single, 3 % absent", f"{queries:,}", str(false_alarms(honest_singles(draw, queries))))
    for density in (0.1, 0.5, 0.7):
        for size in (1, 1000):
            name = f"sorted base, density {density}, {'single' if size == 1 else f'batches of {size:,}'}"
            table.add_row(name, f"{queries:,}", str(false_alarms(honest_base(draw, queries, density, size))))
    console.print(table)

    table = Table(
        "share absent", *(f"one in 10^{power}" for power in (6, 9, 12)), title=f"False alarms in a day of {WAVE:,} queries, computed"
    )
    for absent in (0.01, 0.03, 0.05, 0.08, 0.10):
        rates = (queries_per_false_alarm(absent, weigh(**DEFAULTS | {"honest_queries_per_alarm": 10.0**power})) for power in (6, 9, 12))
        table.add_row(f"{absent:.0%}", *(f"{WAVE / rate:.2g}" for rate in rates))
    console.print(table)


@click.command()
@click.option("--scans", default=1000, show_default=True, help="Scans of each kind.")
@click.option("--queries", default=10_000_000, show_default=True, help="Honest queries of each kind.")
def main(scans: int, queries: int) -> None:
    report(Console(width=120), scans=scans, queries=queries)


if __name__ == "__main__":
    main()
