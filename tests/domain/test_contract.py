"""What billing's events do to a number: a state machine against a model of its own, and each refusal's reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registryd.domain.contract import CLOCK_SKEW_MAX, GENERATION_MAX, Contract, Event, EventType, Refused, apply
from registryd.domain.identifiers import Msisdn

MSISDN = Msisdn(79161234567)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TYPES: tuple[EventType, ...] = get_args(EventType)
ENDS = ("terminated", "ported_out", "holder_changed")


def event(kind: str, occurred_at: datetime = NOW, **facts: Any) -> Event:
    return Event(event_id="e", type=kind, msisdn=MSISDN, occurred_at=occurred_at, **facts)  # type: ignore[arg-type] # a type by its name


def contract(**facts: Any) -> Contract:
    started = {"msisdn": MSISDN, "generation": 1, "status": "active", "holder": "individual", "end_user": "not_required"}
    return Contract(**{**started, "started_at": NOW - timedelta(days=10), **facts})


class OneNumber(RuleBasedStateMachine):
    """The registry's rows of one number, and what they must be by the words of the contract alone."""

    @initialize()
    def never_issued(self) -> None:
        self.rows: list[Contract] = []
        self.now = NOW
        self.reasons: set[str] = set()

    @property
    def live(self) -> Contract | None:
        return self.rows[-1] if self.rows and self.rows[-1].status != "ended" else None

    @rule(hours=st.integers(1, 100))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(
        kind=st.sampled_from(TYPES),
        age=st.timedeltas(-timedelta(minutes=10), timedelta(days=3)),
        holder=st.sampled_from([None, "individual", "sole_trader", "organisation"]),
        end_user=st.sampled_from([None, "registered", "unregistered"]),
    )
    def event_comes(self, kind: EventType, age: timedelta, holder: str | None, end_user: str | None) -> None:
        before = list(self.rows)
        live, last = self.live, self.rows[-1] if self.rows else None
        sent = event(kind, self.now - age, holder=holder, end_user=end_user)
        try:
            written = apply(last, sent, self.now)
        except Refused as refused:
            assert not self._must_be_accepted(sent, live, last)
            self.reasons.add(str(refused))
            return
        assert self._must_be_accepted(sent, live, last)
        for row in written:
            if row.generation <= len(self.rows):
                assert row.generation == len(self.rows), "only the latest changes"
                self.rows[-1] = row
            else:
                self.rows.append(row)
        self._check_effect(sent, live, before)

    def _must_be_accepted(self, sent: Event, live: Contract | None, last: Contract | None) -> bool:
        starts = sent.type in ("activated", "holder_changed")
        if sent.occurred_at > self.now + CLOCK_SKEW_MAX or (not starts and (sent.holder or sent.end_user)):
            return False
        if starts and sent.holder in (None, "individual") and sent.end_user:
            return False
        if sent.type == "activated":
            return live is None and (last is None or last.ended_at is None or sent.occurred_at >= last.ended_at)
        if live is None or sent.occurred_at < live.started_at:
            return False
        match sent.type:
            case "holder_changed":
                return sent.occurred_at > live.started_at
            case "suspended":
                return live.status == "active"
            case "resumed":
                return live.status == "suspended"
            case "end_user_registered":
                return live.end_user == "unregistered"
            case "end_user_withdrawn":
                return live.end_user == "registered"
            case _:
                return True

    def _check_effect(self, sent: Event, live: Contract | None, before: list[Contract]) -> None:
        assert len(self.rows) - len(before) == (sent.type in ("activated", "holder_changed"))
        if sent.type in ENDS:
            assert live is not None
            ended = self.rows[len(before) - 1]
            assert ended == msgspec.structs.replace(live, status="ended", ended_at=sent.occurred_at, end_reason=sent.type)
        if sent.type in ("activated", "holder_changed"):
            new = self.rows[-1]
            assert (new.status, new.started_at, new.holder) == ("active", sent.occurred_at, sent.holder or "individual")
            assert new.end_user == ("not_required" if new.holder == "individual" else sent.end_user or "unregistered")
        elif sent.type not in ENDS:
            assert live is not None
            changed = self.rows[-1]
            assert msgspec.structs.replace(changed, status=live.status, end_user=live.end_user) == live
            assert (changed.status, changed.end_user) != (live.status, live.end_user)

    @precondition(lambda self: self.live is not None)
    @rule(kind=st.sampled_from(ENDS))
    def live_number_can_always_be_ended(self, kind: str) -> None:
        assert self.live is not None
        at = max(self.now, self.live.started_at + timedelta(microseconds=1))
        assert apply(self.live, event(kind, at), self.now)[0].status == "ended"

    @invariant()
    def reasons_quote_no_number(self) -> None:
        assert not any(str(MSISDN) in reason for reason in self.reasons)

    @invariant()
    def at_most_one_is_live_and_it_is_the_latest(self) -> None:
        assert all(row.status == "ended" for row in self.rows[:-1])

    @invariant()
    def generations_are_consecutive_and_their_periods_do_not_overlap(self) -> None:
        assert [row.generation for row in self.rows] == list(range(1, len(self.rows) + 1))
        for former, latter in zip(self.rows, self.rows[1:], strict=False):
            assert former.ended_at is not None
            assert former.started_at <= former.ended_at <= latter.started_at

    @invariant()
    def the_database_would_take_every_row(self) -> None:
        for row in self.rows:
            assert (row.status == "ended") == (row.ended_at is not None) == (row.end_reason is not None)
            assert (row.holder == "individual") == (row.end_user == "not_required")


OneNumber.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestOneNumber = OneNumber.TestCase


def test_ended_is_final_for_every_event_but_an_activation() -> None:
    ended = contract(status="ended", ended_at=NOW - timedelta(days=1), end_reason="terminated")
    for kind in TYPES:
        if kind == "activated":
            assert [row.generation for row in apply(ended, event(kind), NOW)] == [2]
        else:
            with pytest.raises(Refused, match="send activated first"):
                apply(ended, event(kind), NOW)


@pytest.mark.parametrize(
    ("latest", "sent", "reason"),
    [
        (None, event("terminated"), "no live contract: send activated first"),
        (contract(), event("activated"), r"live contract \(generation 1\): send terminated, ported_out or holder_changed"),
        (contract(), event("terminated", NOW + timedelta(minutes=5)), "lies in the future"),
        (None, event("activated", datetime(1969, 12, 31, tzinfo=UTC)), "before 1970: correct the year"),
        (contract(), event("terminated", NOW - timedelta(days=11)), r"before the live contract \(generation 1\) started"),
        (
            contract(status="ended", ended_at=NOW, end_reason="ported_out"),
            event("activated", NOW - timedelta(days=1)),
            "before generation 1 ended",
        ),
        (contract(started_at=NOW), event("holder_changed", NOW), r"live contract \(generation 1\) started then: the change is known"),
        (contract(), event("suspended", holder="organisation"), "holder and endUser do not belong to suspended"),
        (contract(), event("end_user_registered", end_user="registered"), "do not belong to end_user_registered"),
        (contract(status="suspended"), event("suspended"), "suspended already"),
        (contract(), event("resumed"), "active already"),
        (contract(), event("end_user_registered"), "an individual, who needs no registered end user"),
        (contract(holder="organisation", end_user="registered"), event("end_user_registered"), "registered already"),
        (contract(holder="sole_trader", end_user="unregistered"), event("end_user_withdrawn"), "unregistered already"),
        (None, event("activated", end_user="registered"), "belongs to an organisation or sole trader"),
        (contract(), event("holder_changed", holder="individual", end_user="registered"), "belongs to an organisation or sole trader"),
        (contract(generation=GENERATION_MAX), event("holder_changed"), "too many holders"),
    ],
)
def test_refusal_says_what_is_so_and_what_to_do(latest: Contract | None, sent: Event, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        apply(latest, sent, NOW)
    assert str(MSISDN) not in str(refused.value)


def test_clock_of_billing_may_be_a_little_ahead() -> None:
    assert apply(contract(), event("terminated", NOW + CLOCK_SKEW_MAX), NOW)[0].ended_at == NOW + CLOCK_SKEW_MAX
    assert timedelta(minutes=5) > CLOCK_SKEW_MAX, "the database, by its own clock, refuses ends more than 5 minutes ahead"
