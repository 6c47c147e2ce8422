"""The operator API: billing's contract events, health, metrics and the console's page. It never shares a port with the messenger API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp.web import BaseRequest

from registryd import observe, resources
from registryd.config import Api
from registryd.domain.contract import EVENT_ID, EVENT_ID_WANTED, Event, Result
from registryd.domain.errors import InvalidArgument, Unavailable
from registryd.domain.identifiers import parse_msisdn
from registryd.domain.times import parse_rfc3339
from registryd.http import transport, wire
from registryd.http.app import App, Route
from registryd.http.auth import OperatorToken
from registryd.http.reply import Reply
from registryd.store import migrations
from registryd.store.pool import Database, fetch

EVENTS_MAX = 10_000
READY_TIMEOUT_S = 2.0
_AWAY = {"database": "away", "schema": "unknown"}


@dataclass(frozen=True)
class OperatorHandlers:
    api: Api
    db: Database
    apply_events: Callable[[Sequence[Event]], Awaitable[list[Result]]]

    async def contract_events(self, request: BaseRequest, _: None) -> Reply:
        events = wire.read_items(await transport.read_body(request, self.api), "events", wire.ContractEvent, EVENTS_MAX, _event)
        results = await self.apply_events(events)
        return wire.json_response({"results": [_result(result) for result in results]})

    async def healthz(self, request: BaseRequest, _: None) -> Reply:
        return Reply(b"ok\n", content_type="text/plain; charset=utf-8")

    async def readyz(self, request: BaseRequest, _: None) -> Reply:
        # A server that hangs is told from one that answers before whoever asks has lost patience.
        look = asyncio.create_task(self._checks())
        done, _pending = await asyncio.wait({look}, timeout=READY_TIMEOUT_S)
        look.cancel()
        checks = look.result() if done else _AWAY
        is_ready = all(state == "ok" for state in checks.values())
        return wire.json_response({"ready": is_ready, "checks": checks}, 200 if is_ready else 503)

    async def _checks(self) -> dict[str, str]:
        checks = {"database": "ok", "schema": "ok"}
        try:
            async with self.db.connection() as connection:
                if not (await fetch(connection, migrations.IS_WRITABLE))[0].writable:
                    checks["database"] = "read-only: a standby, or a primary that was demoted"
                try:
                    await migrations.check(connection)
                except migrations.SchemaMismatch as mismatch:
                    checks["schema"] = str(mismatch)
        except Unavailable:
            return _AWAY
        return checks

    async def metrics(self, request: BaseRequest, _: None) -> Reply:
        return Reply(observe.exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def console(self, request: BaseRequest, _: None) -> Reply:
        page = resources.path("registryd/console/index.html").read_bytes()
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        return Reply(page, content_type="text/html", headers={"Content-Security-Policy": policy, "X-Frame-Options": "DENY"})


def operator_app(handlers: OperatorHandlers, token: OperatorToken) -> App[None]:
    routes = {
        "/operator/v1/contract-events": {"POST": Route("contract_events", handlers.contract_events)},
        "/healthz": {"GET": Route("healthz", handlers.healthz, authenticated=False)},
        "/readyz": {"GET": Route("readyz", handlers.readyz, authenticated=False)},
        "/metrics": {"GET": Route("metrics", handlers.metrics, authenticated=False)},
        "/": {"GET": Route("console", handlers.console, authenticated=False)},
    }
    return App("operator", routes, token.authenticate, None)


def _event(item: wire.ContractEvent) -> Event:
    """Raises: InvalidArgument."""
    bad: list[tuple[str, str]] = []
    if EVENT_ID.fullmatch(item.eventId) is None:
        bad.append(("eventId", f"must be {EVENT_ID_WANTED}"))
    try:
        msisdn = parse_msisdn(item.phoneNumber)
    except ValueError as error:
        bad.append(("phoneNumber", str(error)))
    occurred_at = parse_rfc3339(item.occurredAt)
    if occurred_at is None:
        bad.append(("occurredAt", "must be an RFC 3339 time with its offset, such as 2026-01-02T03:04:05Z"))
    if bad or occurred_at is None:
        raise InvalidArgument(*bad)
    return Event(
        event_id=item.eventId,
        type=item.type,
        msisdn=msisdn,
        occurred_at=occurred_at,
        holder=item.holder or None,
        end_user=item.endUser or None,
    )


def _result(result: Result) -> dict[str, str]:
    told = {"eventId": result.event_id, "outcome": result.outcome}
    return told if result.reason is None else {**told, "reason": result.reason}
