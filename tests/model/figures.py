"""What the reports must say of a plain model: every figure counted from its dicts."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from typing import Any

from tests.model.plain import Key, Notice, Plain


def day(at: datetime) -> date:
    return at.astimezone(UTC).date()


def figures(model: Plain) -> dict[str, Any]:
    """By view of schema report."""
    return {
        "binding_by_messenger": {messenger: _bindings(model, messenger) for messenger in model.messengers},
        "contract_daily": _contracts(model),
        "notification_backlog": {messenger: _backlog(model, messenger) for messenger in model.messengers},
        "notification_deadline": _deadlines(model),
        "wave": [(w.ends, w.notifications, w.released, w.withdrawn) for w in model.waves],
        "feed_lag": dict(Counter((event.type, outcome) for event, outcome in model.events.values())),
        "delivery_attempt_daily": {key: count for key, count in model.attempts.items() if count},
        "presence_daily": {
            messenger: (model.asked[messenger, True], model.asked[messenger, False])
            for messenger in model.messengers
            if model.asked[messenger, True] or model.asked[messenger, False]
        },
    }


def _bindings(model: Plain, messenger: int) -> tuple[int, int, int, int]:
    reasons = Counter(binding.end_reason for binding in model.bindings if binding.messenger == messenger)
    return reasons[None], reasons["terminated"], reasons["replaced"], reasons["removed"]


def _contracts(model: Plain) -> dict[date, tuple[int, int, int, int]]:
    counted: Counter[tuple[date, str]] = Counter()
    for of_number in model.contracts.values():
        for contract in of_number:
            counted[day(contract.started_at), "activated"] += 1
            if contract.ended_at is not None and contract.end_reason is not None:
                counted[day(contract.ended_at), contract.end_reason] += 1
    kinds = ("activated", "terminated", "ported_out", "holder_changed")
    return {of: tuple(counted[of, kind] for kind in kinds) for of, _ in counted}  # type: ignore[misc] # of four kinds


def _backlog(model: Plain, messenger: int) -> tuple[int, int, int]:
    """Pending, overdue and held: held ones are pending, too."""
    owed = [notice for key, notice in _not_delivered(model) if key.messenger == messenger]
    return len(owed), sum(notice.deadline_at < model.now for notice in owed), sum(key.messenger == messenger for key in model.held)


def _not_delivered(model: Plain) -> list[tuple[Key, Notice]]:
    owed = [(key, notice) for key, notice in model.owed.items() if not notice.is_repeat]
    return owed + [(key, notice) for key, (notice, _) in model.held.items()]


def _deadlines(model: Plain) -> dict[tuple[date, int], tuple[int, int, int, int]]:
    """In time, late, overdue and pending, by day of the end and messenger."""
    counted: Counter[tuple[date, int, str]] = Counter()
    for key, (notice, _) in model.delivered.items():
        counted[day(notice.terminated_at), key.messenger, "late" if notice.deadline_at < model.now else "in_time"] += 1
    for key, notice in _not_delivered(model):
        counted[day(notice.terminated_at), key.messenger, "overdue" if notice.deadline_at < model.now else "pending"] += 1
    kinds = ("in_time", "late", "overdue", "pending")
    return {(of, messenger): tuple(counted[of, messenger, kind] for kind in kinds) for of, messenger, _ in counted}  # type: ignore[misc]
