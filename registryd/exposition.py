"""What a process exposes of the metrics: those that its role knows, with counters that exist before there is anything to count."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from registryd import observe
from registryd.domain.enumeration import Sign

VERSION = version("registryd")
ONLY: Mapping[str, Collection[MetricWrapperBase]] = {
    "answer": (
        observe.answers_late,
        observe.queries,
        observe.query_groups,
        observe.query_seconds,
        observe.queries_waiting,
        observe.enumeration_alarms,
        observe.messengers_throttled,
    ),
    "deliver": (observe.lanes_leased, observe.pushes, observe.push_seconds, observe.notifications_late, observe.lane_gates),
    "operate": (
        *observe.BACKLOG,
        observe.policy,
        observe.policy_lapses,
        observe.answer_within,
        observe.notice_within,
        observe.events_applied,
        observe.event_lag,
        observe.feed_last_event,
        observe.feed_last_snapshot,
        observe.feed_waiting,
        observe.feed_waiting_age,
        observe.ends_left,
        observe.outside_capacity,
        observe.waves_held,
        observe.digests_undelivered,
        observe.replays_waiting,
        observe.changes_waiting,
        observe.partitions_ahead,
        observe.partitions_dropped,
        observe.partitions_over,
        observe.unplaced_rows,
        observe.digest_keys_destroyed,
        observe.ended_purged,
        observe.pages_sealed,
        observe.unsealed_seconds,
        observe.evidence_verified,
        observe.evidence_findings,
        observe.breakglass_steps,
        observe.keys_end,
    ),
}
"""What one role alone knows. The other roles do not show it: a 0 that nobody has measured would raise alarms, or hide them."""
PER_MESSENGER: Mapping[str, Sequence[tuple[MetricWrapperBase, Sequence[tuple[str, ...]]]]] = {
    "answer": (
        (observe.queries, [("present",), ("absent",)]),
        (observe.enumeration_alarms, [(sign,) for sign in get_args(Sign)]),
        (observe.requests_refused, [("quota",), ("throttle",)]),
        (observe.notifications_delivered, [("pull",)]),
    ),
    "deliver": ((observe.notifications_late, [()]), (observe.lane_gates, [()]), (observe.notifications_delivered, [("push",)])),
}
"""Counters that are there for each messenger, at 0, once the process knows of it, with their other labels. Prometheus sees no
increase in the first value of a series, so a messenger's first late notice would otherwise wake nobody.
"""
ALL_PER_MESSENGER = (
    *(metric for counters in PER_MESSENGER.values() for metric, _ in counters),
    observe.pushes,
    observe.push_seconds,
    *observe.BACKLOG,
)


class PushMetrics:
    """One messenger's push metrics, looked up once, because looking up a label costs more than counting."""

    def __init__(self, messenger: str) -> None:
        self._count = {outcome: observe.pushes.labels(messenger, outcome) for outcome in ("acknowledged", "rejected", "failed")}
        self._seconds = observe.push_seconds.labels(messenger)

    def count(self, outcome: str, seconds: float) -> None:
        self._count[outcome].inc()
        self._seconds.observe(seconds)


class Known:
    """The messengers that a process knows of: their counters are there from then on, and their series go with them."""

    def __init__(self, role: str) -> None:
        self._counters = PER_MESSENGER.get(role, ())
        self._names: frozenset[str] = frozenset()

    def keep(self, names: Iterable[str]) -> None:
        found = frozenset(names)
        if found == self._names:
            return
        for metric, others in self._counters:
            for name in found - self._names:
                for labels in others:
                    metric.labels(name, *labels)
        for name in self._names - found:
            for metric in ALL_PER_MESSENGER:
                metric.remove_by_labels({"messenger": name})
            observe.child.cache_clear()
        self._names = found


_shown: list[CollectorRegistry] = [observe.METRICS]
"""One for each metric."""


def show(role: str, schema: int) -> None:
    """From now on the process exposes what its role knows. `schema`: this release's newest migration."""
    hidden = {id(metric) for other, metrics in ONLY.items() if other != role for metric in metrics}
    _shown.clear()
    for metric in (observe.PROCESS, *(each for each in vars(observe).values() if isinstance(each, MetricWrapperBase))):
        if id(metric) not in hidden:
            _shown.append(CollectorRegistry())
            _shown[-1].register(metric)
    observe.build.labels(role, VERSION, platform.python_version(), f"{schema:04}").set(1)
    for name in observe.FAULTS:
        observe.faults.labels(name)
    for kind in observe.DATABASE_ERRORS:
        observe.database_errors.labels(kind)


async def exposition() -> bytes:
    """The metrics in Prometheus' text format. With a hundred messengers they take milliseconds: between two of them others have a turn."""
    parts = []
    for registry in _shown:
        parts.append(generate_latest(registry))
        await asyncio.sleep(0)
    return b"".join(parts)
