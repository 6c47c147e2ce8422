"""What billing's events do to a number: any order and repetition of a history ends as its right order, and each outcome's reason."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registryd.domain.contract import CLOCK_SKEW_MAX, GENERATION_MAX, Contract, Effect, Event, Known, NotYet, Refused, apply
from registryd.domain.identifiers import Msisdn

MSISDN = Msisdn(79161234567)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENDS = ("terminated", "ported_out", "holder_changed")


def event(kind: str, occurred_at: datetime = NOW, **facts: Any) -> Event:
    return Event(event_id="e", type=kind, msisdn=MSISDN, occurred_at=occurred_at, **facts)  # type: ignore[arg-type] # a type by its name


def contract(**facts: Any) -> Contract:
    started = {"msisdn": MSISDN, "generation": 1, "status": "active", "holder": "individual", "end_user": "not_required"}
    return Contract(**{**started, "started_at": NOW - timedelta(days=10), **facts})


def known(latest: Contract | None = None, **facts: Any) -> Known:
    return Known(latest=latest, **facts)


ENDED = contract(status="ended", ended_at=NOW - timedelta(days=2), end_reason="terminated")


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """A history that billing could have: events of one number in their right order, at times of their own, all of them past."""
    count = draw(st.integers(1, 9))
    hours = sorted(draw(st.lists(st.integers(1, 200), min_size=count, max_size=count, unique=True)), reverse=True)
    holder: str | None = None
    status, end_user = "active", "unregistered"
    events = []
    for place, hour in enumerate(hours):
        if holder is None:
            kind = "activated"
        else:
            kinds = [*ENDS, "resumed" if status == "suspended" else "suspended"]
            if holder != "individual":
                kinds.append("end_user_withdrawn" if end_user == "registered" else "end_user_registered")
            kind = draw(st.sampled_from(kinds))
        facts: dict[str, Any] = {}
        match kind:
            case "activated" | "holder_changed":
                holder, status = draw(st.sampled_from(["individual", "sole_trader", "organisation"])), "active"
                end_user = "unregistered" if holder == "individual" else draw(st.sampled_from(["registered", "unregistered"]))
                facts = {"holder": holder} if holder == "individual" else {"holder": holder, "end_user": end_user}
            case "terminated" | "ported_out":
                holder = None
            case "suspended" | "resumed":
                status = "suspended" if kind == "suspended" else "active"
            case _:
                end_user = "registered" if kind == "end_user_registered" else "unregistered"
        sent = event(kind, NOW - timedelta(hours=hour), **facts)
        events.append(msgspec.structs.replace(sent, event_id=f"e{place}"))
    return events


class Billing:
    """Sends events one by one, and again those that are not_yet, as the registry asks."""

    def __init__(self) -> None:
        self.known = Known()
        self.rows: dict[int, Contract] = {}
        self.past: set[str] = set()

    def send(self, sent: Event, now: datetime = NOW) -> str:
        if sent.event_id in self.past:
            return "duplicate"
        try:
            self.known, written = apply(self.known, sent, now)
        except NotYet:
            return "not_yet"
        except Refused:
            self.past.add(sent.event_id)
            return "refused"
        self.past.add(sent.event_id)
        self.rows |= {row.generation: row for row in written}
        return "applied"

    def send_all(self, events: list[Event]) -> None:
        waiting = events
        while waiting:
            left = [sent for sent in waiting if self.send(sent) == "not_yet"]
            assert len(left) < len(waiting), "each round cures something"
            waiting = left

    @property
    def state(self) -> tuple[Any, ...] | None:
        """Whether the number is live, since when, for whom and in which state; or since when it is not."""
        latest = self.known.latest
        if latest is None:
            return None
        if latest.status == "ended":
            return latest.ended_at, latest.end_reason
        return latest.status, latest.holder, latest.end_user, latest.started_at


@settings(max_examples=2_000, deadline=None)
@given(histories(), st.randoms(use_true_random=False), st.data())
def test_any_order_and_repetition_ends_as_the_right_order(events: list[Event], random: Any, data: st.DataObject) -> None:
    right, other = Billing(), Billing()
    assert [right.send(sent) for sent in events] == ["applied"] * len(events)
    repeated = events + data.draw(st.lists(st.sampled_from(events), max_size=5))
    random.shuffle(repeated)
    other.send_all(repeated)
    assert other.state == right.state
    rows = [other.rows[generation] for generation in sorted(other.rows)]
    assert [row.generation for row in rows] == list(range(1, len(rows) + 1))
    assert all(row.status == "ended" for row in rows[:-1]), "at most one is live, and it is the latest"
    for row in rows:
        assert (row.status == "ended") == (row.ended_at is not None) == (row.end_reason is not None)
        assert (row.holder == "individual") == (row.end_user == "not_required")
        assert row.ended_at is None or row.started_at <= row.ended_at
    for former, latter in itertools.pairwise(rows):
        assert former.ended_at is not None
        assert former.ended_at <= latter.started_at, "periods do not overlap"


@settings(max_examples=300, deadline=None)
@given(histories(), st.integers(0, 200))
def test_an_event_of_the_future_changes_nothing_and_is_applied_when_its_time_has_come(events: list[Event], hours: int) -> None:
    billing, right = Billing(), Billing()
    early = NOW - timedelta(hours=hours)
    told = [billing.send(sent, early) for sent in events]
    assert ["not_yet" if sent.occurred_at > early + CLOCK_SKEW_MAX else "applied" for sent in events] == told
    billing.send_all(events)
    right.send_all(events)
    assert billing.rows == right.rows


@given(histories(), st.sampled_from(ENDS))
def test_a_live_number_can_always_be_ended(events: list[Event], kind: str) -> None:
    billing = Billing()
    billing.send_all(events)
    if billing.known.live is not None:
        assert apply(billing.known, event(kind, NOW), NOW).written[0].status == "ended"


SNAPSHOT = {"snapshot_at": NOW - timedelta(hours=1)}
COMPANY = contract(holder="organisation", end_user="registered")
BEGAN = NOW - timedelta(days=10)


@pytest.mark.parametrize(
    ("before", "sent", "lack"),
    [
        (known(), event("terminated"), "no_contract_yet: .* send activated, then this again"),
        (known(), event("resumed"), "no_contract_yet"),
        (known(ENDED), event("ported_out", NOW - timedelta(days=1)), "no_contract_yet"),
        (known(ENDED), event("suspended", NOW - timedelta(days=1)), "no_contract_yet"),
        (known(contract()), event("activated"), r"still_live: .*generation 1.* send terminated, ported_out or holder_changed"),
        (known(contract(), **SNAPSHOT), event("activated", BEGAN + timedelta(days=1)), "still_live"),
        (known(contract(), **SNAPSHOT), event("activated", BEGAN + timedelta(hours=9), holder="organisation"), "still_live"),
        (known(contract(), **SNAPSHOT), event("activated", NOW - timedelta(minutes=59)), "still_live"),
        (known(contract()), event("activated", BEGAN + timedelta(hours=9)), "still_live"),
        (known(contract()), event("terminated", NOW + CLOCK_SKEW_MAX + timedelta(seconds=1)), "in_the_future"),
        (known(), event("activated", datetime(9999, 12, 31, tzinfo=UTC)), "in_the_future"),
        (known(contract()), event("end_user_registered"), "held_by_an_individual: .* send holder_changed first"),
    ],
)
def test_what_time_another_event_or_a_person_would_cure_is_not_yet(before: Known, sent: Event, lack: str) -> None:
    with pytest.raises(NotYet, match=lack) as waits:
        apply(before, sent, NOW)
    assert str(MSISDN) not in str(waits.value)


@pytest.mark.parametrize(
    ("before", "sent", "reason"),
    [
        (known(contract()), event("activated", BEGAN - timedelta(days=1)), r"before the live contract \(generation 1\) started"),
        (known(contract()), event("activated", BEGAN), "the activation is known"),
        (known(contract(), **SNAPSHOT), event("activated", BEGAN + timedelta(hours=9)), "the activation is known"),
        (known(contract(), **SNAPSHOT), event("holder_changed", BEGAN + timedelta(hours=9)), "the change is known"),
        (known(), event("activated", datetime(1969, 12, 31, tzinfo=UTC)), "before 1970: correct the year"),
        (known(contract()), event("terminated", BEGAN - timedelta(days=1)), r"before the live contract \(generation 1\) started"),
        (known(ENDED), event("activated", NOW - timedelta(days=3)), "before generation 1 ended"),
        (known(ENDED), event("ported_out", NOW - timedelta(days=2)), "its end is known"),
        (known(ENDED), event("holder_changed", NOW - timedelta(days=3)), "its end is known"),
        (
            known(contract(started_at=NOW)),
            event("holder_changed", NOW),
            r"live contract \(generation 1\) started then: the change is known",
        ),
        (known(contract()), event("suspended", holder="organisation"), "holder and endUser do not belong to suspended"),
        (known(contract()), event("end_user_registered", end_user="registered"), "do not belong to end_user_registered"),
        (known(), event("activated", end_user="registered"), "belongs to an organisation or sole trader"),
        (
            known(contract()),
            event("holder_changed", holder="individual", end_user="registered"),
            "belongs to an organisation or sole trader",
        ),
        (known(contract(generation=GENERATION_MAX)), event("holder_changed"), "too many holders"),
        (known(), msgspec.structs.replace(event("activated"), msisdn=Msisdn(89161234567)), "begins with 8.*send it with \\+7"),
        (known(), msgspec.structs.replace(event("activated"), msisdn=Msisdn(999100000000001)), "under \\+999, the code of test numbers"),
        (known(), msgspec.structs.replace(event("activated"), msisdn=Msisdn(99912345)), "under \\+999, the code of test numbers"),
    ],
)
def test_what_contradicts_whenever_it_comes_is_refused_and_says_what_to_do(before: Known, sent: Event, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        apply(before, sent, NOW)
    assert str(sent.msisdn) not in str(refused.value)


@pytest.mark.parametrize(
    ("before", "sent"),
    [
        (known(ENDED), event("suspended", NOW - timedelta(days=2))),
        (known(contract()), event("suspended", BEGAN - timedelta(days=1))),
        (known(contract(), status="active", status_at=NOW - timedelta(hours=1)), event("suspended", NOW - timedelta(hours=2))),
        (known(COMPANY, end_user="registered", end_user_at=NOW), event("end_user_withdrawn", NOW - timedelta(hours=2))),
    ],
)
def test_a_state_event_that_is_older_than_what_is_known_has_no_effect(before: Known, sent: Event) -> None:
    assert apply(before, sent, NOW) == Effect(before, ())


def test_a_state_that_was_told_before_its_contract_began_is_taken_over() -> None:
    told_early = apply(known(contract()), event("suspended", NOW), NOW).known
    begun = apply(told_early, event("holder_changed", NOW - timedelta(hours=1)), NOW).known.latest
    assert begun is not None
    assert (begun.generation, begun.status) == (2, "suspended")
    later = apply(told_early, event("holder_changed", NOW + timedelta(minutes=1)), NOW).known.latest
    assert later is not None
    assert later.status == "active"


def test_clock_of_billing_may_be_a_little_ahead() -> None:
    assert apply(known(contract()), event("terminated", NOW + CLOCK_SKEW_MAX), NOW).written[0].ended_at == NOW + CLOCK_SKEW_MAX
    assert timedelta(minutes=5) > CLOCK_SKEW_MAX, "the database, by its own clock, refuses ends more than 5 minutes ahead"
