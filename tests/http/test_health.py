"""The health listener of a process: whether it lives, whether it can do its work, and its metrics."""

from __future__ import annotations

import re
import secrets

import pytest
from prometheus_client.parser import text_string_to_metric_families

from registryd import observe
from registryd.http.health import STALE_S, Health
from tests.conftest import wait_for
from tests.http.conftest import Answer, Service, ask


def test_health_needs_no_token_and_no_database(service: Service) -> None:
    answer = ask(service.daemon.health(), "GET", "/healthz")
    assert (answer.status, answer.raw) == (200, b"ok\n")
    assert answer.headers["content-type"].startswith("text/plain")


def test_what_a_process_found_long_ago_is_believed_neither_by_readyz_nor_by_the_metric() -> None:
    now = [100.0]
    health = Health(lambda: now[0])

    def ready() -> tuple[bool, float | None]:
        return not health.reason, observe.METRICS.get_sample_value("registryd_ready")

    assert ready() == (False, 0)
    health.tell("")
    assert ready() == (True, 1)
    now[0] += STALE_S + 1
    assert ready() == (False, 0)


def readiness(service: Service, status: int) -> Answer:
    """What /readyz says, once it answers so."""

    def look() -> Answer | None:
        answer = ask(service.daemon.health(), "GET", "/readyz")
        return answer if answer.status == status else None

    return wait_for(look)


def test_readiness_tells_what_is_wrong_with_the_schema_and_no_api_guesses_meanwhile(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    query = {"phoneNumber": f"+{number}"}
    assert readiness(service, 200).body == {"ready": True}
    newest = "SELECT max(version) FROM registry.schema_migration"
    [last] = service.sql(f"DELETE FROM registry.schema_migration WHERE version = ({newest}) RETURNING *")
    try:
        answer = readiness(service, 503)
        assert answer.headers["content-type"] == "application/json"
        assert answer.body["ready"] is False
        assert "migrate" in answer.body["reason"]
        assert service.metric("registryd_ready") == 0
        answer = ask(service.api, "POST", "/v1/presence", query, headers=messenger.headers)
        assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
    finally:
        service.sql("INSERT INTO registry.schema_migration VALUES ($1, $2, $3, $4)", *last)
    readiness(service, 200)
    assert ask(service.api, "POST", "/v1/presence", query, headers=messenger.headers).body["present"] is True
    assert service.metric("registryd_ready") == 1


def test_readiness_tells_of_a_primary_that_was_demoted(service: Service) -> None:
    """A standby answers reads; the process must not be sent queries then, and does not guess."""
    messenger = service.messenger()
    [number] = service.contracts()
    name = service.site.database.name
    service.sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    reconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
    try:
        service.sql(reconnect, name)
        assert readiness(service, 503).body == {"ready": False, "reason": "the database takes no writes"}
        answer = ask(service.api, "POST", "/v1/presence", {"phoneNumber": f"+{number}"}, headers=messenger.headers)
        assert (answer.status, answer.body["code"]) == (503, "UNAVAILABLE")
    finally:
        service.sql("SET default_transaction_read_only = off")
        service.sql(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        service.sql(reconnect, name)
    readiness(service, 200)
    answer = ask(service.api, "POST", "/v1/presence", {"phoneNumber": f"+{number}"}, headers=messenger.headers)
    assert answer.body.get("present") is True


def test_a_registry_that_is_not_complete_answers_nothing_and_alarms_nobody(service: Service) -> None:
    """A search for subscribers would be an alarm; here nobody learned anything."""
    messenger = service.messenger()
    [number] = service.contracts()
    pages = service.sql("SELECT count(*) FROM registry.journal_page")
    service.sql("SELECT registry.declare_incomplete('restored to Tuesday')")
    try:
        assert "not complete" in readiness(service, 503).body["reason"]
        assert service.metric("registryd_ready") == 0
        body = {"phoneNumber": f"+{number}"}
        batch = {"queries": [{"phoneNumber": f"+{number + 1_000 + i}"} for i in range(300)]}
        coded = body | {"identificationCode": "early"}
        for path, content in (("/v1/presence", body), ("/v1/presence", coded), ("/v1/presence/batch", batch), ("/v1/bindings", coded)):
            answer = ask(service.api, "POST", path, content, headers=messenger.headers)
            assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (503, "UNAVAILABLE", "10"), path
            assert answer.body["detail"] == "The registry is not ready to answer; ask again after Retry-After."
        assert f'registryd_requests_refused_total{{messenger="{messenger.name}",reason="incomplete"}} 4.0' in service.daemon.metrics()
        assert ask(service.api, "GET", "/v1/account", headers=messenger.headers).body["quota"]["used"] == 0
        assert service.sql("SELECT count(*) FROM registry.journal_page") == pages
        assert service.sql("SELECT FROM registry.binding WHERE messenger_id = $1", messenger.messenger_id) == []
        assert service.sql("SELECT FROM registry.enumeration_alarm WHERE messenger_id = $1", messenger.messenger_id) == []
    finally:
        service.sql("SELECT registry.declare_complete('person', 'all are here')")
    readiness(service, 200)
    assert ask(service.api, "POST", "/v1/presence", body, headers=messenger.headers).body["present"] is True


@pytest.mark.parametrize(("code", "reason"), [("54000", "has no transaction ids left"), ("53100", "disk is full"), ("58030", "disk fails")])
def test_a_journal_that_takes_no_pages_makes_the_role_unready_until_it_does(service: Service, code: str, reason: str) -> None:
    """No transaction ids left, a full disk, a failing disk: reads go on, so only a write tells."""
    messenger = service.messenger()
    [number] = service.contracts()
    body = {"phoneNumber": f"+{number}"}
    service.sql(
        f"CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$"
    )
    service.sql("CREATE TRIGGER refuse BEFORE INSERT ON registry.journal_page FOR EACH ROW EXECUTE FUNCTION public.refuse()")
    try:
        answer = ask(service.api, "POST", "/v1/presence", body, headers=messenger.headers)
        assert (answer.status, answer.body["code"]) == (503, "UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        assert reason in readiness(service, 503).body["reason"]
        assert service.metric("registryd_ready") == 0
    finally:
        service.sql("DROP TRIGGER refuse ON registry.journal_page")
        service.sql("DROP FUNCTION public.refuse")
    readiness(service, 200)
    assert service.sql("SELECT FROM registry.journal_page WHERE messenger_ids = '{0}'") == []
    assert ask(service.api, "POST", "/v1/presence", body, headers=messenger.headers).body["present"] is True


def test_metrics_are_prometheus_text_without_a_trace_of_anybody(service: Service) -> None:
    messenger = service.messenger()
    [number] = service.contracts()
    code = f"zebra{secrets.token_hex(4)}"
    ask(service.api, "POST", "/v1/presence", {"phoneNumber": f"+{number}", "identificationCode": code}, headers=messenger.headers)
    ask(service.api, "POST", "/v1/zebra", {}, headers=messenger.headers)
    answer = ask(service.daemon.health(), "GET", "/metrics")
    assert answer.status == 200
    assert re.fullmatch(r"text/plain; version=0\.0\.4; charset=utf-8", answer.headers["content-type"])
    families = {family.name: family for family in text_string_to_metric_families(answer.raw.decode())}
    assert {"registryd_requests", "registryd_queries", "registryd_query_group_size", "registryd_ready"} <= set(families)
    assert all(family.documentation for family in families.values())
    routes = {sample.labels["route"] for sample in families["registryd_requests"].samples}
    assert "unknown" in routes, "a path that a client made up is no label"
    for trace in (str(number), code, messenger.api_key, messenger.api_key.split("_")[1], "zebra"):
        assert trace not in answer.raw.decode()
    assert service.metric("registryd_queries_total") >= 1


def test_who_opens_the_health_listener_is_told_what_there_is(service: Service) -> None:
    answer = ask(service.daemon.health(), "GET", "/")
    assert (answer.status, b"/readyz" in answer.raw, b"console" in answer.raw) == (200, True, True)
    assert ask(service.daemon.health(), "GET", "/zebra").status == 404
