"""A messenger looks at the pushes to it, and has a day delivered again: once for a request that is repeated, and not while it is held."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registryd.store.replays import OWN_A_DAY_MAX
from tests.conftest import Site, TestMessenger, client, daemon, eventually
from tests.delivery.conftest import listening, looking
from tests.http.conftest import Answer, Service, ask, new_number

BEGAN = "2026-03-02T10:00:00.000Z"


def attempts(service: Service, messenger: TestMessenger, query: str = "") -> Answer:
    return ask(service.api, "GET", f"/v1/notifications/attempts{query}", headers=messenger.headers)


def replay(service: Service, messenger: TestMessenger, **body: Any) -> Answer:
    return ask(service.api, "POST", "/v1/notifications/replay", body, headers=messenger.headers)


def replays(service: Service, messenger: TestMessenger) -> list[dict[str, Any]]:
    answer = ask(service.api, "GET", "/v1/notifications/replay", headers=messenger.headers)
    assert answer.status == 200
    return list(answer.body["replays"])


def push(service: Service, messenger: TestMessenger, *, minutes_ago: int, **facts: Any) -> None:
    row = {"outcome": "acknowledged", "http_status": 204, "error": None, **facts}
    service.sql(
        "INSERT INTO registry.delivery_attempt (messenger_id, attempted_at, notifications, outcome, http_status, latency_ms, error) "
        "VALUES ($1, date_trunc('hour', now()) - make_interval(mins => $2), 3, $3::text::registry.delivery_outcome, $4, 12, $5)",
        *(messenger.messenger_id, minutes_ago, row["outcome"], row["http_status"], row["error"]),
    )


def deliver(service: Service, messenger: TestMessenger, *delivered_at: datetime) -> None:
    """Notifications that were delivered at these times."""
    for place, at in enumerate(delivered_at):
        service.sql(
            "INSERT INTO registry.notification_delivered (messenger_id, generation, attempts, deadline_at, notification_id, msisdn, "
            "terminated_at, recorded_at, delivered_at, via, identification_code) "
            "SELECT $1, 1, 1, $2, registry.id_at($2::timestamptz), $3, $2, $2, $2, 'push', $4",
            *(messenger.messenger_id, at, new_number(), f"u{place}"),
        )


def waiting(service: Service, messenger: TestMessenger) -> int:
    [row] = service.sql("SELECT count(*) FROM registry.replayed_notification WHERE messenger_id = $1", messenger.messenger_id)
    return int(row["count"])


def days_ago(days: int, **later: int) -> datetime:
    return datetime.combine(datetime.now(UTC).date() - timedelta(days=days), datetime.min.time(), UTC) + timedelta(**later)


def test_attempts_are_told_the_newest_first_and_only_one_s_own(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    push(service, messenger, minutes_ago=2)
    push(service, messenger, minutes_ago=1, outcome="failed", http_status=None, error="no connection")
    push(service, other, minutes_ago=0)
    answer = attempts(service, messenger)
    assert answer.status == 200
    failed, acknowledged = answer.body["attempts"]
    assert list(failed) == ["attemptedAt", "notifications", "outcome", "status", "latencyMs", "error"]
    assert list(failed.values())[1:] == [3, "failed", None, 12, "no connection"]
    assert list(acknowledged.values())[1:] == [3, "acknowledged", 204, 12, None]
    assert datetime.fromisoformat(failed["attemptedAt"]) - datetime.fromisoformat(acknowledged["attemptedAt"]) == timedelta(minutes=1)
    assert (answer.body["next"], answer.body["nextAttemptAt"]) == (None, None)


def test_pages_of_attempts_join_even_where_pushes_began_at_one_moment(service: Service) -> None:
    messenger = service.messenger()
    for minutes_ago in (1, 2, 2, 2, 3, 4, 4):
        push(service, messenger, minutes_ago=minutes_ago)
    found, cursor = [], ""
    for _ in range(10):
        body = attempts(service, messenger, f"?limit=2{cursor}").body
        found.append(len(body["attempts"]))
        if body["next"] is None:
            break
        cursor = f"&after={body['next']}"
    assert found == [4, 3, 0], "what began with the last one is on its page"


def test_the_next_attempt_is_the_probe_of_a_failing_endpoint_else_the_earliest_one_due(service: Service) -> None:
    messenger = service.messenger(endpoint_url="http://127.0.0.1:1/")
    [number] = service.contracts()
    ask(service.api, "POST", "/v1/bindings", {"phoneNumber": f"+{number}", "identificationCode": "a"}, headers=messenger.headers)
    service.sql("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", number)
    service.sql("UPDATE registry.notification SET not_before = '2040-01-01 00:00+00' WHERE messenger_id = $1", messenger.messenger_id)
    assert attempts(service, messenger).body["nextAttemptAt"] == "2040-01-01T00:00:00.000Z"
    service.sql(
        "UPDATE registry.lane SET failures = 1, gate_until = '2039-01-01 00:00+00' WHERE messenger_id = $1",
        messenger.messenger_id,
    )
    assert attempts(service, messenger).body["nextAttemptAt"] == "2039-01-01T00:00:00.000Z"


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?after=x", "?after=-1", "?after=999999999999999999", "?before=1"])
def test_a_page_of_attempts_that_is_not_one_is_refused(service: Service, query: str) -> None:
    assert attempts(service, service.messenger(), query).status == 400


def test_a_dry_run_counts_the_day_and_changes_nothing(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    deliver(service, messenger, days_ago(2, hours=1), days_ago(2, hours=23), days_ago(1), days_ago(3, hours=23))
    deliver(service, other, days_ago(2, hours=1))
    day = days_ago(2).date().isoformat()
    answer = replay(service, messenger, day=day, dryRun=True)
    assert answer.status == 200
    window = {"from": f"{day}T00:00:00.000Z", "to": days_ago(1).strftime("%Y-%m-%dT00:00:00.000Z")}
    assert answer.body == {"replayId": None, **window, "notifications": 2, "dryRun": True, "perSecond": 50}
    assert replay(service, messenger, **window, dryRun=True).body == answer.body
    assert (waiting(service, messenger), replays(service, messenger)) == (0, [])


def test_a_replay_that_is_asked_for_twice_is_one(service: Service) -> None:
    messenger = service.messenger()
    deliver(service, messenger, days_ago(2, hours=1), days_ago(2, hours=2))
    day = days_ago(2).date().isoformat()
    first = replay(service, messenger, day=day)
    assert (first.status, first.body["notifications"]) == (200, 2)
    assert replay(service, messenger, day=day).body == first.body, "while it is under way"
    service.sql("UPDATE registry.replay SET finished_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    assert replay(service, messenger, day=day).body == first.body, "and within the hour"
    assert waiting(service, messenger) == 2
    service.sql("UPDATE registry.replay SET asked_at = now() - interval '61 minutes' WHERE messenger_id = $1", messenger.messenger_id)
    assert replay(service, messenger, day=day).body["replayId"] > first.body["replayId"]


def test_who_suspends_a_messenger_and_the_messenger_s_replay_do_not_wait_for_each_other(service: Service) -> None:
    messenger = service.messenger()
    deliver(service, messenger, days_ago(2, hours=1))
    service.sql("BEGIN")
    try:
        service.sql("SELECT FROM registry.messenger WHERE messenger_id = $1 FOR NO KEY UPDATE", messenger.messenger_id)
        assert replay(service, messenger, day=days_ago(2).date().isoformat()).status == 200
    finally:
        service.sql("ROLLBACK")


def test_one_replay_at_a_time_and_five_a_day(service: Service) -> None:
    messenger, other = service.messenger(), service.messenger()
    deliver(service, messenger, *(days_ago(2, hours=hour) for hour in range(OWN_A_DAY_MAX + 1)))

    def hour(place: int) -> Answer:
        return replay(service, messenger, **{"from": days_ago(2, hours=place).isoformat(), "to": days_ago(2, hours=place + 1).isoformat()})

    assert hour(0).body["notifications"] == 1
    busy = hour(1)
    assert (busy.status, busy.body["code"]) == (409, "CONFLICT")
    for place in range(1, OWN_A_DAY_MAX):
        service.sql("UPDATE registry.replay SET finished_at = now() WHERE messenger_id = $1", messenger.messenger_id)
        assert hour(place).status == 200
    service.sql("UPDATE registry.replay SET finished_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    often = hour(OWN_A_DAY_MAX)
    assert (often.status, often.body["code"]) == (429, "TOO_MANY_REQUESTS")
    assert replays(service, other) == []
    told = replays(service, messenger)
    assert len(told) == OWN_A_DAY_MAX
    assert {(r["askedBy"], r["notifications"], r["waiting"]) for r in told} == {("messenger", 1, 0)}
    assert [r["replayId"] for r in told] == sorted((r["replayId"] for r in told), reverse=True)


def test_nothing_to_replay_is_no_replay(service: Service) -> None:
    messenger = service.messenger()
    answer = replay(service, messenger, day="2026-01-01")
    assert (answer.status, answer.body["notifications"], answer.body["replayId"]) == (200, 0, None)
    assert replays(service, messenger) == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ""),
        ({"dryRun": True}, ""),
        ({"day": "2026-02-30"}, "day"),
        ({"day": "yesterday"}, "day"),
        ({"day": "9999-12-31"}, "day"),
        ({"day": "2026-03-02", "from": BEGAN}, "day"),
        ({"from": BEGAN}, ""),
        ({"from": "10:00", "to": BEGAN}, "from"),
        ({"from": BEGAN, "to": BEGAN}, "to"),
        ({"from": BEGAN, "to": "2026-03-03T10:00:00.001Z"}, "to"),
        ({"from": BEGAN, "to": "2026-03-02T09:00:00Z"}, "to"),
    ],
)
def test_a_window_that_is_not_one_is_refused(service: Service, body: dict[str, Any], path: str) -> None:
    answer = replay(service, service.messenger(), **body)
    assert (answer.status, answer.body["errors"][0]["path"]) == (400, path)


def test_a_suspended_messenger_sees_attempts_and_replays_and_asks_for_none(service: Service) -> None:
    messenger = service.messenger()
    service.sql("UPDATE registry.messenger SET state = 'suspended', suspended_at = now() WHERE messenger_id = $1", messenger.messenger_id)
    service.reload()
    assert attempts(service, messenger).status == 200
    assert replays(service, messenger) == []
    assert replay(service, messenger, day="2026-03-02").status == 403


def test_a_replay_is_pulled_without_the_number_so_that_a_leaked_key_fetches_no_numbers_of_past_days(service: Service) -> None:
    messenger = service.messenger(includes_phone_number=True)
    deliver(service, messenger, days_ago(2, hours=1))
    asked = replay(service, messenger, day=days_ago(2).date().isoformat()).body
    service.sql("SELECT registry.owe_again($1, 10)", asked["replayId"])
    told = ask(service.api, "GET", "/v1/account", headers=messenger.headers).body["notifications"]
    assert (told["pending"], told["oldestDeadlineAt"]) == (1, None), "its deadline was met, so it is not late"
    [number] = service.contracts()
    ask(service.api, "POST", "/v1/bindings", {"phoneNumber": f"+{number}", "identificationCode": "new"}, headers=messenger.headers)
    service.sql("UPDATE registry.contract SET ended_at = now() WHERE msisdn = $1", number)
    pulled = ask(service.api, "GET", "/v1/notifications", headers=messenger.headers).body["notifications"]
    assert [(notice["identificationCode"], notice.get("phoneNumber")) for notice in pulled] == [("u0", None), ("new", f"+{number}")]


def test_a_replay_brings_the_same_ids_once_and_not_while_the_operator_holds_them(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger(endpoint=endpoint.url)
            await database.owe(messenger, "a", "b", "c")
            with daemon(site, "answer", "deliver", "operate") as running:
                await eventually(lambda: len(endpoint.ids) == 3)
                await eventually(database.none_pending)
                today = {"day": datetime.now(UTC).date().isoformat()}
                await database.run("INSERT INTO registry.hold (messenger_id, reason) VALUES ($1, 'a test')", messenger.messenger_id)
                async with client(running.api, messenger) as session:
                    for _ in range(2):
                        async with session.post("/v1/notifications/replay", json=today) as response:
                            assert (await response.json())["notifications"] == 3
                    await eventually(lambda: database.value("SELECT count(*) = 3 FROM registry.notification"))
                    await eventually(lambda: database.value("SELECT finished_at IS NOT NULL FROM registry.replay"))
                    async with session.get("/v1/notifications") as response:
                        assert response.status == 503
                    assert len(endpoint.ids) == 3
                    await database.run("UPDATE registry.hold SET released_at = now(), released_by = 'dba', release_reason = 'done'")
                    await eventually(database.none_pending)
                    assert sorted(endpoint.ids) == sorted(2 * endpoint.ids[:3])
                    async with session.get("/v1/notifications/replay") as response:
                        [told] = (await response.json())["replays"]
                    assert (told["notifications"], told["waiting"]) == (3, 0)
                    assert told["finishedAt"] is not None
                    async with session.get("/v1/notifications/attempts") as response:
                        pushes = (await response.json())["attempts"]
                    assert sum(each["notifications"] for each in pushes) == 6

    asyncio.run(run())
