"""Contracts in the shape of reality over an operator's numbering ranges, for the demo, the tests and the benchmarks.

Owns the invented population: who holds a number, since when, and who held it before. The ranges are facts (libphonenumber's
carrier data in phonenumbers 9.0.43: the +7 9XX prefixes of MTS); the contracts over them are drawn at random. The same ranges,
count, seed and `now` give the same rows. It never reads the clock, and never holds more than one number's rows in memory.

Invariants of the rows, which come sorted by (msisdn, generation):
  the generations of a number are 1, 2, … without a gap, and their periods do not overlap
  at most one contract of a number is live, and it is the latest generation
  status is 'ended' iff ended_at is set iff end_reason is set; started_at < ended_at <= now
  end_user is 'not_required' iff the holder is an individual
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from pathlib import Path

COLUMNS = ("msisdn", "generation", "status", "holder", "end_user", "started_at", "ended_at", "end_reason")

Row = tuple[int, int, str, str, str, datetime, datetime | None, str | None]

# A fixed day, so that a bare call is reproducible; the demo gives its own.
DEFAULT_NOW = datetime(2026, 1, 1, tzinfo=UTC)

BLOCK_CONTRACTS = 1_000  # Operators hand out numbers in blocks: dense inside, nothing between them.
GAP_SHARE = 0.15  # of the numbers inside a block: never issued
RECYCLED_SHARE = 0.08  # of the issued numbers: had earlier holders
QUARANTINED_SHARE = 0.04  # of the issued numbers: have no live contract
SUSPENDED_SHARE = 0.03  # of the live contracts
MAX_FILL = 0.9  # contracts per number of the ranges: beyond it the gaps would be squeezed out

DAY_S = 86_400
LIVE_AGE_MAX_S = 10 * 365 * DAY_S
EARLIER_AGE_MAX_S = 4 * 365 * DAY_S
QUARANTINE_MIN_S = 30 * DAY_S
QUARANTINE_MAX_S = 330 * DAY_S

# Each tuple is an urn of equally likely draws: indexing it is several times cheaper than random.choices.
# 70 % organisations and sole traders; of these 35 % have no registered end user.
HOLDERS = (
    (("organisation", "registered"),) * 351
    + (("organisation", "unregistered"),) * 189
    + (("sole_trader", "registered"),) * 104
    + (("sole_trader", "unregistered"),) * 56
    + (("individual", "not_required"),) * 300
)
EARLIER_GENERATIONS = (1,) * 70 + (2,) * 22 + (3,) * 8
SUCCEEDED_REASONS = ("terminated",) * 55 + ("ported_out",) * 20 + ("holder_changed",) * 25
# A number nobody holds now was not handed to a new holder.
QUARANTINED_REASONS = ("terminated",) * 70 + ("ported_out",) * 30

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MSISDN = re.compile(r"[1-9][0-9]{10}")


def read_ranges(path: Path) -> list[tuple[int, int]]:
    """The (first, last) MSISDNs of a numbering-range CSV, sorted; ValueError if one is malformed or overlaps another."""
    ranges: list[tuple[int, int]] = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            first, last = line.get("first_msisdn") or "", line.get("last_msisdn") or ""
            if not (_MSISDN.fullmatch(first) and _MSISDN.fullmatch(last) and first <= last):
                raise ValueError(f"{path}: line {number}: not a range of 11-digit numbers: {first!r} to {last!r}")
            ranges.append((int(first), int(last)))
    ranges.sort()
    for (_, last_msisdn), (first_msisdn, _) in pairwise(ranges):
        if first_msisdn <= last_msisdn:
            raise ValueError(f"{path}: the ranges ending {last_msisdn} and starting {first_msisdn} overlap")
    return ranges


def generate(ranges: Sequence[tuple[int, int]], contracts: int, seed: int = 1801, now: datetime = DEFAULT_NOW) -> Iterator[Row]:
    """Exactly `contracts` rows, in COLUMNS order, over `ranges` as read_ranges gives them.

    ValueError if the ranges are too small for that many, or `now` has no time zone.
    """
    capacity = sum(last - first + 1 for first, last in ranges)
    if not 0 <= contracts <= capacity * MAX_FILL:
        raise ValueError(f"{contracts} contracts do not fit: the ranges take up to {int(capacity * MAX_FILL)}")
    if now.tzinfo is None:
        raise ValueError("now has no time zone")
    return _rows(ranges, capacity, contracts, random.Random(seed).random, int(now.timestamp()))


def write_csv(path: Path, rows: Iterable[Row]) -> int:
    """Write the rows under a header of COLUMNS, times as RFC 3339 UTC, None as empty; how many rows were written."""
    written = 0
    with path.open("w", encoding="ascii", newline="") as file:
        write = file.write
        write(",".join(COLUMNS) + "\n")
        for msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason in rows:
            ended = "" if ended_at is None else _rfc3339(ended_at)
            write(f"{msisdn},{generation},{status},{holder},{end_user},{_rfc3339(started_at)},{ended},{end_reason or ''}\n")
            written += 1
    return written


def _rfc3339(moment: datetime) -> str:
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat()[:-6] + "Z"


def _rows(ranges: Sequence[tuple[int, int]], capacity: int, contracts: int, draw: Callable[[], float], now_s: int) -> Iterator[Row]:
    """Fill one block at the head of each equal stretch of the ranges until its quota of contracts is reached."""
    blocks = -(-contracts // BLOCK_CONTRACTS)
    left = contracts
    for block in range(blocks):
        start, end = capacity * block // blocks, capacity * (block + 1) // blocks
        left_after = contracts - contracts * (block + 1) // blocks
        # Every issued number gives at least one row, so while a gap is only left where a number is to spare the count is met.
        spare = capacity - start - left
        for msisdn in chain.from_iterable(_stretch(ranges, start, end)):
            if left == left_after:
                break
            if spare > 0 and draw() < GAP_SHARE:
                spare -= 1
                continue
            rows = _history(msisdn, left - left_after, draw, now_s)
            left -= len(rows)
            spare += len(rows) - 1
            yield from rows


def _stretch(ranges: Sequence[tuple[int, int]], start: int, end: int) -> Iterator[range]:
    """The numbers at positions start to end - 1, counted over the ranges laid end to end."""
    position = 0
    for first, last in ranges:
        size = last - first + 1
        lower, upper = max(start - position, 0), min(end - position, size)
        if lower < upper:
            yield range(first + lower, first + upper)
        position += size


def _history(msisdn: int, rows_max: int, draw: Callable[[], float], now_s: int) -> list[Row]:
    """One number's contracts, first generation first: drawn backwards in time from the latest."""
    generation = 1
    if draw() < RECYCLED_SHARE:
        generation = min(1 + EARLIER_GENERATIONS[int(draw() * 100)], rows_max)
    rows: list[Row] = []
    if draw() < QUARANTINED_SHARE:
        ended_s = now_s - 1 - int(draw() * QUARANTINE_MAX_S)
        started_s = ended_s - DAY_S - int(draw() * EARLIER_AGE_MAX_S)
        rows.append(_ended(msisdn, generation, started_s, ended_s, QUARANTINED_REASONS[int(draw() * 100)], draw))
    else:
        # Squared: more subscribers are recent than old.
        started_s = now_s - 1 - int(draw() ** 2 * LIVE_AGE_MAX_S)
        holder, end_user = HOLDERS[int(draw() * 1000)]
        status = "suspended" if draw() < SUSPENDED_SHARE else "active"
        rows.append((msisdn, generation, status, holder, end_user, _EPOCH + timedelta(0, started_s), None, None))
    while generation > 1:
        generation -= 1
        reason = SUCCEEDED_REASONS[int(draw() * 100)]
        ended_s = started_s
        if reason != "holder_changed":  # which passes the number on without a pause
            ended_s -= QUARANTINE_MIN_S + int(draw() * (QUARANTINE_MAX_S - QUARANTINE_MIN_S))
        started_s = ended_s - DAY_S - int(draw() * EARLIER_AGE_MAX_S)
        rows.append(_ended(msisdn, generation, started_s, ended_s, reason, draw))
    rows.reverse()
    return rows


def _ended(msisdn: int, generation: int, started_s: int, ended_s: int, reason: str, draw: Callable[[], float]) -> Row:
    holder, end_user = HOLDERS[int(draw() * 1000)]
    return (msisdn, generation, "ended", holder, end_user, _EPOCH + timedelta(0, started_s), _EPOCH + timedelta(0, ended_s), reason)
