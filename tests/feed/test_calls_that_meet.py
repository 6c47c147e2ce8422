"""Calls that meet each other, a DBA, a database that is away, or an event that the registry fails on."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from registryd.domain.contract import Event
from registryd.domain.errors import Unavailable
from registryd.domain.identifiers import Msisdn
from registryd.feed import events as feed_events
from registryd.feed.events import ContractFeed
from tests.conftest import TestDatabase, eventually, wait_for
from tests.delivery.conftest import database_away
from tests.feed.calls import NOW, SOME_NUMBERS, ago, bind, call, contracts, event, outcomes, send
from tests.http.conftest import Service, new_number


def test_calls_at_once_on_the_same_numbers_take_turns(service: Service) -> None:
    messenger = service.messenger()
    numbers = service.contracts(200)
    assert service.operator, "it is started here, because a process ends with the thread that started it"
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


def test_database_away_applies_nothing_and_says_so() -> None:
    async def run() -> None:
        async with database_away() as pool:
            with pytest.raises(Unavailable):
                await ContractFeed(pool, b"k" * 32).apply([Event(event_id="e", type="activated", msisdn=SOME_NUMBERS[0], occurred_at=NOW)])

    asyncio.run(run())


@pytest.mark.parametrize("code", ["check_violation", "restrict_violation", "unique_violation"])
def test_an_event_that_the_registry_fails_on_stops_no_other(database: TestDatabase, code: str) -> None:
    """Whatever a row meets that our program does not know of, here a DBA's trigger, the other events are applied and the fault is told.

    Also where it looks like a conflict with another writer: that would be over at a second look.
    """
    odd = SOME_NUMBERS[0] + 5
    database.psql(
        "-c",
        "CREATE FUNCTION public.odd() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF NEW.msisdn = {odd} THEN RAISE EXCEPTION 'odd' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$; "
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
    assert {(line["event"], line["kind"]) for line in log} == {("event_failed", f"{code.title().replace('_', '')}Error")}
    assert [(line.get("caller"), line.get("correlator")) for line in log] == [("billing", "c1"), (None, None)]
    assert str(odd) not in str(log)


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
