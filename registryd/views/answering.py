"""What the answer processes do now: a part of the views `duty` and `presence`."""

from __future__ import annotations

from collections.abc import Sequence

from registryd import observe
from registryd.store import answering
from registryd.store.answering import MinuteRow, PresenceToday
from registryd.store.reading import Reading
from registryd.views.shape import Shape, Time

NOW_MINUTES = 5
TREND_MINUTES = 60


class Answering(Shape, frozen=True):
    """The last five whole minutes, of all answer processes."""

    queries_per_second: float
    requests_per_second: float
    p50_seconds: float | None
    """Of single queries; None: there was none."""
    p99_seconds: float | None
    failed_share: float
    """Of requests, 0 to 1."""
    absent_ratio: float | None
    """Of today's queries, 0 to 1."""
    queries_today: int
    late_today: int
    """Answers later than the policy's time."""


class Minute(Shape, frozen=True):
    """A minute of all answer processes together."""

    at: Time
    """Its begin."""
    queries: int
    """Numbers that were answered."""
    absent: int
    requests: int
    """Requests of the presence routes, answered or not."""
    refused: int
    """Of requests, those answered 4xx."""
    failed: int
    """Of requests, those answered 5xx."""
    p50_seconds: float | None
    """Of single queries."""
    p99_seconds: float | None


async def now(moment: Reading, today: Sequence[PresenceToday], minutes: Sequence[MinuteRow]) -> Answering:
    """`today`: every messenger's queries; `minutes`: the last ones, of which NOW_MINUTES count."""
    late = await answering.late_today(moment)
    latest = minutes[-NOW_MINUTES:]
    seconds = 60 * len(latest)
    queries, requests = sum(m.queries for m in latest), sum(m.requests for m in latest)
    latencies = _summed([m.latencies for m in latest])
    asked = sum(t.queries for t in today)
    return Answering(
        queries_per_second=round(queries / seconds, 3),
        requests_per_second=round(requests / seconds, 3),
        p50_seconds=quantile(latencies, 0.5),
        p99_seconds=quantile(latencies, 0.99),
        failed_share=round(sum(m.failed for m in latest) / requests, 4) if requests else 0.0,
        absent_ratio=ratio(sum(t.absent for t in today), asked),
        queries_today=asked,
        late_today=late,
    )


def trend(minutes: Sequence[MinuteRow]) -> list[Minute]:
    return [
        Minute(
            at=m.minute,
            queries=m.queries,
            absent=m.absent,
            requests=m.requests,
            refused=m.refused,
            failed=m.failed,
            p50_seconds=quantile(m.latencies, 0.5),
            p99_seconds=quantile(m.latencies, 0.99),
        )
        for m in minutes
    ]


def ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Within its bucket, as if times lay evenly in it, as Prometheus does. Beyond the last bound it is that bound."""
    total = sum(counts)
    if not total:
        return None
    rank, below, lower = share * total, 0, 0.0
    for bound, count in zip(observe.SECONDS, counts, strict=False):
        if count and below + count >= rank:
            return round(lower + (bound - lower) * (rank - below) / count, 6)
        below, lower = below + count, bound
    return float(observe.SECONDS[-1])


def _summed(lists: Sequence[Sequence[int]]) -> list[int]:
    """Bucket by bucket; a minute in which nobody asked has none."""
    buckets = max(map(len, lists), default=0)
    return [sum(counts[place] for counts in lists if place < len(counts)) for place in range(buckets)]
