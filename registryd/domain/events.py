"""What a call of billing's events does: each event once, in order, each seeing what the ones before it changed.

`contract.apply` is the rule for one event. Here its outcomes are gathered, so that a call of ten thousand events is written by a handful of
statements. An event that comes again changes nothing: one that was applied is told as a duplicate, one that was refused as refused for its
first reason. One that waits (not_yet) is not recorded, so it is judged anew each time.

Only so many contracts may end (`ends_left`). An end beyond that waits, and so do the events of its number behind it in the call; all others
are applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from registryd.domain import contract as rule
from registryd.domain.contract import Contract, Event, Known, Lack, NotYet, Refused, Result
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
    waiting: dict[str, tuple[Event, Lack]]
    """By their ids, the events that wait, and for what."""
    updated: list[Contract]
    inserted: list[Contract]
    states: dict[Msisdn, Known]
    """The numbers of which state events told something newer."""
    changed: list[tuple[Contract, Contract | None]]
    """Each live contract that ends or changes, and what is live under its number afterwards: itself, the next generation or nothing."""

    @property
    def ends(self) -> int:
        """How many contracts end that were there before."""
        return sum(after is None or after.generation != before.generation for before, after in self.changed)


def decide(
    events: Sequence[tuple[Event, bytes]],
    past: Mapping[str, PastEvent],
    before: Mapping[Msisdn, Known],
    now: datetime,
    ends_left: int,
) -> Decided:
    """Decides on events with their contents. `past`: what is recorded under their ids; `before`: what is known of their numbers."""
    call = Call(now, ends_left)
    call.learn(past, before)
    for event, content in events:
        call.take(event, content)
    return call.decided()


class Call:
    """One call under way. What it must know is learned before its events are taken, at once or part by part."""

    def __init__(self, now: datetime, ends_left: int) -> None:
        self._now = now
        self._ends_left = ends_left
        self._before: dict[Msisdn, Known] = {}
        self._past: dict[str, PastEvent] = {}
        self._known: dict[Msisdn, Known] = {}
        self._written: dict[tuple[Msisdn, int], Contract] = {}
        self._stopped: set[Msisdn] = set()
        """Numbers of which an end waits because of the bound."""
        self._decided = Decided([], [], [], {}, [], [], {}, [])

    def learn(self, past: Mapping[str, PastEvent], before: Mapping[Msisdn, Known]) -> None:
        """What the call has done itself is not forgotten for it."""
        for event_id, event in past.items():
            self._past.setdefault(event_id, event)
        for msisdn, known in before.items():
            self._before.setdefault(msisdn, known)
            self._known.setdefault(msisdn, known)

    def knows(self, msisdn: Msisdn) -> bool:
        return msisdn in self._before

    def take(self, event: Event, content: bytes) -> Result:
        former = self._past.get(event.event_id)
        result = self._judge(event, content) if former is None else _repeated(event, content, former)
        self._decided.results.append(result)
        return result

    def _judge(self, event: Event, content: bytes) -> Result:
        try:
            self._apply(event)
        except Refused as refusal:
            return self._record(event, content, str(refusal))
        except NotYet as lack:
            self._decided.waiting[event.event_id] = event, lack.lack
            return Result(event.event_id, "not_yet", str(lack))
        return self._record(event, content, None)

    def _record(self, event: Event, content: bytes, refusal: str | None) -> Result:
        self._decided.waiting.pop(event.event_id, None)
        if refusal is None:
            self._decided.applied.append((event, content))
        else:
            self._decided.refused.append((event, content, refusal))
        recorded = PastEvent(event.event_id, content, "applied" if refusal is None else "refused", refusal)
        self._past[event.event_id] = recorded
        return Result(event.event_id, "applied" if refusal is None else "refused", refusal)

    def _apply(self, event: Event) -> None:
        """Raises: Refused, NotYet."""
        known, written = rule.apply(self._known.get(event.msisdn, Known()), event, self._now)
        if event.msisdn in self._stopped:
            raise NotYet("follows_a_waiting_event", "an end of this number that stands before it in the call waits; send both again")
        ends = sum(self._is_end(row) for row in written)
        if ends > self._ends_left:
            self._stopped.add(event.msisdn)
            raise NotYet(
                "too_many_ends", "more contracts have ended than may end in an hour; send it again later, or tell the registry's operators"
            )
        self._ends_left -= ends
        self._known[event.msisdn] = known
        for row in written:
            self._written[row.msisdn, row.generation] = row

    def _is_end(self, row: Contract) -> bool:
        """Whether a contract ends that was there before the call. One that the call itself began is nobody's news, and does not count."""
        former = self._before.get(row.msisdn, Known()).live
        return row.ended_at is not None and former is not None and former.generation == row.generation

    def decided(self) -> Decided:
        for row in self._written.values():
            former = self._before.get(row.msisdn, Known()).latest
            is_update = former is not None and former.generation == row.generation
            (self._decided.updated if is_update else self._decided.inserted).append(row)
        for msisdn, known in self._known.items():
            before = self._before.get(msisdn, Known()).live
            if before is not None and known.live != before:
                self._decided.changed.append((before, known.live))
            if known.state != self._before.get(msisdn, Known()).state:
                self._decided.states[msisdn] = known
        return self._decided


def _repeated(event: Event, content: bytes, former: PastEvent) -> Result:
    if content != former.content:
        return Result(event.event_id, "refused", "this eventId was used before for a different event: send it under an id of its own")
    return Result(event.event_id, "refused" if former.outcome == "refused" else "duplicate", former.reason)
