"""Calls of contract events, and what the registry holds after them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from registryd.domain.identifiers import Msisdn
from tests.http.conftest import Answer, Service, ask

PATH = "/operator/v1/contract-events"
NOW = datetime.now(UTC).replace(microsecond=0)
_ids = itertools.count(1)
SOME_NUMBERS = [Msisdn(79_160_000_001 + n) for n in range(3)]


def ago(**period: float) -> str:
    return (NOW - timedelta(**period)).isoformat().replace("+00:00", "Z")


def event(kind: str, number: int, occurred_at: str | None = None, **facts: str) -> dict[str, str]:
    return {"eventId": f"e{next(_ids)}", "type": kind, "phoneNumber": f"+{number}", "occurredAt": occurred_at or ago(minutes=1), **facts}


def call(service: Service, *events: dict[str, str]) -> Answer:
    return ask(service.operator, "POST", PATH, {"events": events}, headers=service.site.operator_headers)


def send(service: Service, *events: dict[str, str]) -> list[dict[str, str]]:
    answer = call(service, *events)
    assert answer.status == 200, answer.body
    assert [result["eventId"] for result in answer.body["results"]] == [sent["eventId"] for sent in events]
    return list(answer.body["results"])


def outcomes(service: Service, *events: dict[str, str]) -> list[str]:
    return [result["outcome"] for result in send(service, *events)]


def contracts(service: Service, number: int) -> list[tuple[Any, ...]]:
    """(generation, status, holder, end_user, end_reason) of a number."""
    rows = service.sql(
        "SELECT generation, status::text, holder::text, end_user::text, end_reason::text "
        "FROM registry.contract WHERE msisdn = $1 ORDER BY generation",
        number,
    )
    return [tuple(row) for row in rows]


def owed(service: Service, number: int) -> list[tuple[Any, ...]]:
    """(generation, identification_code) of the notifications for a number."""
    rows = service.sql("SELECT generation, identification_code FROM registry.notification WHERE msisdn = $1 ORDER BY 1, 2", number)
    return [tuple(row) for row in rows]


def bind(service: Service, number: int, code: str, messenger_id: int, generation: int = 1) -> None:
    service.sql(
        "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, $2, $3, $4)",
        number,
        generation,
        messenger_id,
        code,
    )


def everything(service: Service) -> list[Any]:
    """All that an event can change."""
    return [
        service.sql(f"SELECT t::text FROM registry.{table} AS t ORDER BY 1")
        for table in ("contract", "binding", "notification", "feed_event")
    ]


def told(service: Service, cases: list[tuple[dict[str, str], str]], outcome: str) -> None:
    """Each event is told that outcome with those words in its reason, and none changes anything that an answer could show."""
    before = everything(service)[:3]
    for (sent, reason), result in zip(cases, send(service, *(sent for sent, _ in cases)), strict=True):
        assert result["outcome"] == outcome, sent
        assert reason in result["reason"], sent
        assert sent["phoneNumber"][1:] not in result["reason"]
    assert everything(service)[:3] == before


def waiting(service: Service, *events: dict[str, str]) -> list[tuple[Any, ...]]:
    """(type, reason, calls) of those events that wait."""
    rows = service.sql(
        "SELECT type, reason, calls FROM registry.feed_waiting WHERE event_id = ANY ($1) ORDER BY array_position($1, event_id)",
        [sent["eventId"] for sent in events],
    )
    return [tuple(row) for row in rows]
