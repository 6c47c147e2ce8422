"""Contract events over the operator API: what each does, why each is refused, and that a call is whole, in order and done once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from registryd.domain.contract import Contract, Event, Known, NotYet, Refused, Result, apply
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import Msisdn
from registryd.feed import events as feed_events
from registryd.feed.events import ContractFeed
from tests.conftest import TestDatabase, eventually, wait_for
from tests.delivery.conftest import database_away
from tests.http.conftest import Answer, Service, ask, new_number

PATH = "/operator/v1/contract-events"
NOW = datetime.now(UTC).replace(microsecond=0)
_ids = itertools.count(1)


def ago(**period: float) -> str:
    return (NOW - timedelta(**period)).isoformat().replace("+00:00", "Z")


def event(kind: str, number: int, occurred_at: str | None = None, **facts: str) -> dict[str, str]:
    return {"eventId": f"e{next(_ids)}", "type": kind, "phoneNumber": f"+{number}", "occurredAt": occurred_at or ago(minutes=1), **facts}


def call(service: Service, *events: dict[str, str]) -> Answer:
    return ask(service.operator, "POST", PATH, {"events": events}, headers=service.site.operator_headers)


def send(service: Service, *events: dict[str, str]) -> list[dict[str, str]]:
    answer = call(service, *events)
    assert answer.status == 200, answer.body
    assert [result["eventId"] for result in answer.body["results"]] == [sent["eventId"] for sent in events]
    return list(answer.body["results"])


def outcomes(service: Service, *events: dict[str, str]) -> list[str]:
    return [result["outcome"] for result in send(service, *events)]


def contracts(service: Service, number: int) -> list[tuple[Any, ...]]:
    """(generation, status, holder, end_user, end_reason) of a number."""
    rows = service.sql(
        "SELECT generation, status::text, holder::text, end_user::text, end_reason::text "
        "FROM registry.contract WHERE msisdn = $1 ORDER BY generation",
        number,
    )
    return [tuple(row) for row in rows]


def owed(service: Service, number: int) -> list[tuple[Any, ...]]:
    """(generation, identification_code) of the notifications for a number."""
    rows = service.sql("SELECT generation, identification_code FROM registry.notification WHERE msisdn = $1 ORDER BY 1, 2", number)
    return [tuple(row) for row in rows]


def bind(service: Service, number: int, code: str, messenger_id: int, generation: int = 1) -> None:
    service.sql(
        "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, $2, $3, $4)",
        number,
        generation,
        messenger_id,
        code,
    )


def everything(service: Service) -> list[Any]:
    """All that an event can change."""
    return [
        service.sql(f"SELECT t::text FROM registry.{table} AS t ORDER BY 1")
        for table in ("contract", "binding", "notification", "feed_event")
    ]


def test_each_type_does_what_it_says(service: Service) -> None:
    number, company = new_number(), new_number()
    steps = [
        (event("activated", number, ago(days=9)), (1, "active", "individual", "not_required", None)),
        (event("suspended", number, ago(days=8)), (1, "suspended", "individual", "not_required", None)),
        (event("resumed", number, ago(days=7)), (1, "active", "individual", "not_required", None)),
        (
            event("holder_changed", number, ago(days=6), holder="sole_trader", endUser="registered"),
            (2, "active", "sole_trader", "registered", None),
        ),
        (event("end_user_withdrawn", number, ago(days=5)), (2, "active", "sole_trader", "unregistered", None)),
        (event("suspended", number, ago(days=5)), (2, "suspended", "sole_trader", "unregistered", None)),
        (event("ported_out", number, ago(days=4)), (2, "ended", "sole_trader", "unregistered", "ported_out")),
        (event("activated", company, ago(days=9), holder="organisation"), (1, "active", "organisation", "unregistered", None)),
        (event("end_user_registered", company, ago(days=8)), (1, "active", "organisation", "registered", None)),
        (event("terminated", company, ago(days=7)), (1, "ended", "organisation", "registered", "terminated")),
    ]
    for sent, latest in steps:
        assert send(service, sent) == [{"eventId": sent["eventId"], "outcome": "applied"}]
        assert contracts(service, number if sent["phoneNumber"] == f"+{number}" else company)[-1] == latest
    assert contracts(service, number)[0] == (1, "ended", "individual", "not_required", "holder_changed")
    stored = service.sql("SELECT started_at, ended_at FROM registry.contract WHERE msisdn = $1 ORDER BY generation", number)
    day = timedelta(days=1)
    assert [tuple(row) for row in stored] == [(NOW - 9 * day, NOW - 6 * day), (NOW - 6 * day, NOW - 4 * day)]


def told(service: Service, cases: list[tuple[dict[str, str], str]], outcome: str) -> None:
    """Each event is told that outcome with those words in its reason, and none changes anything that an answer could show."""
    before = everything(service)[:3]
    for (sent, reason), result in zip(cases, send(service, *(sent for sent, _ in cases)), strict=True):
        assert result["outcome"] == outcome, sent
        assert reason in result["reason"], sent
        assert sent["phoneNumber"][1:] not in result["reason"]
    assert everything(service)[:3] == before


def test_event_that_contradicts_the_state_is_refused_with_a_reason_and_changes_nothing(service: Service) -> None:
    never, (live,), ended = new_number(), service.contracts(), new_number()
    send(service, event("activated", ended, ago(days=9)), event("terminated", ended, ago(days=2)))
    cases = [
        (event("ported_out", ended, ago(days=2)), "its end is known"),
        (event("activated", live, "2020-01-01T00:00:00Z"), "the activation is known"),
        (event("activated", ended, ago(days=3)), "before generation 1 ended"),
        (event("terminated", live, "2019-12-31T23:59:59Z"), "before the live contract (generation 1) started"),
        (event("activated", never, "1026-01-01T00:00:00Z"), "before 1970: correct the year"),
        (event("activated", 89_161_234_567), "begins with 8, which is dialled inside Russia for +7: send it with +7"),
        (event("activated", 999_100_000_000_001), "no subscriber has a number under +999, the code of test numbers"),
        (event("suspended", live, holder="organisation"), "do not belong to suspended"),
        (event("terminated", live, endUser="registered"), "do not belong to terminated"),
        (event("activated", never, holder="individual", endUser="registered"), "endUser belongs to an organisation or sole trader"),
        (event("holder_changed", live, endUser="unregistered"), "endUser belongs to an organisation or sole trader"),
    ]
    told(service, cases, "refused")


def waiting(service: Service, *events: dict[str, str]) -> list[tuple[Any, ...]]:
    """(type, reason, calls) of those events that wait."""
    rows = service.sql(
        "SELECT type, reason, calls FROM registry.feed_waiting WHERE event_id = ANY ($1) ORDER BY array_position($1, event_id)",
        [sent["eventId"] for sent in events],
    )
    return [tuple(row) for row in rows]


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


def test_what_is_not_refused_in_a_call_is_applied(service: Service) -> None:
    first, second, third = new_number(), new_number(), new_number()
    sent = [
        event("activated", first, ago(days=2)),
        event("terminated", second),
        event("activated", third, ago(days=2)),
        event("terminated", third, ago(days=3)),
        event("suspended", third),
    ]
    assert outcomes(service, *sent) == ["applied", "not_yet", "applied", "refused", "applied"]
    assert [row[1] for number in (first, second, third) for row in contracts(service, number)] == ["active", "suspended"]


def test_one_malformed_event_refuses_the_whole_call(service: Service) -> None:
    number = new_number()
    answer = call(service, event("activated", number, ago(days=2)), {**event("activated", new_number()), "phoneNumber": "+7"})
    assert answer.status == 400
    assert [error["path"] for error in answer.body["errors"]] == ["events[1].phoneNumber"]
    assert contracts(service, number) == []


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


def test_late_notice_names_the_ended_generation_when_the_number_has_its_next_holder(service: Service) -> None:
    former, latter = service.messenger(), service.messenger()
    [number] = service.contracts()
    bind(service, number, "former", former.messenger_id)
    assert outcomes(service, event("holder_changed", number, ago(minutes=3))) == ["applied"]
    bind(service, number, "latter", latter.messenger_id, generation=2)
    pulled = {
        name: ask(service.api, "GET", "/v1/notifications", headers=messenger.headers).body["notifications"]
        for name, messenger in (("former", former), ("latter", latter))
    }
    assert [(notice["identificationCode"], notice["generation"]) for notice in pulled["former"]] == [("former", 1)]
    assert pulled["latter"] == []
    assert "holder_changed" not in json.dumps(pulled), "the reason is not told"


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


@pytest.mark.parametrize(("started_at", "ended_at"), [("20000-01-01", None), ("2020-01-01", "20000-01-01")])
def test_an_odd_time_in_a_contract_spoils_nobody_elses_event(service: Service, started_at: str, ended_at: str | None) -> None:
    odd, number = new_number(), new_number()
    end = f"'ended', 'terminated', '{started_at}', '{ended_at}'" if ended_at else f"'active', NULL, '{started_at}', NULL"
    service.sql(
        "INSERT INTO registry.contract (msisdn, generation, holder, end_user, status, end_reason, started_at, ended_at)"
        f" VALUES ($1, 1, 'individual', 'not_required', {end})",
        odd,
    )
    results = send(
        service, event("activated", number, ago(days=1)), event("terminated", odd), event("activated", odd), event("suspended", odd)
    )
    assert results[0]["outcome"] == "applied"


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


def test_backdated_termination_is_owed_with_its_past_deadline(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    bind(service, number, "late", messenger.messenger_id)
    send(service, event("terminated", number, ago(days=3)))
    [notice] = ask(service.api, "GET", "/v1/notifications", headers=messenger.headers).body["notifications"]
    assert datetime.fromisoformat(notice["terminatedAt"]) == NOW - timedelta(days=3)
    assert datetime.fromisoformat(notice["deadlineAt"]) == NOW - timedelta(days=2)
    account = ask(service.api, "GET", "/v1/account", headers=messenger.headers).body
    assert account["notifications"] == {"pending": 1, "oldestDeadlineAt": notice["deadlineAt"], "held": False}


@pytest.mark.parametrize(
    "occurred_at", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00Z"]
)
def test_times_at_the_ends_of_the_calendar_spoil_nobody_elses_event(service: Service, occurred_at: str) -> None:
    number = new_number()
    answer = call(service, event("activated", new_number(), occurred_at), event("activated", number, ago(days=1)))
    if answer.status == 400:
        assert answer.body["errors"][0]["path"] == "events[0].occurredAt"
    else:
        outcome = "not_yet" if occurred_at.startswith("9999") else "refused"
        assert [result["outcome"] for result in answer.body["results"]] == [outcome, "applied"]


def test_feed_remembers_events_without_their_numbers(service: Service) -> None:
    number = new_number()
    sent = [event("activated", number, ago(days=1)), event("activated", number, ago(days=2)), event("terminated", number)]
    assert outcomes(service, *sent) == ["applied", "refused", "applied"]
    rows = service.sql("SELECT f.*, f::text AS whole FROM registry.feed_event AS f WHERE event_id = ANY ($1)", [e["eventId"] for e in sent])
    assert len(rows) == 3
    for row in rows:
        assert str(number) not in row["whole"]
        assert number.to_bytes(8, "big")[3:] not in row["content"]
        assert len(row["content"]) == 16
    assert len({row["content"] for row in rows}) == 3
    log = service.operating.written()
    assert str(number) not in log


def test_ten_thousand_events_are_one_call(service: Service) -> None:
    messenger = service.messenger()
    first = 79_170_000_000
    service.sql(
        "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)"
        " SELECT $1::bigint + n, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series(0, 4999) AS n",
        first,
    )
    service.sql(
        "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)"
        " SELECT $1::bigint + n, 1, $2, 'bulk-' || n FROM generate_series(0, 4999) AS n",
        first,
        messenger.messenger_id,
    )
    sent = [event("terminated", first + n, ago(minutes=5)) for n in range(5000)]
    sent += [event("activated", first + n, ago(minutes=4)) for n in range(10_000 - len(sent))]
    assert set(outcomes(service, *sent)) == {"applied"}
    assert set(outcomes(service, *sent)) == {"duplicate"}
    assert (
        service.sql("SELECT count(*) AS owed FROM registry.notification WHERE messenger_id = $1", messenger.messenger_id)[0]["owed"] == 5000
    )
    assert service.sql("SELECT count(*) AS live FROM registry.contract WHERE msisdn >= $1 AND ended_at IS NULL", first)[0]["live"] == 5000
    assert call(service, *sent, event("activated", new_number())).status == 400, "one more is too many"


# -- Calls that meet each other, and a DBA --------------------------------------------------------------------------------------------


def test_calls_at_once_on_the_same_numbers_take_turns(service: Service) -> None:
    messenger = service.messenger()
    numbers = service.contracts(200)
    for index, number in enumerate(numbers):
        bind(service, number, f"meet-{index}", messenger.messenger_id)
    ends = [[event(kind, number, ago(minutes=2)) for number in numbers] for kind in ("terminated", "ported_out")]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda events: outcomes(service, *events), [ends[0], ends[1][::-1], ends[0][::-1], ends[1]]))
    told = [answers[0], answers[1][::-1], answers[2][::-1], answers[3]]
    for number, *results in zip(numbers, *told, strict=True):
        assert sorted(results) == ["applied", "duplicate", "refused", "refused"]
        [(_, status, _, _, reason)] = contracts(service, number)
        assert status == "ended"
        assert reason == ("terminated" if "applied" in (results[0], results[2]) else "ported_out")
    counted = service.sql("SELECT count(*) AS owed FROM registry.notification WHERE messenger_id = $1", messenger.messenger_id)
    assert counted[0]["owed"] == 200


def held_by_a_dba(service: Service, number: int) -> None:
    service.sql("BEGIN")
    service.sql("SELECT FROM registry.contract WHERE msisdn = $1 FOR UPDATE", number)


def somebody_waits(service: Service) -> bool:
    return bool(service.sql("SELECT FROM pg_locks WHERE NOT granted"))


def test_number_that_a_dba_holds_fails_the_call_whole_and_only_for_now(service: Service) -> None:
    [number], other = service.contracts(), new_number()
    sent = [event("activated", other, ago(days=1)), event("terminated", number), event("activated", number)]
    held_by_a_dba(service, number)
    answer = call(service, *sent)
    assert (answer.status, answer.body["code"]) == (503, "UNAVAILABLE")
    assert int(answer.headers["retry-after"]) >= 1
    service.sql("ROLLBACK")
    assert contracts(service, other) == []
    assert service.sql("SELECT FROM registry.feed_event WHERE event_id = ANY ($1)", [one["eventId"] for one in sent]) == []
    assert outcomes(service, *sent) == ["applied"] * 3


def while_a_dba_works(service: Service, number: int, sent: dict[str, str], *statements: str) -> dict[str, str]:
    """What an event is told that came while a DBA's transaction was changing the number."""
    held_by_a_dba(service, number)
    results: list[dict[str, str]] = []
    calling = threading.Thread(target=lambda: results.extend(send(service, sent)))
    calling.start()
    wait_for(lambda: somebody_waits(service))
    for statement in statements:
        service.sql(statement, number)
    service.sql("COMMIT")
    calling.join()
    return results[0]


def test_event_that_waited_for_a_dba_is_judged_by_what_is_then(service: Service) -> None:
    end = "UPDATE registry.contract SET ended_at = now() - interval '1 hour' WHERE msisdn = $1"
    begin = (
        "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)"
        " VALUES ($1, 2, 'active', 'individual', 'not_required', now() - interval '1 hour')"
    )
    unchanged, ended, passed_on = service.contracts(3)
    assert while_a_dba_works(service, unchanged, event("terminated", unchanged))["outcome"] == "applied"
    assert while_a_dba_works(service, ended, event("terminated", ended), end)["outcome"] == "not_yet"
    assert while_a_dba_works(service, passed_on, event("terminated", passed_on), end, begin)["outcome"] == "applied"
    assert [row[:2] for row in contracts(service, passed_on)] == [(1, "ended"), (2, "ended")], "the next holder's contract was meant"


# -- Any events at all ----------------------------------------------------------------------------------------------------------------


SOME_NUMBERS = [Msisdn(79_160_000_001 + n) for n in range(3)]
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


def test_database_away_applies_nothing_and_says_so() -> None:
    async def run() -> None:
        async with database_away() as pool:
            with pytest.raises(Unavailable):
                await ContractFeed(pool, b"k" * 32).apply([Event(event_id="e", type="activated", msisdn=SOME_NUMBERS[0], occurred_at=NOW)])

    asyncio.run(run())


def test_an_event_that_the_registry_fails_on_stops_no_other(database: TestDatabase) -> None:
    """Whatever a row meets that our program does not know of, here a DBA's trigger, the other events are applied and the fault is told."""
    odd = SOME_NUMBERS[0] + 5
    database.psql(
        "-c",
        "CREATE FUNCTION public.odd() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF NEW.msisdn = {odd} THEN RAISE EXCEPTION 'odd' USING ERRCODE = 'check_violation'; END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER odd BEFORE INSERT ON registry.contract FOR EACH ROW EXECUTE FUNCTION public.odd()",
    )

    async def run() -> tuple[list[Any], list[Any]]:
        async with database.pool(1) as pool:
            feed = ContractFeed(pool, b"k" * 32)
            sent = [
                Event(event_id=f"{kind}{n}", type=kind, msisdn=Msisdn(SOME_NUMBERS[0] + n), occurred_at=NOW - timedelta(hours=hours))  # type: ignore[arg-type]
                for n in range(9)
                for kind, hours in (("activated", 2), ("terminated", 1))
            ]
            return await feed.apply(sent, {"caller": "billing", "correlator": "c1"}), await feed.apply(sent)

    with capture_logs() as log:
        first, again = asyncio.run(run())
    failed = [result for result in first if result.outcome != "applied"]
    assert [(result.event_id, (result.reason or "").split(":")[0]) for result in failed] == [
        ("activated5", "registry_failed"),
        ("terminated5", "no_contract_yet"),
    ]
    assert [result.outcome for result in again].count("duplicate") == 16
    assert {(line["event"], line["kind"]) for line in log} == {("event_failed", "CheckViolationError")}
    assert [(line.get("caller"), line.get("correlator")) for line in log] == [("billing", "c1"), (None, None)]
    assert str(odd) not in str(log)


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


def test_calls_wait_for_their_turn_without_a_connection_and_not_for_ever(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the feed's lock. One connection waits for it, however many calls come, and the pool serves everybody else."""
    monkeypatch.setattr(feed_events, "TURN_WAIT_S", 1.0)

    async def run() -> None:
        async with database.connect() as dba, database.pool(2) as pool:
            feed = ContractFeed(pool, b"k" * 32)
            transaction = dba.transaction()
            await transaction.start()
            await dba.execute("SELECT pg_advisory_xact_lock(hashtextextended('registry.feed', 0))")
            event = Event(event_id="e", type="activated", msisdn=SOME_NUMBERS[0], occurred_at=NOW)
            calls = [asyncio.create_task(feed.apply([event])) for _ in range(feed_events.CALLS_WAITING_MAX + 5)]
            waits = (
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            await eventually(lambda: dba.fetchval(waits))
            most = 0
            while not calls[1].done():
                most = max(most, await dba.fetchval(waits))
            assert most == 1
            outcomes = await asyncio.gather(*calls[1:], return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [Unavailable] * len(outcomes)
            await transaction.rollback()
            first = await asyncio.gather(calls[0], return_exceptions=True)
            assert isinstance(first[0], (list, Unavailable)), "its statement waits for two seconds"
            assert [result.outcome for result in await feed.apply([event])] in (["applied"], ["duplicate"])

    asyncio.run(run())
