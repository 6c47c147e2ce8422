"""What a call of billing's events does: each event once, in order, each seeing what the ones before it changed.

`contract.apply` is the rule for one event. Here its outcomes are gathered, so that a call of ten thousand events is written by a handful of
statements. An event that comes again changes nothing: one that was applied is told as a duplicate, one that was refused as refused for its
first reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from registryd.domain import contract as rule
from registryd.domain.contract import Contract, Event, Refused, Result
from registryd.domain.identifiers import Msisdn


class PastEvent(NamedTuple):
    """An event as it was recorded. `content` is the keyed digest by which a repeated event is told from a reused id."""

    event_id: str
    content: bytes
    outcome: str
    reason: str | None


class Decided(NamedTuple):
    """`results` has one entry an event, in the call's order; the rest is what the call writes."""

    results: list[Result]
    applied: list[tuple[Event, bytes]]
    refused: list[tuple[Event, bytes, str]]
    updated: list[Contract]
    inserted: list[Contract]


def decide(
    events: Sequence[tuple[Event, bytes]], past: Mapping[str, PastEvent], before: Mapping[Msisdn, Contract], now: datetime
) -> Decided:
    """Decides on events with their contents. `past`: what is recorded under their ids; `before`: their numbers' latest contracts."""
    known = dict(past)
    latest = dict(before)
    written: dict[tuple[Msisdn, int], Contract] = {}
    decided = Decided([], [], [], [], [])
    for event, content in events:
        former = known.get(event.event_id)
        if former is not None:
            decided.results.append(_repeated(event, content, former))
            continue
        reason: str | None = None
        try:
            for row in rule.apply(latest.get(event.msisdn), event, now):
                written[row.msisdn, row.generation] = latest[row.msisdn] = row
            decided.applied.append((event, content))
        except Refused as refusal:
            reason = str(refusal)
            decided.refused.append((event, content, reason))
        outcome: Literal["applied", "refused"] = "applied" if reason is None else "refused"
        known[event.event_id] = PastEvent(event.event_id, content, outcome, reason)
        decided.results.append(Result(event.event_id, outcome, reason))
    for row in written.values():
        former_row = before.get(row.msisdn)
        is_update = former_row is not None and former_row.generation == row.generation
        (decided.updated if is_update else decided.inserted).append(row)
    return decided


def _repeated(event: Event, content: bytes, former: PastEvent) -> Result:
    if content != former.content:
        return Result(event.event_id, "refused", "this eventId was used before for a different event: send it under an id of its own")
    return Result(event.event_id, "refused" if former.outcome == "refused" else "duplicate", former.reason)
