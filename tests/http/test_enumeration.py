"""A search for subscribers over HTTP: slowed down in every worker, told to the operator, and never given another answer."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from click.testing import CliRunner

from registryd.cli import main
from tests.conftest import TestMessenger, daemon, wait_for
from tests.http.conftest import RANGE, Answer, Service, ask

PER_MINUTE = 60
_draw = random.Random(1801)
_unissued = range(RANGE[1] - 1_000_000, RANGE[1])


def never_issued() -> int:
    return _draw.choice(_unissued)


def query(base: str, messenger: TestMessenger, number: int) -> Answer:
    return ask(base, "POST", "/v1/presence", {"phoneNumber": f"+{number}"}, headers=messenger.headers)


def batch(base: str, messenger: TestMessenger, numbers: list[int]) -> Answer:
    body = {"queries": [{"phoneNumber": f"+{number}"} for number in numbers]}
    return ask(base, "POST", "/v1/presence/batch", body, headers=messenger.headers)


def bind(base: str, messenger: TestMessenger, number: int) -> Answer:
    return ask(base, "POST", "/v1/bindings", {"phoneNumber": f"+{number}", "identificationCode": "u"}, headers=messenger.headers)


def is_slowed_down(base: str, messenger: TestMessenger) -> bool:
    """Whether a batch of more than a minute's worth is refused; answered, it is one honest number over and over."""
    answer = batch(base, messenger, [RANGE[0]] * (PER_MINUTE + 1))
    assert answer.status in (200, 429)
    return answer.status == 429


def registryd(service: Service, *words: str) -> Any:
    done = CliRunner().invoke(main, ["--config", str(service.site.path), *words], catch_exceptions=False)
    return done.exit_code, done.stdout


def alarms(service: Service, messenger: TestMessenger) -> list[tuple[Any, ...]]:
    rows = service.sql("SELECT kind, in_force, signs >= 1 FROM report.enumeration_alarm WHERE messenger = $1", messenger.name)
    return [tuple(row) for row in rows]


def test_a_scan_is_slowed_down_and_what_is_answered_stays_true(service: Service) -> None:
    messenger, honest = service.messenger(), service.messenger()
    [present] = service.contracts()
    before = query(service.api, messenger, never_issued())
    while not is_slowed_down(service.api, messenger):
        assert query(service.api, messenger, never_issued()).status == 200
    refused = batch(service.api, messenger, [never_issued() for _ in range(PER_MINUTE + 1)])
    assert (refused.status, refused.body["code"]) == (429, "TOO_MANY_REQUESTS")
    assert "ask the operator" in refused.body["detail"]
    assert 3_500 <= int(refused.headers["retry-after"]) <= 3_600, "a batch that never fits waits for the end"
    assert query(service.api, messenger, present).body["present"] is True
    assert bind(service.api, messenger, present).status == 201
    absent = query(service.api, messenger, never_issued())
    assert absent.body["present"] is False
    assert (absent.status, len(absent.raw), list(absent.headers)) == (before.status, len(before.raw), list(before.headers))
    refused_total = f'registryd_requests_refused_total{{messenger="{messenger.name}",reason="throttle"}}'
    refusals = service.metric(refused_total)
    answers = [query(service.api, messenger, present) for _ in range(2 * PER_MINUTE)]
    slowed = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    assert all(1 <= int(answer.headers["retry-after"]) <= 2 for answer in slowed), "single queries go on within a second"
    assert service.metric(refused_total) == refusals + len(slowed)
    assert not is_slowed_down(service.api, honest)


@pytest.mark.parametrize("route", ["bindings", "batch"])
def test_every_route_that_tells_presence_is_watched(service: Service, route: str) -> None:
    messenger = service.messenger()
    if route == "batch":
        assert batch(service.api, messenger, [never_issued() for _ in range(20)]).status == 200
    else:
        assert [bind(service.api, messenger, never_issued()).status for _ in range(15)] == [422] * 15
    assert is_slowed_down(service.api, messenger)


def test_the_operator_is_told_and_ends_it(service: Service) -> None:
    messenger = service.messenger()
    assert batch(service.api, messenger, list(range(RANGE[0], RANGE[0] + 200))).status == 200
    wait_for(lambda: alarms(service, messenger))
    assert {row[1:] for row in alarms(service, messenger)} == {(True, True)}
    told = wait_for(lambda: [line for line in service.daemon.log() if line["event"] == "enumeration_alarm"])
    assert {line["messenger"] for line in told} >= {messenger.name}
    assert service.metric(f'registryd_enumeration_alarms_total{{kind="absent",messenger="{messenger.name}"}}') >= 1
    assert service.metric("registryd_messengers_throttled") >= 1
    code, shown = registryd(service, "messenger", "show", messenger.name, "--json")
    assert (code, {alarm["kind"] for alarm in json.loads(shown)["alarms"]}) == (0, {row[0] for row in alarms(service, messenger)})
    assert re.search("^absent +2", registryd(service, "messenger", "show", messenger.name)[1], re.MULTILINE)
    assert registryd(service, "messenger", "clear-alarm", messenger.name)[0] == 0
    assert registryd(service, "messenger", "clear-alarm", messenger.name)[0] == 1
    wait_for(lambda: not is_slowed_down(service.api, messenger))
    assert [row[1] for row in alarms(service, messenger)] == [False]


def test_a_canary_answers_absent_like_any_other_and_all_workers_know(service: Service) -> None:
    messenger, canary = service.messenger(), never_issued()
    service.sql("INSERT INTO registry.canary_number (msisdn) VALUES ($1)", canary)
    with daemon(service.site) as other:
        usual = query(other.api, messenger, never_issued())
        answer = query(other.api, messenger, canary)
        assert (answer.status, answer.body["present"], answer.body["binding"]) == (200, False, None)
        assert (len(answer.raw), list(answer.headers), list(answer.body)) == (len(usual.raw), list(usual.headers), list(usual.body))
        assert is_slowed_down(other.api, messenger)
        wait_for(lambda: is_slowed_down(service.api, messenger))
        assert alarms(service, messenger) == [("canary", True, True)]
    with daemon(service.site) as restarted:
        assert is_slowed_down(restarted.api, messenger), "a restart forgets no alarm"
    assert str(canary) not in service.daemon.written()
