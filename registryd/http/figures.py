"""Tells the database every ten seconds what this process has answered, for the console's rates and latencies.

The figures are the differences of the metrics, which are kept anyway, so a query pays nothing for them. What the database does not take is
lost: Prometheus has the history, and the journal the proof.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from registryd import observe
from registryd.store import answering
from registryd.store.answering import Figures
from registryd.store.pool import Database

ROUTES = ("presence", "presence_batch")
SINGLE = "presence"
"""The route whose latencies are told: a batch takes as long as it is large."""


class AnswerFigures:
    """`clock()`: a monotonic one, in seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._told = _counted()
        self._told_at = clock()

    async def flush(self) -> None:
        """Adds what was answered since the last time, to the minute in which the middle of that time lies. Raises: Unavailable."""
        before, now, since = self._told, _counted(), self._told_at
        self._told, self._told_at = now, self._clock()
        new = Figures(
            # The counters of a messenger go with it when it is renamed or removed, so these two sums may fall.
            max(now.queries - before.queries, 0),
            max(now.absent - before.absent, 0),
            now.requests - before.requests,
            now.refused - before.refused,
            now.failed - before.failed,
            [count - former for count, former in zip(now.latencies, before.latencies, strict=True)],
        )
        if new.requests:
            await answering.add_minute(self._db, (self._told_at - since) / 2, new)


def _counted() -> Figures:
    """Since the process began."""
    answers = {"present": 0, "absent": 0}
    for labels, value in _samples(observe.queries, "_total"):
        answers[labels["answer"]] += int(value)
    by_class = [0, 0, 0]
    for labels, value in _samples(observe.requests, "_total"):
        if labels["api"] == "messenger" and labels["route"] in ROUTES:
            by_class[{"4": 1, "5": 2}.get(labels["status"][0], 0)] += int(value)
    up_to = [
        int(value)
        for labels, value in _samples(observe.request_seconds, "_bucket")
        if labels["api"] == "messenger" and labels["route"] == SINGLE
    ] or [0] * (len(observe.SECONDS) + 1)
    latencies = [up_to[0], *(more - less for less, more in pairwise(up_to))]
    return Figures(sum(answers.values()), answers["absent"], sum(by_class), by_class[1], by_class[2], latencies)


def _samples(metric: MetricWrapperBase, suffix: str) -> Iterator[tuple[dict[str, str], float]]:
    families: list[Metric] = list(metric.collect())
    for family in families:
        for sample in family.samples:
            if sample.name.endswith(suffix):
                yield sample.labels, sample.value
