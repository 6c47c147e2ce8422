"""A new endpoint or webhook secret is a request until a person confirms it: a key that leaked redirects no notice."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from registryd.cli import main
from registryd.delivery import signing
from registryd.store import changes, messengers
from registryd.store.secretbox import SecretBox
from tests.conftest import Site, TestMessenger
from tests.http.conftest import Answer, Service, ask

NEW = "https://93.184.216.34/hooks?token=t"


@pytest.fixture(scope="module", autouse=True)
def sealing_key(service: Service) -> None:
    """What a deliver process publishes."""

    async def publish() -> None:
        async with service.site.database.pool(1) as db:
            await changes.publish(db, SecretBox(service.site.secrets_key))

    asyncio.run(publish())


def endpoint(service: Service, messenger: TestMessenger, url: str = NEW) -> Answer:
    return ask(service.api, "POST", "/v1/account/endpoint", {"url": url}, headers=messenger.headers)


def secret(service: Service, messenger: TestMessenger) -> Answer:
    return ask(service.api, "POST", "/v1/account/webhook-secret", headers=messenger.headers)


def told(service: Service, messenger: TestMessenger) -> list[dict[str, Any]]:
    answer = ask(service.api, "GET", "/v1/account", headers=messenger.headers)
    assert answer.status == 200
    return list(answer.body["changes"])


def run(site: Site, *words: str) -> Any:
    return CliRunner().invoke(main, ["--config", str(site.path), "messenger", "changes", *words], catch_exceptions=False)


def decide(service: Service, change_id: int) -> str:
    """What the database says to a confirmation."""

    async def confirm() -> str:
        async with service.site.database.pool(1) as db:
            try:
                await changes.confirm(db, change_id)
            except changes.CannotDecide as refused:
                return str(refused)
        return "confirmed"

    return asyncio.run(confirm())


def present_url(service: Service, messenger: TestMessenger) -> str | None:
    [row] = service.sql("SELECT endpoint_url FROM registry.messenger WHERE messenger_id = $1", messenger.messenger_id)
    return row["endpoint_url"]  # type: ignore[no-any-return]


def live_secrets(service: Service, messenger: TestMessenger) -> list[str]:
    async def read() -> list[str]:
        async with service.site.database.pool(1) as db:
            box = SecretBox(service.site.secrets_key)
            return [signing.shown(one) for one in await messengers.signing_secrets(db, box, messenger.messenger_id)]  # type: ignore[arg-type]

    return asyncio.run(read())


def test_a_new_endpoint_waits_a_week_for_a_person_and_the_former_one_stays_in_force(service: Service) -> None:
    messenger = service.messenger(endpoint_url="http://127.0.0.1:1/")
    asked = endpoint(service, messenger)
    assert (asked.status, asked.body["state"], asked.body["kind"], asked.body["url"]) == (200, "waiting", "endpoint", NEW)
    requested, expires = (datetime.fromisoformat(asked.body[name]) for name in ("requestedAt", "expiresAt"))
    assert expires - requested == timedelta(days=7)
    assert abs(requested - datetime.now(UTC)) < timedelta(seconds=30)
    [change] = told(service, messenger)
    assert change == {**asked.body, "decidedAt": None, "reason": None}
    account = ask(service.api, "GET", "/v1/account", headers=messenger.headers).body
    assert account["endpoint"]["url"] == "http://127.0.0.1:1/" == present_url(service, messenger)
    [line] = [line for line in service.daemon.log() if line["event"] == "change_requested" and line["messenger"] == messenger.name]
    assert (line["level"], line["kind"], line["change"]) == ("warning", "endpoint", asked.body["changeId"])


def test_a_request_that_is_repeated_is_one_and_another_takes_its_place(service: Service) -> None:
    messenger = service.messenger()
    first = endpoint(service, messenger).body
    assert endpoint(service, messenger).body == first
    second = endpoint(service, messenger, "https://93.184.216.34/other").body
    assert [(change["changeId"], change["state"]) for change in told(service, messenger)] == [
        (second["changeId"], "waiting"),
        (first["changeId"], "superseded"),
    ]
    refused = run(service.site, "confirm", str(first["changeId"]))
    assert refused.exit_code == 1
    assert "asked for something else since" in refused.stderr
    assert present_url(service, messenger) is None


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.net/",
        "https://user:secret@example.net/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://example.net/#part",
        "",
        "https://example.net/" + "a" * 2048,
    ],
)
def test_a_url_that_the_operator_could_not_set_cannot_be_asked_for(service: Service, url: str) -> None:
    messenger = service.messenger()
    answer = endpoint(service, messenger, url)
    assert (answer.status, answer.body["errors"][0]["path"]) == (400, "url")
    assert not url or url not in answer.raw.decode()
    assert told(service, messenger) == []


def test_one_s_own_endpoint_is_no_change(service: Service) -> None:
    messenger = service.messenger(endpoint_url=NEW)
    assert (endpoint(service, messenger).status, told(service, messenger)) == (409, [])


def test_a_confirmed_endpoint_is_the_messenger_s_and_a_failing_lane_is_probed_there_at_once(service: Service) -> None:
    messenger = service.messenger(endpoint_url="http://127.0.0.1:1/")
    gated = "UPDATE registry.lane SET failures = 3, gate_until = now() + interval '1 hour' WHERE messenger_id = $1"
    service.sql(gated, messenger.messenger_id)
    change = str(endpoint(service, messenger).body["changeId"])
    dry = run(service.site, "confirm", change, "--dry-run", "--json")
    facts = json.loads(dry.stdout)
    assert (dry.exit_code, facts["endpointUrl"], facts["presentUrl"], facts["dryRun"]) == (0, NEW, "http://127.0.0.1:1/", True)
    assert present_url(service, messenger) == "http://127.0.0.1:1/"
    assert run(service.site, "confirm", change).exit_code == 0
    assert present_url(service, messenger) == NEW
    [lane] = service.sql("SELECT gate_until, failures FROM registry.lane WHERE messenger_id = $1", messenger.messenger_id)
    assert tuple(lane) == (None, 3)
    [decided] = told(service, messenger)
    assert (decided["state"], decided["reason"]) == ("confirmed", None)
    again = run(service.site, "confirm", change)
    assert (again.exit_code, "confirmed already" in again.stderr) == (1, True)


def test_a_refused_request_changes_nothing_and_its_messenger_is_told_why(service: Service) -> None:
    messenger = service.messenger()
    change = str(endpoint(service, messenger).body["changeId"])
    assert run(service.site, "refuse", change).exit_code == 2, "without a reason"
    assert run(service.site, "refuse", change, "--reason", "we could not reach you").exit_code == 0
    [decided] = told(service, messenger)
    assert (decided["state"], decided["reason"]) == ("refused", "we could not reach you")
    assert run(service.site, "confirm", change).exit_code == 1
    assert present_url(service, messenger) is None


def test_nobody_confirms_a_request_that_has_expired(service: Service) -> None:
    messenger = service.messenger()
    change = str(endpoint(service, messenger).body["changeId"])
    service.sql(
        "UPDATE registry.change_request SET requested_at = now() - interval '8 days', expires_at = now() - interval '1 day' "
        "WHERE change_id = $1",
        int(change),
    )
    assert [one["state"] for one in told(service, messenger)] == ["expired"]
    assert run(service.site, "confirm", change).exit_code == 1
    assert decide(service, int(change)) == f"change {change}: {changes.REFUSED['expired']}", "whoever calls the database"
    assert present_url(service, messenger) is None
    service.sql(
        "UPDATE registry.change_request SET requested_at = now() - interval '38 days', expires_at = now() - interval '31 days' "
        "WHERE change_id = $1",
        int(change),
    )
    assert int(change) not in [one["changeId"] for one in json.loads(run(service.site, "list", "--json").stdout)], "people look at a month"
    assert endpoint(service, messenger).body["changeId"] > int(change), "it may ask again"


def test_a_new_secret_is_shown_once_and_signs_once_it_is_confirmed_beside_the_former_one(service: Service) -> None:
    messenger = service.messenger()
    asked = secret(service, messenger)
    shown = asked.body["webhookSecret"]
    assert (asked.status, asked.headers["cache-control"]) == (200, "no-store")
    former = signing.shown(messenger.secret)
    assert live_secrets(service, messenger) == [former], "an unconfirmed one signs nothing"
    stored = service.site.database.psql("-Atc", "SELECT t::text FROM registry.change_request AS t").stdout
    raw = signing.from_shown(shown).secret
    for form in (shown.removeprefix("whsec_"), raw.hex()):
        assert form not in stored + json.dumps(told(service, messenger)) + service.daemon.written()
    assert run(service.site, "confirm", str(asked.body["changeId"])).exit_code == 0
    assert live_secrets(service, messenger) == [shown, former]
    [ends] = service.sql(
        "SELECT expires_at - now() AS left FROM registry.messenger_secret WHERE messenger_id = $1 AND expires_at IS NOT NULL",
        messenger.messenger_id,
    )
    assert timedelta(hours=23) < ends["left"] <= timedelta(hours=24)
    rewrapped = CliRunner().invoke(main, ["--config", str(service.site.path), "secrets", "rewrap"], catch_exceptions=False)
    assert rewrapped.exit_code == 0
    assert service.sql("SELECT secret_id FROM registry.messenger_secret WHERE to_public") == []
    assert live_secrets(service, messenger) == [shown, former], "sealed as the others are, it is the same"
    [row] = service.sql("SELECT ciphertext FROM registry.change_request WHERE messenger_id = $1", messenger.messenger_id)
    assert row["ciphertext"] is None


def test_a_secret_that_was_asked_for_twice_is_the_later_one(service: Service) -> None:
    """Whoever lost the answer asks again."""
    messenger = service.messenger()
    first, second = secret(service, messenger).body, secret(service, messenger).body
    assert first["webhookSecret"] != second["webhookSecret"]
    assert run(service.site, "confirm", str(first["changeId"])).exit_code == 1
    assert run(service.site, "confirm", str(second["changeId"])).exit_code == 0
    assert live_secrets(service, messenger)[0] == second["webhookSecret"]


def test_a_secret_that_deliver_could_not_open_is_not_confirmed(service: Service) -> None:
    """Else no push of the messenger could be signed any more."""
    messenger = service.messenger()
    change = str(secret(service, messenger).body["changeId"])
    [kept] = service.sql("SELECT public_key FROM registry.sealing_key")
    service.sql("UPDATE registry.sealing_key SET public_key = $1", bytes(32))
    try:
        refused = run(service.site, "confirm", change)
        assert (refused.exit_code, "former secrets-key" in refused.stderr) == (1, True)
    finally:
        service.sql("UPDATE registry.sealing_key SET public_key = $1", kept["public_key"])
    assert live_secrets(service, messenger) == [signing.shown(messenger.secret)]


def test_who_asks_for_changes_all_day_is_stopped(service: Service) -> None:
    messenger = service.messenger()
    service.sql(
        "INSERT INTO registry.change_request (messenger_id, kind, endpoint_url, requested_by, outcome, decided_at, decided_by) "
        "SELECT $1, 'endpoint', 'https://example.net/' || i, $2, 'superseded', now(), 'messenger' FROM generate_series(1, 10) AS i",
        messenger.messenger_id,
        messenger.api_key.split("_")[1],
    )
    for refused in (endpoint(service, messenger), secret(service, messenger)):
        assert (refused.status, refused.body["code"]) == (429, "TOO_MANY_REQUESTS")


def test_requests_are_one_s_own_and_a_suspended_messenger_makes_none(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    endpoint(service, messenger)
    assert told(service, other) == []
    service.sql("UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    service.reload()
    assert (endpoint(service, messenger).status, secret(service, messenger).status) == (403, 403)
    assert [change["state"] for change in told(service, messenger)] == ["waiting"], "it reads its account"


def test_people_see_what_waits(service: Service) -> None:
    messenger = service.messenger()
    change = endpoint(service, messenger).body["changeId"]
    listed = json.loads(run(service.site, "list", "--json").stdout)
    [waits] = [one for one in listed if one["changeId"] == change]
    assert (waits["messenger"], waits["state"], waits["endpointUrl"]) == (messenger.name, "waiting", NEW)
    assert messenger.name in run(service.site, "list").stdout
    [row] = service.sql("SELECT endpoint, state FROM report.change_request WHERE messenger = $1", messenger.name)
    assert NEW.startswith(f"{row['endpoint']}/"), NEW
    assert (row["endpoint"].count("/"), row["state"]) == (2, "waiting"), "a path or a query may hold a secret"
    assert run(service.site, "confirm", "999999").exit_code == 1


def test_what_a_revoked_key_asked_for_is_not_confirmed(service: Service) -> None:
    """A key that leaked is revoked; what a thief asked for with it must not come true a day later."""
    messenger = service.messenger()
    changes_asked = [str(asked.body["changeId"]) for asked in (endpoint(service, messenger), secret(service, messenger))]
    next_key = ask(service.api, "POST", "/v1/account/keys", headers=messenger.headers).body["apiKey"]
    service.sql("UPDATE registry.messenger_key SET revoked_at = now() WHERE key_id = $1", messenger.api_key.split("_")[1])
    for change in changes_asked:
        refused = run(service.site, "confirm", change)
        assert (refused.exit_code, "is revoked since" in refused.stderr) == (1, True)
    assert (present_url(service, messenger), live_secrets(service, messenger)) == (None, [signing.shown(messenger.secret)])
    service.reload()
    again = ask(service.api, "POST", "/v1/account/endpoint", {"url": NEW}, headers={"Authorization": f"Bearer {next_key}"})
    assert str(again.body["changeId"]) not in changes_asked, "the same wish of another key is another request"
    assert run(service.site, "confirm", str(again.body["changeId"])).exit_code == 0
    assert run(service.site, "refuse", changes_asked[1], "--reason", "a thief's").exit_code == 0
