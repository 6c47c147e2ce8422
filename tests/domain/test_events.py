"""A call of events decides as its events would one by one: how billing cuts them into calls changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from registryd.domain.contract import EVENT_TYPES, Contract, Event, EventType, Known
from registryd.domain.events import Decided, PastEvent, decide
from registryd.domain.identifiers import Msisdn

NOW = datetime(2026, 6, 1, tzinfo=UTC)
one_event = st.builds(
    Event,
    event_id=st.sampled_from([f"e{n}" for n in range(12)]),
    type=st.sampled_from(EVENT_TYPES),
    msisdn=st.sampled_from([Msisdn(79010000000), Msisdn(79010000001)]),
    occurred_at=st.integers(0, 30).map(lambda days: NOW - timedelta(days=days)),
    holder=st.sampled_from([None, "individual", "organisation"]),
)
event_lists = st.lists(one_event, max_size=20)


class Registry:
    """What calls leave behind."""

    def __init__(self) -> None:
        self.past: dict[str, PastEvent] = {}
        self.contracts: dict[tuple[int, int], Contract] = {}
        self.states: dict[Msisdn, Known] = {}

    def call(self, events: list[Event], ends_left: int = 10_000) -> Decided:
        latest = {row.msisdn: row for _, row in sorted(self.contracts.items())}
        known = {msisdn: replace(self.states.get(msisdn, Known()), latest=row) for msisdn, row in latest.items()}
        decided = decide([(event, repr(event).encode()) for event in events], self.past, known, NOW, ends_left)
        self.past |= {e.event_id: PastEvent(e.event_id, content, "applied", None) for e, content in decided.applied}
        self.past |= {e.event_id: PastEvent(e.event_id, content, "refused", reason) for e, content, reason in decided.refused}
        assert not self.past.keys() & decided.waiting.keys()
        assert all((row.msisdn, row.generation) in self.contracts for row in decided.updated)
        assert all((row.msisdn, row.generation) not in self.contracts for row in decided.inserted)
        self.contracts |= {(row.msisdn, row.generation): row for row in (*decided.updated, *decided.inserted)}
        self.states |= decided.states
        return decided

    def live(self) -> int:
        return sum(row.status != "ended" for row in self.contracts.values())


@given(event_lists)
def test_one_call_decides_as_a_call_for_each_event(events: list[Event]) -> None:
    together, apart = Registry(), Registry()
    results = together.call(events).results
    assert results == [result for event in events for result in apart.call([event]).results]
    assert (together.past, together.contracts) == (apart.past, apart.contracts)


@given(event_lists)
def test_a_repeated_call_changes_nothing(events: list[Event]) -> None:
    registry = Registry()
    first = registry.call(events).results
    again = registry.call(events)
    while any((again.applied, again.refused)):  # what waited may fit now
        again = registry.call(events)
    assert (again.updated, again.inserted, again.states) == ([], [], {})
    assert all(two.outcome == "refused" for one, two in zip(first, again.results, strict=True) if one.outcome == "refused")
    assert all(two.outcome == "duplicate" for one, two in zip(first, again.results, strict=True) if one.outcome == "applied")


@given(event_lists, st.lists(one_event, max_size=12, unique_by=lambda event: event.event_id), st.integers(0, 3))
def test_ends_beyond_the_bound_wait_and_nothing_else_does(begun: list[Event], events: list[Event], ends_left: int) -> None:
    bound, free = Registry(), Registry()
    for registry in (bound, free):
        registry.call(begun)
    events = [replace(event, event_id=f"later-{event.event_id}") for event in events]
    live = {key for key, row in bound.contracts.items() if row.status != "ended"}
    decided, unbound = bound.call(events, ends_left), free.call(events)
    ended = [row for row in decided.updated if row.status == "ended" and (row.msisdn, row.generation) in live]
    assert len(ended) <= ends_left
    lacks = {lack for _, lack in decided.waiting.values()}
    if "too_many_ends" in lacks:
        assert len(ended) == ends_left
        stopped = {event.msisdn for event, lack in decided.waiting.values() if lack == "too_many_ends"}
    else:
        stopped = set()
    for event, one, other in zip(events, decided.results, unbound.results, strict=True):
        assert event.msisdn in stopped or one == other, "numbers of which no end waits are as without a bound"


def test_what_waits_for_the_bound_is_applied_when_there_is_room() -> None:
    numbers = [Msisdn(79010000000 + n) for n in range(3)]
    day = timedelta(days=1)

    def events(kind: EventType, ago: timedelta) -> list[Event]:
        return [Event(event_id=f"{kind}{n}", type=kind, msisdn=msisdn, occurred_at=NOW - ago) for n, msisdn in enumerate(numbers)]

    registry = Registry()
    registry.call(events("activated", 9 * day))
    wave = [
        *events("terminated", 5 * day),
        *events("suspended", 6 * day),
        *(replace(e, event_id=f"n{e.event_id}") for e in events("activated", day)),
    ]
    told = [(result.outcome, (result.reason or "").split(":")[0]) for result in registry.call(wave, ends_left=1).results]
    behind, before_the_end = ("not_yet", "follows_a_waiting_event"), ("not_yet", "still_live")
    assert told == [
        ("applied", ""),
        *[("not_yet", "too_many_ends")] * 2,
        ("applied", ""),
        behind,
        behind,
        ("applied", ""),
        before_the_end,
        before_the_end,
    ]
    assert registry.live() == 3
    assert [result.outcome for result in registry.call(wave, ends_left=2).results] == ["duplicate", "applied", "applied"] * 3
    assert {(row.generation, row.status) for row in registry.contracts.values()} == {(1, "ended"), (2, "active")}


def test_a_contract_that_began_in_the_call_ends_without_regard_to_the_bound() -> None:
    """Nobody was bound to it: a history that is told at once is no wave."""
    number = Msisdn(79010000000)
    types: tuple[EventType, ...] = ("activated", "holder_changed", "terminated", "activated")
    history = [
        Event(event_id=f"e{place}", type=kind, msisdn=number, occurred_at=NOW - timedelta(days=9 - place))
        for place, kind in enumerate(types)
    ]
    assert [result.outcome for result in Registry().call(history, ends_left=0).results] == ["applied"] * 4
