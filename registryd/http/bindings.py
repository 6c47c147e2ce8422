"""`POST /v1/bindings`, `/v1/bindings/retrieve` and `/v1/bindings/remove`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from aiohttp.web import BaseRequest

from registryd.domain.binding import Outcome
from registryd.domain.errors import InvalidArgument, NotFound, NotPresent
from registryd.domain.identifiers import IdentificationCode, parse_code
from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.reply import Reply
from registryd.http.services import Services
from registryd.store import bindings
from registryd.store.bindings import BindingRow
from registryd.store.messengers import Messenger


@dataclass(frozen=True)
class BindingHandlers:
    services: Services

    async def record(self, request: BaseRequest, messenger: Messenger) -> Reply:
        """Tells whether the number is present, so it is a query like any other: budgeted and journaled."""
        received = time.monotonic()
        query = wire.presence_query(wire.read(await self.services.body(request), wire.Binding))
        answer = await self.services.answer(messenger, query, received)
        if answer.bound is None or answer.bound.bound_at is None:
            raise NotPresent
        status = 201 if answer.bound.outcome is Outcome.RECORDED else 200
        return wire.json_response({"binding": answer.bound.outcome, "boundAt": rfc3339(answer.bound.bound_at)}, status)

    async def retrieve(self, request: BaseRequest, messenger: Messenger) -> Reply:
        code = await self._code(request)
        return _view(await bindings.find(self.services.db, messenger.messenger_id, code))

    async def remove(self, request: BaseRequest, messenger: Messenger) -> Reply:
        code = await self._code(request)
        return _view(await bindings.remove(self.services.db, messenger.messenger_id, code))

    async def _code(self, request: BaseRequest) -> IdentificationCode:
        body = wire.read(await self.services.body(request), wire.Code)
        try:
            return parse_code(body.identificationCode)
        except ValueError as error:
            raise InvalidArgument(("identificationCode", str(error))) from None


def _view(row: BindingRow | None) -> Reply:
    if row is None:
        raise NotFound
    return wire.json_response(
        {
            "identificationCode": row.identification_code,
            "state": "active" if row.ended_at is None else "ended",
            "boundAt": rfc3339(row.bound_at),
            "endedAt": rfc3339(row.ended_at) if row.ended_at else None,
            "endReason": row.end_reason,
        }
    )
