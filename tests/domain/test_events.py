"""A call of events decides as its events would one by one: how billing cuts them into calls changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from registryd.domain.contract import EVENT_TYPES, Contract, Event
from registryd.domain.events import Decided, PastEvent, decide
from registryd.domain.identifiers import Msisdn

NOW = datetime(2026, 6, 1, tzinfo=UTC)
event_lists = st.lists(
    st.builds(
        Event,
        event_id=st.sampled_from([f"e{n}" for n in range(12)]),
        type=st.sampled_from(EVENT_TYPES),
        msisdn=st.sampled_from([Msisdn(79010000000), Msisdn(79010000001)]),
        occurred_at=st.integers(0, 30).map(lambda days: NOW - timedelta(days=days)),
        holder=st.sampled_from([None, "individual", "organisation"]),
    ),
    max_size=20,
)


class Registry:
    """What calls leave behind."""

    def __init__(self) -> None:
        self.past: dict[str, PastEvent] = {}
        self.contracts: dict[tuple[int, int], Contract] = {}

    def call(self, events: list[Event]) -> Decided:
        latest = {row.msisdn: row for _, row in sorted(self.contracts.items())}
        decided = decide([(event, repr(event).encode()) for event in events], self.past, latest, NOW)
        self.past |= {e.event_id: PastEvent(e.event_id, content, "applied", None) for e, content in decided.applied}
        self.past |= {e.event_id: PastEvent(e.event_id, content, "refused", reason) for e, content, reason in decided.refused}
        assert all((row.msisdn, row.generation) in self.contracts for row in decided.updated)
        assert all((row.msisdn, row.generation) not in self.contracts for row in decided.inserted)
        self.contracts |= {(row.msisdn, row.generation): row for row in (*decided.updated, *decided.inserted)}
        return decided


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
    assert (again.applied, again.refused, again.updated, again.inserted) == ([], [], [], [])
    assert all((one.outcome == "refused") == (two.outcome == "refused") for one, two in zip(first, again.results, strict=True))
