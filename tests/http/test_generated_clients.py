"""Clients made from messenger.yaml by two generators do a messenger's whole story with the daemon, and know every error by its type."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import programs
from tests.conftest import TestMessenger, daemon, receiving, wait_for
from tests.contracts.documents import OPERATOR
from tests.http.conftest import OUTSIDE, Service
from tests.http.generated import Client, OpenapiGenerator, OpenapiPythonClient, Understood, the_one, word

GENERATORS = (OpenapiPythonClient, OpenapiGenerator)
QUOTA = 40


@pytest.fixture(scope="module", params=GENERATORS, ids=lambda generator: generator.__name__)
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenapiPythonClient | OpenapiGenerator]:
    place = tmp_path_factory.mktemp("generated")
    with pytest.MonkeyPatch.context() as patch:
        try:
            made = request.param(place)
        except programs.NotThere as reason:
            pytest.skip(f"OpenAPI Generator cannot be had here: {reason}")
        patch.syspath_prepend(str(place))
        if isinstance(made, OpenapiGenerator):
            patch.syspath_prepend(str(made.libraries))
        yield made


@pytest.fixture
def messenger(service: Service) -> TestMessenger:
    return service.messenger(daily_quota=QUOTA)


@pytest.fixture
def call(service: Service, generator: OpenapiPythonClient | OpenapiGenerator, messenger: TestMessenger) -> Iterator[Client]:
    with generator.at(service.api, messenger.api_key) as client:
        yield client


def expect(answer: Understood, status: int, kind: str) -> Understood:
    assert (answer.status, answer.kind) == (status, kind)
    return answer


def refused(answer: Understood, status: int, kind: str, code: str) -> Understood:
    """The answer is a problem of that kind, understood by the client."""
    expect(answer, status, kind)
    assert (word(answer.told.status), word(answer.told.code)) == (status, code)
    assert answer.told.detail
    return answer


def test_the_generator_warns_of_nothing(generator: OpenapiPythonClient | OpenapiGenerator) -> None:
    if isinstance(generator, OpenapiPythonClient):
        assert "WARN" not in generator.said.upper(), generator.said
    else:
        faults = [line for line in generator.said.splitlines() if "[main] ERROR" in line and "mutualTLS" not in line]
        assert not faults, faults  # it knows no client certificates, and needs to know none


def test_the_operator_s_document_makes_a_client_without_a_warning(tmp_path: Path) -> None:
    OpenapiPythonClient(tmp_path, OPERATOR)
    assert (tmp_path / OpenapiPythonClient.PACKAGE / "models" / "contract_event_result.py").exists()


def test_a_messenger_s_story(service: Service, messenger: TestMessenger, call: Client) -> None:
    first, second, third = (f"+{number}" for number in service.contracts(3))

    present = expect(call("queryPresence", {"phoneNumber": first, "identificationCode": "u-1"}), 200, "PresenceAnswer").told
    assert (present.present, word(present.binding), present.generation) == (True, "recorded", 1)
    assert present.received_at <= present.answered_at < present.deadline_at
    absent = expect(call("queryPresence", {"phoneNumber": f"+{OUTSIDE}"}), 200, "PresenceAnswer").told
    assert (absent.present, absent.binding, absent.generation) == (False, None, None)

    recorded = expect(call("recordBinding", {"phoneNumber": second, "identificationCode": "u-2"}), 201, "BindingRecorded").told
    kept = expect(call("recordBinding", {"phoneNumber": second, "identificationCode": "u-2"}), 200, "BindingKept").told
    assert (word(recorded.binding), word(kept.binding), kept.bound_at) == ("recorded", "unchanged", recorded.bound_at)

    queries = [{"phoneNumber": first}, {"phoneNumber": f"+{OUTSIDE}"}, {"phoneNumber": third, "identificationCode": "u-2"}]
    batch = expect(call("queryPresenceBatch", {"queries": queries}), 200, "PresenceBatchAnswer").told
    assert [(result.present, word(result.binding)) for result in batch.results] == [(True, None), (False, None), (True, "code_in_use")]

    found = expect(call("retrieveBinding", {"identificationCode": "u-1"}), 200, "CodeBinding").told
    assert (word(found.state), found.ended_at, found.end_reason) == ("active", None, None)
    removed = expect(call("removeBinding", {"identificationCode": "u-2"}), 200, "EndedBinding").told
    assert (word(removed.state), word(removed.end_reason)) == ("ended", "removed")
    assert removed.ended_at < datetime.now(UTC)

    service.sql("UPDATE registry.contract SET ended_at = now(), end_reason = 'terminated' WHERE msisdn = $1", int(first))
    page = expect(call("listNotifications", limit=10), 200, "OwedNoticesPage").told
    [notice] = [the_one(owed) for owed in page.notifications]
    assert type(notice).__name__ == "PulledTermination"
    assert (notice.identification_code, notice.generation, page.to_dict()["next"]) == ("u-1", 1, None)
    settled = {"notificationIds": [str(notice.notification_id)]}
    for count in (1, 0):
        assert expect(call("acknowledgeNotifications", settled), 200, "NoticeAcknowledgementAnswer").told.acknowledged == count
    assert word(call("retrieveBinding", {"identificationCode": "u-1"}).told.end_reason) == "terminated"

    account = expect(call("getAccount"), 200, "MessengerAccount").told
    assert (account.name, word(account.endpoint.state), account.notifications.pending) == (messenger.name, "none", 0)
    assert (account.quota.limit, account.quota.used, account.slowed_down) == (QUOTA, 7, None)


def test_a_messenger_serves_itself(service: Service, call: Client) -> None:
    [number] = service.contracts()
    expect(call("recordBinding", {"phoneNumber": f"+{number}", "identificationCode": "u-1"}), 201, "BindingRecorded")
    page = expect(call("listBindings", {"limit": 10}), 200, "BindingsPage").told
    assert [binding.identification_code for binding in page.bindings] == ["u-1"]
    expect(call("removeBindings", {"identificationCodes": ["u-1", "unknown"]}), 200, "BindingsRemoved")

    new = expect(call("makeKey"), 200, "NewKey").told
    assert {new.key_id, *(key.key_id for key in new.former_keys)} == {key.key_id for key in call("listKeys").told.keys}
    expect(call("revokeKey", {"keyId": new.key_id}), 200, "AccountKeyState")

    expect(call("listAttempts"), 200, "PushAttemptsPage")
    expect(call("replayNotices", {"day": "2026-03-02"}), 200, "Replay")
    expect(call("listReplays"), 200, "ReplayList")
    changed = expect(call("requestEndpoint", {"url": "https://hooks.messenger.example/"}), 200, "EndpointChange").told
    assert word(changed.state) == "waiting"


def test_every_refusal_has_its_type(service: Service, messenger: TestMessenger, call: Client) -> None:
    first, second = (f"+{number}" for number in service.contracts(2))
    bound = {"phoneNumber": first, "identificationCode": "u-1"}
    expect(call("recordBinding", bound), 201, "BindingRecorded")

    bad = refused(call("testEndpoint"), 400, "InvalidArgumentProblem", "INVALID_ARGUMENT")
    [fault] = bad.told.errors
    assert (fault.path, "endpoint" in fault.message) == ("", True)
    refused(call("retrieveBinding", {"identificationCode": "unknown"}), 404, "NotFoundProblem", "NOT_FOUND")
    for operation in ("recordBinding", "queryPresence"):
        refused(call(operation, bound | {"phoneNumber": second}), 409, "CodeInUseProblem", "CODE_IN_USE")
    unknown = {"phoneNumber": f"+{OUTSIDE}", "identificationCode": "u-2"}
    refused(call("recordBinding", unknown), 422, "NotPresentProblem", "NOT_PRESENT")

    many = {"queries": [{"phoneNumber": first}] * (QUOTA + 1)}
    spent = refused(call("queryPresenceBatch", many), 429, "TooManyRequestsProblem", "QUOTA_EXCEEDED")
    assert int(spent.headers["Retry-After"]) > 0
    service.sql("INSERT INTO registry.hold (messenger_id, reason) VALUES ($1, 'a test')", messenger.messenger_id)
    held = refused(call("listNotifications"), 503, "UnavailableProblem", "UNAVAILABLE")
    assert int(held.headers["Retry-After"]) == 60


def test_a_key_that_is_none_and_a_messenger_that_is_suspended(
    service: Service, messenger: TestMessenger, generator: OpenapiPythonClient | OpenapiGenerator
) -> None:
    with generator.at(service.api, f"rk_{'a' * 16}_{'A' * 43}") as stranger:
        refused(stranger("getAccount"), 401, "UnauthenticatedProblem", "UNAUTHENTICATED")
    service.sql("UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    service.reload()
    with generator.at(service.api, messenger.api_key) as suspended:
        refused(suspended("queryPresence", {"phoneNumber": f"+{OUTSIDE}"}), 403, "PermissionDeniedProblem", "PERMISSION_DENIED")


@pytest.fixture(scope="module")
def delivering(service: Service) -> Iterator[None]:
    with daemon(service.site, "deliver"):
        yield


@pytest.mark.usefixtures("delivering")
def test_an_endpoint_is_tested_and_a_new_secret_asked_for(service: Service, messenger: TestMessenger, call: Client) -> None:
    async def story() -> None:
        async with receiving(messenger.secret) as (receiver, inbox):
            await asyncio.to_thread(give_endpoint, service, messenger, receiver.url)
            outcome = expect(await asyncio.to_thread(call, "testEndpoint"), 200, "EndpointTestOutcome").told
            assert (outcome.delivered, outcome.status, outcome.error) == (True, 204, None)
            assert len(inbox.receipts) == 1

    asyncio.run(story())
    secret = wait_for(
        lambda: answer if (answer := call("requestWebhookSecret")).status != 503 else None
    )  # deliver publishes what it is sealed to
    assert expect(secret, 200, "SecretChange").told.webhook_secret.startswith("whsec_")


def give_endpoint(service: Service, messenger: TestMessenger, url: str) -> None:
    service.sql("UPDATE registry.messenger SET endpoint_url = $2 WHERE messenger_id = $1", messenger.messenger_id, url)
    service.reload()
