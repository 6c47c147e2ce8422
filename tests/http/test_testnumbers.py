"""Test numbers: what each is answered, that they leave no trace, and that they are nobody's where they are off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from registryd import resources
from registryd.demo import embedded
from registryd.domain.testnumbers import IN_DEMO_ALONE, Kind, example
from tests.conftest import cloned, daemon, make_site
from tests.http.conftest import Answer, Service, ask, new_number, serving

PRESENT, ABSENT, IN_USE, SLOW, UNAVAILABLE = (f"+{example(kind)}" for kind in Kind)
OTHER = "+999000000000000"
"""The first of the test numbers, which has no kind of its own."""
TWENTY_MINUTES = timedelta(minutes=20)
COUNTS = ("registryd_queries_total", "registryd_requests_refused_total", "registryd_messengers_throttled")


@pytest.fixture(scope="module", params=["true", '"demo"'])
def trying(
    request: pytest.FixtureRequest, server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service where test numbers are on."""
    with cloned(server, template) as database:
        site = make_site(database, tmp_path_factory.mktemp("trying"))
        site.write_config(api=f'listen = "127.0.0.1:0"\ntest_numbers = {request.param}')
        with daemon(site) as started, serving(site, started) as service:
            yield service


def post(service: Service, headers: dict[str, str], path: str, **body: object) -> Answer:
    return ask(service.api, "POST", path, body, headers=headers)


def traces(service: Service) -> tuple[object, ...]:
    """Whatever a query of a messenger could leave behind."""
    rows = [
        dict(service.sql(f"SELECT count(*) AS of_{table} FROM registry.{table}")[0]) for table in ("journal_page", "binding", "quota_usage")
    ]
    return (*rows, *(service.metric(name) for name in COUNTS))


def is_of_a_test_number(answer: Answer) -> bool:
    return answer.headers.get("x-test-number") == "true"


def test_each_test_number_is_answered_as_documented_and_leaves_no_trace(trying: Service) -> None:
    messenger = trying.messenger(daily_quota=1)
    before = traces(trying)

    def query(number: str, **code: str) -> Answer:
        return post(trying, messenger.headers, "/v1/presence", phoneNumber=number, **code)

    told = {
        (number, bool(code)): (answer.status, answer.body.get("present"), answer.body.get("binding"), answer.body.get("code"))
        for number in (PRESENT, ABSENT, IN_USE, OTHER)
        for code in ({}, {"identificationCode": "mine"})
        for answer in [query(number, **code)]
        if is_of_a_test_number(answer)
    }
    assert told == {
        (PRESENT, False): (200, True, None, None),
        (PRESENT, True): (200, True, "recorded", None),
        (ABSENT, False): (200, False, None, None),
        (ABSENT, True): (200, False, None, None),
        (IN_USE, False): (200, True, None, None),
        (IN_USE, True): (409, None, None, "CODE_IN_USE"),
        (OTHER, False): (200, False, None, None),
        (OTHER, True): (200, False, None, None),
    }
    bound = {
        number: post(trying, messenger.headers, "/v1/bindings", phoneNumber=number, identificationCode="mine")
        for number in (PRESENT, ABSENT, IN_USE)
    }
    assert [answer.status for answer in bound.values()] == [201, 422, 409]
    assert all(map(is_of_a_test_number, bound.values()))
    assert bound[PRESENT].body.keys() == {"binding", "generation", "boundAt"}
    for what in ("retrieve", "remove"):
        assert post(trying, messenger.headers, f"/v1/bindings/{what}", identificationCode="mine").status == 404
    assert traces(trying) == before


def test_an_answer_has_the_shape_of_every_other(trying: Service) -> None:
    messenger = trying.messenger()
    [real] = trying.contracts()
    tested, other = (
        post(trying, messenger.headers, "/v1/presence", phoneNumber=number, identificationCode="one") for number in (PRESENT, f"+{real}")
    )
    assert not is_of_a_test_number(other)
    assert tested.body.keys() == other.body.keys()
    assert len(tested.raw) == len(other.raw)
    assert UUID(tested.body["queryId"]).version == 8
    assert UUID(other.body["queryId"]).version != 8
    times = {name: datetime.fromisoformat(tested.body[name]) for name in ("receivedAt", "answeredAt", "deadlineAt")}
    assert times["receivedAt"] <= times["answeredAt"]
    assert times["deadlineAt"] - times["receivedAt"] == TWENTY_MINUTES


def test_a_mixed_batch_asks_the_registry_for_the_other_numbers_alone(trying: Service) -> None:
    messenger = trying.messenger(daily_quota=2)
    [real] = trying.contracts()
    numbers = [(IN_USE, "a"), (f"+{real}", "b"), (ABSENT, "c"), (f"+{new_number()}", None), (PRESENT, "d"), (PRESENT, None)]
    items = [{"phoneNumber": number, **({"identificationCode": code} if code else {})} for number, code in numbers]
    before = trying.metric("registryd_queries_total")
    answer = post(trying, messenger.headers, "/v1/presence/batch", queries=items)
    assert is_of_a_test_number(answer)
    assert [(result["present"], result["binding"], result["generation"]) for result in answer.body["results"]] == [
        (True, "code_in_use", None),
        (True, "recorded", 1),
        (False, None, None),
        (False, None, None),
        (True, "recorded", 1),
        (True, None, None),
    ]
    [row] = trying.sql("SELECT * FROM registry.find_query($1)", UUID(answer.body["batchId"]))
    assert row["messenger_id"] == messenger.messenger_id
    assert trying.metric("registryd_queries_total") == before + 2
    assert trying.sql("SELECT identification_code FROM registry.binding WHERE messenger_id = $1", messenger.messenger_id) == [("b",)]
    refused = post(trying, messenger.headers, "/v1/presence/batch", queries=items)
    assert refused.status == 429, "the other numbers are held to the quota"
    alone = post(trying, messenger.headers, "/v1/presence/batch", queries=[items[0], items[2]])
    assert [result["binding"] for result in alone.body["results"]] == ["code_in_use", None]
    assert UUID(alone.body["batchId"]).version == 8


def test_a_thousand_absent_test_numbers_raise_no_alarm(trying: Service) -> None:
    messenger = trying.messenger()
    for _ in range(2):
        queries = [{"phoneNumber": f"+{example(Kind.ABSENT) + step}"} for step in range(500)]
        assert post(trying, messenger.headers, "/v1/presence/batch", queries=queries).status == 200
    [real] = trying.contracts()
    assert post(trying, messenger.headers, "/v1/presence", phoneNumber=f"+{real}").status == 200
    assert trying.metric("registryd_messengers_throttled") == 0


def test_a_messenger_may_ask_for_so_many_a_minute(trying: Service) -> None:
    messenger, other = trying.messenger(), trying.messenger()
    queries = [{"phoneNumber": PRESENT}] * 10_000
    for _ in range(6):
        assert post(trying, messenger.headers, "/v1/presence/batch", queries=queries).status == 200
    refused = post(trying, messenger.headers, "/v1/presence/batch", queries=queries)
    assert (refused.status, refused.body["code"]) == (429, "TOO_MANY_REQUESTS")
    [real] = trying.contracts()
    assert post(trying, messenger.headers, "/v1/presence", phoneNumber=f"+{real}").status == 200
    assert post(trying, other.headers, "/v1/presence", phoneNumber=PRESENT).status == 200


def test_the_slow_one_and_the_one_that_fails_exist_in_the_demo_alone(trying: Service) -> None:
    messenger = trying.messenger()
    in_demo = trying.site.settings.file.api.test_numbers == "demo"
    failed = post(trying, messenger.headers, "/v1/presence", phoneNumber=UNAVAILABLE)
    slow = post(trying, messenger.headers, "/v1/presence", phoneNumber=SLOW)
    assert is_of_a_test_number(failed)
    assert is_of_a_test_number(slow)
    took = datetime.fromisoformat(slow.body["answeredAt"]) - datetime.fromisoformat(slow.body["receivedAt"])
    if in_demo:
        assert (failed.status, failed.body["code"], failed.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
        assert (slow.body["present"], took > timedelta(seconds=2.9)) == (True, True)
        [real] = trying.contracts()
        both = [{"phoneNumber": number, "identificationCode": "none"} for number in (f"+{real}", UNAVAILABLE)]
        assert post(trying, messenger.headers, "/v1/presence/batch", queries=both).status == 503
        assert not trying.sql("SELECT FROM registry.binding WHERE messenger_id = $1", messenger.messenger_id)
    else:
        assert (failed.status, failed.body["present"], slow.body["present"]) == (200, False, False)


def test_a_suspended_messenger_and_a_wrong_key_are_refused_for_test_numbers_too(trying: Service) -> None:
    suspended = trying.messenger()
    trying.sql("UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE messenger_id = $1", suspended.messenger_id)
    trying.reload()
    assert post(trying, suspended.headers, "/v1/presence", phoneNumber=PRESENT).status == 403
    assert post(trying, {"Authorization": "Bearer rk_none_none"}, "/v1/presence", phoneNumber=PRESENT).status == 401


def test_while_they_are_off_they_are_foreign_numbers(service: Service) -> None:
    messenger = service.messenger()
    for number in (PRESENT, IN_USE, SLOW, UNAVAILABLE):
        answer = post(service, messenger.headers, "/v1/presence", phoneNumber=number, identificationCode="mine")
        assert (answer.status, answer.body["present"]) == (200, False)
        assert not is_of_a_test_number(answer)
        [row] = service.sql("SELECT * FROM registry.find_query($1)", UUID(answer.body["queryId"]))
        assert row["messenger_id"] == messenger.messenger_id


def test_the_documents_name_the_numbers_that_there_are() -> None:
    for document, kinds in {"README.md": [*Kind], "messenger.yaml": [kind for kind in Kind if kind not in IN_DEMO_ALONE]}.items():
        named = re.findall(r"\| `\+(999[0-9]{12})`", resources.path(f"registryd/http/{document}").read_text())
        assert named == [str(example(kind)) for kind in kinds], document
