"""Contract events over the operator API: what each does, why each is refused, and that a call is whole and done once."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from tests.feed.calls import NOW, ago, bind, call, contracts, event, outcomes, send, told
from tests.http.conftest import Service, ask, new_number


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
