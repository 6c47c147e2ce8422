"""The law as dated data: past, in force and planned policies, and what each changes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from registryd.store import policy
from registryd.store.pool import Database
from registryd.views.shape import Shape, Time, looking

OWN = ("effective_from", "superseded_at", "in_force", "lapses_at", "note", "recorded_at", "recorded_by")
"""Columns that a policy shows beside its rules, and that say nothing of what it changes."""


class Rule(Shape, frozen=True):
    name: str
    """As `registryd policy set` takes it, such as notice_within."""
    value: str
    """As PostgreSQL writes it; none where there is no bound."""
    differs: bool
    """From the policy before."""
    before: str | None
    """Its value there; None in the first policy."""


class Policy(Shape, frozen=True):
    state: Literal["past", "in_force", "planned"]
    effective_from: Time
    superseded_at: Time | None
    lapses_at: Time | None
    note: str
    recorded_at: Time
    recorded_by: str
    rules: list[Rule]


class Policies(Shape, frozen=True):
    seen_at: Time
    policies: list[Policy]
    """The newest first: planned, in force, past."""


async def read(db: Database) -> Policies:
    """Raises: Unavailable."""
    async with looking(db) as (moment, seen_at):
        rows = await policy.read(moment.connection)
    in_force = next((place for place, row in enumerate(rows) if row["in_force"]), len(rows))
    found = [
        _policy(row, rows[place - 1] if place else None, "in_force" if place == in_force else "past" if place < in_force else "planned")
        for place, row in enumerate(rows)
    ]
    return Policies(seen_at=seen_at, policies=found[::-1])


def _policy(row: dict[str, Any], before: dict[str, Any] | None, state: Literal["past", "in_force", "planned"]) -> Policy:
    return Policy(
        state=state,
        effective_from=_time(row["effective_from"]),
        superseded_at=_time_or_none(row["superseded_at"]),
        lapses_at=_time_or_none(row["lapses_at"]),
        note=row["note"],
        recorded_at=_time(row["recorded_at"]),
        recorded_by=row["recorded_by"],
        rules=[
            Rule(
                name=name,
                value=_text(value),
                differs=before is not None and before[name] != value,
                before=None if before is None else _text(before[name]),
            )
            for name, value in row.items()
            if name not in OWN and not name.endswith("_seconds")
        ],
    )


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _time_or_none(text: str | None) -> datetime | None:
    return None if text is None else _time(text)
