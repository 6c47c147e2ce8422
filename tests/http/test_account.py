"""The account: a messenger's endpoint, backlog and budget, and nobody else's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import daemon, wait_for
from tests.http.conftest import Service, ask


def test_the_account_counts_what_was_asked(service: Service) -> None:
    messenger, other = service.messenger(daily_quota=100), service.messenger()
    [number] = service.contracts()
    account = ask(service.api, "GET", "/v1/account", headers=messenger.headers)
    assert account.status == 200
    assert account.body == {
        "messengerId": messenger.messenger_id,
        "name": messenger.name,
        "key": {"keyId": messenger.api_key.split("_")[1], "expiresAt": None},
        "endpoint": {"url": None, "state": "none", "lastError": None, "gatedUntil": None},
        "notifications": {"pending": 0, "oldestDeadlineAt": None, "held": False},
        "quota": {"day": f"{datetime.now(UTC):%Y-%m-%d}", "limit": 100, "used": 0, "absentRatio": None},
        "slowedDown": None,
        "changes": [],
    }
    ask(service.api, "POST", "/v1/presence", {"phoneNumber": f"+{number}"}, headers=messenger.headers)
    queries = [{"phoneNumber": f"+{number}"}] + [{"phoneNumber": "+79169999999"}] * 2
    ask(service.api, "POST", "/v1/presence/batch", {"queries": queries}, headers=messenger.headers)
    ask(service.api, "POST", "/v1/presence", {"phoneNumber": "nonsense"}, headers=messenger.headers)
    quota = ask(service.api, "GET", "/v1/account", headers=messenger.headers).body["quota"]
    assert (quota["used"], quota["absentRatio"]) == (4, 0.5), "an unanswered request costs nothing"
    assert ask(service.api, "GET", "/v1/account", headers=other.headers).body["quota"]["used"] == 0


def test_the_account_tells_what_is_owed_and_why_it_waits(service: Service) -> None:
    messenger = service.messenger(endpoint_url="http://127.0.0.1:1/")
    account = ask(service.api, "GET", "/v1/account", headers=messenger.headers).body
    assert account["endpoint"] == {"url": "http://127.0.0.1:1/", "state": "healthy", "lastError": None, "gatedUntil": None}
    [number] = service.contracts()
    body = {"phoneNumber": f"+{number}", "identificationCode": "a"}
    assert ask(service.api, "POST", "/v1/bindings", body, headers=messenger.headers).status == 201
    service.sql("UPDATE registry.contract SET ended_at = now() - interval '1 hour' WHERE msisdn = $1", number)

    def gated() -> dict[str, Any] | None:
        account: dict[str, Any] = ask(service.api, "GET", "/v1/account", headers=messenger.headers).body
        return account if account["endpoint"]["state"] == "gated" else None

    with daemon(service.site, "deliver"):
        account = wait_for(gated)
    assert account["endpoint"]["lastError"] == "no connection"
    assert datetime.fromisoformat(account["endpoint"]["gatedUntil"]) - datetime.now(UTC) <= timedelta(seconds=60)
    assert account["notifications"]["pending"] == 1
    left = datetime.fromisoformat(account["notifications"]["oldestDeadlineAt"]) - datetime.now(UTC)
    assert timedelta(hours=22, minutes=59) < left <= timedelta(hours=23)


@pytest.mark.parametrize("parameter", ["?x=1", "?limit=1"])
def test_the_account_takes_no_parameters(service: Service, parameter: str) -> None:
    answer = ask(service.api, "GET", f"/v1/account{parameter}", headers=service.messenger().headers)
    assert answer.status == 400
