"""Events that come early, late, again, or in any order: the numbers end as it happened."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from datetime import timedelta
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registryd.domain.contract import Contract, Event, Known, NotYet, Refused, Result, apply
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import Msisdn
from registryd.feed.events import ContractFeed
from tests.conftest import TestDatabase
from tests.feed.calls import NOW, SOME_NUMBERS, ago, bind, contracts, event, everything, outcomes, owed, send, told, waiting
from tests.http.conftest import Service, new_number


def test_event_that_waits_says_for_what_and_is_kept_until_it_is_applied(service: Service) -> None:
    never, (live,), ended = new_number(), service.contracts(), new_number()
    send(service, event("activated", ended, ago(days=9)), event("terminated", ended, ago(days=2)))
    cases = [
        (event("terminated", never), "no_contract_yet: "),
        (event("suspended", never), "no_contract_yet: "),
        (event("ported_out", ended), "no_contract_yet: "),
        (event("activated", live), "still_live: "),
        (event("terminated", live, ago(hours=-1)), "in_the_future: "),
        (event("end_user_registered", live), "held_by_an_individual: "),
    ]
    told(service, cases, "not_yet")
    told(service, cases, "not_yet")
    sent = [event for event, _ in cases]
    assert waiting(service, *sent) == [(one["type"], reason[:-2], 2) for one, reason in cases]
    assert service.sql("SELECT FROM registry.feed_event WHERE event_id = ANY ($1)", [one["eventId"] for one in sent]) == []
    assert outcomes(service, event("activated", never, ago(days=1)), sent[0], sent[1]) == ["applied"] * 3, "suspended before it ended"
    assert outcomes(service, event("terminated", live, ago(minutes=2)), sent[3], sent[5]) == ["applied", "applied", "not_yet"]
    assert waiting(service, *sent) == [
        ("ported_out", "no_contract_yet", 2),
        ("terminated", "in_the_future", 2),
        ("end_user_registered", "held_by_an_individual", 3),
    ]
    other = {**sent[4], "occurredAt": ago(seconds=30)}
    assert outcomes(service, other) == ["applied"], "what was not recorded may be corrected under its id"
    assert waiting(service, sent[4]) == []


def test_an_end_told_before_its_beginning_or_before_its_time_is_done_when_the_call_comes_again(service: Service) -> None:
    messenger = service.messenger()
    never, [live] = new_number(), service.contracts()
    bind(service, live, "early", messenger.messenger_id)
    begin, end = event("activated", never, ago(days=1)), event("terminated", never)
    assert outcomes(service, end) == ["not_yet"]
    assert outcomes(service, begin) == ["applied"]
    assert outcomes(service, end) == ["applied"]
    handed = [event("terminated", live, ago(minutes=9)), event("activated", live, ago(minutes=8))]
    assert outcomes(service, handed[1]) == ["not_yet"], "the next holder's call was faster, on another connection"
    assert outcomes(service, handed[0]) == ["applied"]
    assert outcomes(service, *handed) == ["duplicate", "applied"]
    assert [row[:2] for row in contracts(service, live)] == [(1, "ended"), (2, "active")]
    assert owed(service, live) == [(1, "early")]


def test_events_of_one_number_in_one_call_are_applied_in_order(service: Service) -> None:
    messenger = service.messenger()
    fresh, [held] = new_number(), service.contracts()
    bind(service, held, "held", messenger.messenger_id)
    sent = [
        event("activated", fresh, ago(hours=9)),
        event("holder_changed", held, ago(hours=9), holder="organisation"),
        event("terminated", fresh, ago(hours=8)),
        event("holder_changed", held, ago(hours=8)),
        event("activated", fresh, ago(hours=7), holder="sole_trader"),
        event("suspended", fresh, ago(hours=6)),
        event("terminated", held, ago(hours=7)),
        event("terminated", held, ago(hours=7)),
        event("activated", held, ago(hours=6)),
    ]
    assert outcomes(service, *sent) == ["applied"] * 7 + ["refused", "applied"]
    assert contracts(service, fresh) == [
        (1, "ended", "individual", "not_required", "terminated"),
        (2, "suspended", "sole_trader", "unregistered", None),
    ]
    assert contracts(service, held) == [
        (1, "ended", "individual", "not_required", "holder_changed"),
        (2, "ended", "organisation", "unregistered", "holder_changed"),
        (3, "ended", "individual", "not_required", "terminated"),
        (4, "active", "individual", "not_required", None),
    ]
    assert owed(service, held) == [(1, "held")], "of the generation that was bound, and of no later one"


def test_replay_of_a_call_changes_nothing_and_says_the_same(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    bind(service, number, "replayed", messenger.messenger_id)
    sent = [
        event("activated", number, "2019-12-31T23:59:59Z"),
        event("terminated", number, ago(minutes=9)),
        event("activated", number, ago(minutes=8)),
        event("ported_out", number, ago(minutes=9)),
    ]
    first = send(service, *sent)
    assert [result["outcome"] for result in first] == ["refused", "applied", "applied", "refused"]
    before = everything(service)
    for again in (sent, sent[::-1], sent * 2):
        replayed = {result["eventId"]: result for result in send(service, *again)}
        for result in first:
            expected = result if result["outcome"] == "refused" else {**result, "outcome": "duplicate"}
            assert replayed[result["eventId"]] == expected
    assert everything(service) == before
    assert owed(service, number) == [(1, "replayed")]


def test_refused_event_stays_refused_though_it_would_fit_now(service: Service) -> None:
    number = new_number()
    known = event("activated", number, ago(days=1))
    again = event("activated", number, ago(days=1))
    assert outcomes(service, known, again) == ["applied", "refused"]
    assert outcomes(service, event("terminated", number, ago(days=1)), again) == ["applied", "refused"]
    assert outcomes(service, {**again, "eventId": "under-another-id"}) == ["applied"]


def test_a_state_event_that_comes_after_a_newer_one_has_no_effect(service: Service) -> None:
    [number], [company] = service.contracts(), service.contracts(holder="organisation", end_user="unregistered")
    assert outcomes(service, event("resumed", number, ago(hours=1))) == ["applied"]
    assert outcomes(service, event("suspended", number, ago(hours=2))) == ["applied"]
    assert (
        outcomes(service, event("end_user_registered", company, ago(hours=1)), event("end_user_withdrawn", company, ago(hours=2)))
        == ["applied"] * 2
    )
    assert contracts(service, number) == [(1, "active", "individual", "not_required", None)]
    assert contracts(service, company) == [(1, "active", "organisation", "registered", None)]
    assert outcomes(service, event("suspended", number, ago(minutes=59))) == ["applied"]
    assert contracts(service, number)[0][1] == "suspended"


def test_event_id_used_for_something_else_is_refused_and_not_taken_for_a_replay(service: Service) -> None:
    number, other = new_number(), new_number()
    sent = event("activated", number, ago(days=3), holder="organisation", endUser="registered")
    reused = [
        {**sent, "phoneNumber": f"+{other}"},
        {**sent, "type": "holder_changed"},
        {**sent, "occurredAt": ago(days=2)},
        {**sent, "holder": "sole_trader"},
        {**sent, "endUser": "unregistered"},
        {key: value for key, value in sent.items() if key != "endUser"},
    ]
    results = send(service, sent, reused[0], sent)
    assert [result["outcome"] for result in results] == ["applied", "refused", "duplicate"]
    before = everything(service)
    for again in reused:
        [result] = send(service, again)
        assert result["outcome"] == "refused"
        assert "eventId was used before for a different event" in result["reason"]
    same_instant = {**sent, "occurredAt": sent["occurredAt"].replace("Z", "+00:00")}
    assert outcomes(service, sent, same_instant) == ["duplicate", "duplicate"], "the same instant, written differently"
    assert everything(service) == before


any_event = st.builds(
    Event,
    event_id=st.integers(1, 40).map(str),
    type=st.sampled_from(["activated", "activated", "terminated", "holder_changed", "suspended", "resumed", "end_user_registered"]),
    msisdn=st.sampled_from(SOME_NUMBERS),
    occurred_at=st.integers(1, 100).map(lambda hours: NOW - timedelta(hours=hours)),
    holder=st.sampled_from([None, None, "organisation"]),
)
any_calls = st.lists(st.lists(any_event, min_size=1, max_size=12), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_calls)
def test_database_holds_what_the_rule_says_however_events_fall_into_calls(database: TestDatabase, sent: list[list[Event]]) -> None:
    known: dict[Msisdn, Known] = {}
    rows: dict[tuple[int, int], Contract] = {}
    seen: dict[str, tuple[Event, str]] = {}
    expected: list[str] = []
    for one in itertools.chain(*sent):
        if one.event_id in seen:
            former, outcome = seen[one.event_id]
            expected.append("refused" if former != one or outcome == "refused" else "duplicate")
            continue
        try:
            known[one.msisdn], written = apply(known.get(one.msisdn, Known()), one, NOW)
        except Refused:
            seen[one.event_id] = one, "refused"
        except NotYet:
            expected.append("not_yet")
            continue
        else:
            seen[one.event_id] = one, "applied"
            rows |= {(row.msisdn, row.generation): row for row in written}
        expected.append(seen[one.event_id][1])

    async def run() -> tuple[list[str], list[tuple[Any, ...]], set[str]]:
        told: list[str] = []
        async with database.connect() as dba, database.pool(1) as pool:
            await dba.execute(
                "DELETE FROM registry.contract; DELETE FROM registry.newest_state; DELETE FROM registry.feed_event; "
                "DELETE FROM registry.feed_waiting"
            )
            feed = ContractFeed(pool, b"k" * 32)
            for events in sent:
                told += [result.outcome for result in await feed.apply(events)]
            stored = await dba.fetch(
                "SELECT msisdn, generation, status::text, holder::text, end_user::text, started_at, "
                "ended_at, end_reason::text"
                " FROM registry.contract ORDER BY 1, 2"
            )
            waits = await dba.fetch("SELECT event_id FROM registry.feed_waiting")
        return told, [tuple(row) for row in stored], {row["event_id"] for row in waits}

    told, stored, waits = asyncio.run(run())
    assert told == expected
    assert waits == {one.event_id for one, outcome in zip(itertools.chain(*sent), told, strict=True) if outcome == "not_yet"} - seen.keys()
    assert stored == [
        (c.msisdn, c.generation, c.status, c.holder, c.end_user, c.started_at, c.ended_at, c.end_reason) for _, c in sorted(rows.items())
    ]


async def repeated(feed: ContractFeed, call: list[Event]) -> list[Result]:
    """A call's results. Billing sends it again while it is told that others are applied."""
    while True:
        with contextlib.suppress(Unavailable):
            return await feed.apply(call)


def test_calls_of_two_processes_in_any_order_end_as_the_histories_happened(database: TestDatabase) -> None:
    """Two processes take the calls of many numbers' histories, shuffled; billing repeats what is not yet."""
    kinds = ("activated", "suspended", "holder_changed", "resumed", "terminated", "activated", "suspended")
    sent = [
        Event(event_id=f"{n}-{place}", type=kind, msisdn=Msisdn(SOME_NUMBERS[0] + n), occurred_at=NOW - timedelta(hours=9 - place))  # type: ignore[arg-type]
        for n in range(40)
        for place, kind in enumerate(kinds[: 1 + n % len(kinds)])
    ]

    async def run() -> list[Any]:
        async with database.connect() as dba, database.pool(2) as one, database.pool(2) as two:
            feeds = [ContractFeed(pool, b"k" * 32) for pool in (one, two)]
            waiting, shuffled = list(sent), Random(1)
            while waiting:
                shuffled.shuffle(waiting)
                calls = [waiting[start : start + 7] for start in range(0, len(waiting), 7)]
                told = await asyncio.gather(*(repeated(feeds[place % 2], call) for place, call in enumerate(calls)))
                left = [
                    one
                    for call, results in zip(calls, told, strict=True)
                    for one, r in zip(call, results, strict=True)
                    if r.outcome == "not_yet"
                ]
                assert len(left) < len(waiting)
                waiting = left
            assert await dba.fetchval("SELECT count(*) FROM registry.feed_waiting") == 0
            return await dba.fetch(
                "SELECT DISTINCT ON (msisdn) msisdn, status::text, CASE WHEN ended_at IS NULL THEN started_at ELSE ended_at END AS since "
                "FROM registry.contract ORDER BY msisdn, generation DESC"
            )

    ends = (("active", 0), ("suspended", 0), ("active", 2), ("active", 2), ("ended", 4), ("active", 5), ("suspended", 5))
    found = asyncio.run(run())
    assert [(row["status"], row["since"]) for row in found] == [
        (status, NOW - timedelta(hours=9 - place)) for status, place in (ends[n % len(kinds)] for n in range(40))
    ]
