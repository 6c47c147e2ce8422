"""A messenger rotates its own key: the next one beside the one in use, shown once, and the other one revoked."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from registryd.cli import main
from registryd.http.auth import STALE_S
from tests.conftest import TestMessenger, client, wait_for
from tests.http.conftest import Answer, Service, ask


def call(service: Service, messenger: TestMessenger, method: str = "GET", path: str = "", body: object = None, key: str = "") -> Answer:
    headers = {"Authorization": f"Bearer {key}"} if key else messenger.headers
    return ask(service.api, method, f"/v1/account/keys{path}", body, headers=headers)


def make(service: Service, messenger: TestMessenger, key: str = "") -> Answer:
    return call(service, messenger, "POST", key=key)


def revoke(service: Service, messenger: TestMessenger, key_id: str, key: str = "") -> Answer:
    return call(service, messenger, "POST", "/revoke", {"keyId": key_id}, key)


def works(service: Service, key: str) -> bool:
    return ask(service.api, "GET", "/v1/account", headers={"Authorization": f"Bearer {key}"}).status == 200


def id_of(key: str) -> str:
    return key.split("_")[1]


def left(text: str) -> timedelta:
    return datetime.fromisoformat(text) - datetime.now(UTC)


def test_a_new_key_works_beside_the_former_one_which_ends_in_a_day(service: Service) -> None:
    messenger = service.messenger()
    made = make(service, messenger)
    assert (made.status, made.headers["cache-control"]) == (200, "no-store")
    key = made.body["apiKey"]
    assert made.body["keyId"] == id_of(key)
    assert [former["keyId"] for former in made.body["formerKeys"]] == [id_of(messenger.api_key)]
    assert timedelta(hours=23, minutes=59) < left(made.body["formerKeys"][0]["expiresAt"]) <= timedelta(hours=24)
    wait_for(lambda: works(service, key))
    assert works(service, messenger.api_key), "both are live"
    new, former = call(service, messenger, key=key).body["keys"]
    assert (new["keyId"], new["expiresAt"], new["revokedAt"]) == (id_of(key), None, None)
    assert (former["keyId"], former["expiresAt"]) == (id_of(messenger.api_key), made.body["formerKeys"][0]["expiresAt"])


def test_the_key_s_text_is_in_its_answer_and_nowhere_else(service: Service) -> None:
    messenger = service.messenger()
    key = make(service, messenger).body["apiKey"]
    secret = key.split("_", 2)[2]
    wait_for(lambda: works(service, key))
    assert secret not in call(service, messenger).raw.decode()
    assert secret not in service.daemon.written()
    stored = service.site.database.psql("-Atc", "SELECT t::text FROM registry.messenger_key AS t").stdout
    assert id_of(key) in stored
    assert secret not in stored
    [line] = [line for line in service.daemon.log() if line["event"] == "key_made" and line["key_id"] == id_of(key)]
    assert (line["messenger"], line["by_key"]) == (messenger.name, id_of(messenger.api_key))


def test_a_third_live_key_is_refused_and_makes_nothing(service: Service) -> None:
    messenger = service.messenger()
    key = make(service, messenger).body["apiKey"]
    before = call(service, messenger).body
    third = make(service, messenger)
    assert (third.status, third.body["code"]) == (409, "CONFLICT")
    assert call(service, messenger).body == before
    assert revoke(service, messenger, id_of(key)).status == 200
    assert make(service, messenger).status == 200, "a revoked one has left its place"


def test_of_keys_that_are_asked_for_at_once_one_is_made(service: Service) -> None:
    messenger = service.messenger()

    async def run() -> list[int]:
        async with client(service.api, messenger) as session:

            async def one() -> int:
                async with session.post("/v1/account/keys") as response:
                    return response.status

            return await asyncio.gather(*(one() for _ in range(8)))

    statuses = asyncio.run(run())
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409, 429}
    [count] = service.sql("SELECT count(*) FROM registry.messenger_key WHERE messenger_id = $1", messenger.messenger_id)
    assert count["count"] == 2


def test_a_revoked_key_dies_within_five_seconds_and_revoking_again_changes_nothing(service: Service) -> None:
    messenger = service.messenger()
    key = make(service, messenger).body["apiKey"]
    wait_for(lambda: works(service, key))
    began = time.monotonic()
    revoked = revoke(service, messenger, id_of(messenger.api_key), key)
    assert revoked.status == 200
    assert abs(left(revoked.body["revokedAt"])) < timedelta(seconds=30)
    wait_for(lambda: not works(service, messenger.api_key))
    assert time.monotonic() - began < STALE_S
    assert works(service, key)
    assert revoke(service, messenger, id_of(messenger.api_key), key).body["revokedAt"] == revoked.body["revokedAt"]


def test_the_key_that_is_shown_cannot_be_revoked_by_itself(service: Service) -> None:
    """Whoever has one key only would lock itself out."""
    messenger = service.messenger()
    answer = revoke(service, messenger, id_of(messenger.api_key))
    assert (answer.status, answer.body["errors"][0]["path"]) == (400, "keyId")
    assert call(service, messenger).body["keys"][0]["revokedAt"] is None


def test_another_messenger_s_keys_are_neither_seen_nor_revoked(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    answer = revoke(service, messenger, id_of(other.api_key))
    assert answer.status == 404
    assert answer.body["code"] == "NOT_FOUND"
    assert answer.body == revoke(service, messenger, "a" * 16).body, "as one that nobody has"
    assert [key["keyId"] for key in call(service, messenger).body["keys"]] == [id_of(messenger.api_key)]
    assert works(service, other.api_key)


@pytest.mark.parametrize("key_id", ["", "A" * 16, "a" * 33, "aaaaaaaa\n", 1])
def test_what_is_no_key_s_id_is_refused(service: Service, key_id: Any) -> None:
    assert revoke(service, service.messenger(), key_id).status == 400


def test_who_makes_keys_all_day_is_stopped(service: Service) -> None:
    """Every process reads the keys each second."""
    messenger = service.messenger()
    service.sql(
        "INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256, revoked_at) "
        "SELECT repeat('b', 9) || chr(96 + i), $1, sha256('x'), now() FROM generate_series(1, 9) AS i",
        messenger.messenger_id,
    )
    refused = make(service, messenger)
    assert (refused.status, refused.body["code"]) == (429, "TOO_MANY_REQUESTS")
    service.sql(
        "UPDATE registry.messenger_key SET created_at = now() - interval '25 hours' WHERE messenger_id = $1", messenger.messenger_id
    )
    assert make(service, messenger).status == 200


def test_a_suspended_messenger_sees_its_keys_and_changes_none(service: Service) -> None:
    messenger = service.messenger()
    key = make(service, messenger).body["apiKey"]
    service.sql("UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    service.reload()
    assert len(call(service, messenger).body["keys"]) == 2
    assert make(service, messenger).status == 403
    assert revoke(service, messenger, id_of(key)).status == 403


def test_the_command_makes_keys_by_the_same_rule(service: Service) -> None:
    messenger = service.messenger()
    key = make(service, messenger).body["apiKey"]

    def registryd(*words: str) -> Any:
        return CliRunner().invoke(main, ["--config", str(service.site.path), "messenger", *words], catch_exceptions=False)

    refused = registryd("rotate-key", messenger.name)
    assert refused.exit_code == 1
    assert "two live keys already" in refused.stderr
    revoked = registryd("revoke-key", messenger.name, id_of(messenger.api_key), "--json")
    others = [other["keyId"] for other in orjson.loads(revoked.stdout)["otherLiveKeys"]]
    assert (revoked.exit_code, others) == (0, [id_of(key)]), "whoever had the revoked one may have made the other"
    assert registryd("rotate-key", messenger.name, "--json").exit_code == 0
