"""The operator API: billing's contract events, and the console's views. It never shares a port with the messenger API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from registryd.config import ApiSection
from registryd.domain.contract import EVENT_ID, EVENT_ID_WANTED, Event, Result
from registryd.domain.errors import InvalidArgument, OutOfScope
from registryd.domain.identifiers import parse_msisdn
from registryd.domain.times import parse_rfc3339
from registryd.http import wire
from registryd.http.admission import Admission
from registryd.http.app import App
from registryd.http.auth import Keys
from registryd.http.reply import Reply, told_correlator
from registryd.http.routes import Budget, Call, Route, Routes
from registryd.http.views import view_routes
from registryd.store.operators import Operator
from registryd.store.pool import Database

EVENTS_MAX = 10_000


@dataclass(frozen=True)
class OperatorHandlers:
    apply_events: Callable[[Sequence[Event], Mapping[str, str]], Awaitable[list[Result]]]
    """Applies a call's events; with them, who sent them, for the log."""

    async def contract_events(self, call: Call[Operator]) -> Reply:
        """Thousands of events take a while to read and to tell: between parts others have their turn."""
        events: list[Event] = []
        for part in wire.read_events(call.content, EVENTS_MAX, _event):
            events += part
            await asyncio.sleep(0)
        sender = {"caller": call.caller.name, "key_id": call.caller.key_id, **told_correlator(call.request.headers, call.correlator)}
        results = await self.apply_events(events, sender)
        return await asyncio.to_thread(lambda: wire.json_response({"results": [_result(result) for result in results]}))


def operator_app(limits: ApiSection, keys: Keys[Operator], handlers: OperatorHandlers, looks: Database) -> App[Operator]:
    """`looks`: the small pool of the views."""
    routes: Routes[Operator] = {
        "/operator/v1/contract-events": {
            "POST": Route("contract_events", handlers.contract_events, Budget(16, 6_000), bytes, limits.body_max_bytes, scope="feed")
        },
        **view_routes(looks),
    }
    return App("operator", limits, routes, Admission(keys, _may, label="operator/"))


def _may(operator: Operator, route: Route[Operator]) -> None:
    """Raises: OutOfScope."""
    if route.scope not in operator.scopes:
        raise OutOfScope


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
