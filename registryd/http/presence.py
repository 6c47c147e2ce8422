"""`POST /v1/presence` and `/v1/presence/batch`."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp.web import BaseRequest, Response

from registryd.domain.notification import rfc3339
from registryd.http import wire
from registryd.http.services import Services
from registryd.presence.resolver import BATCH_MAX_QUERIES
from registryd.store.messengers import Messenger


@dataclass(frozen=True)
class PresenceHandlers:
    services: Services

    async def answer(self, request: BaseRequest, messenger: Messenger) -> Response:
        received_at = self.services.now()
        query = wire.presence_query(wire.read(await self.services.body(request), wire.Query))
        answer = await self.services.answer(messenger, query, received_at)
        return wire.json_response(
            {
                "queryId": str(answer.query_id),
                "present": answer.present,
                "binding": answer.bound.outcome if answer.bound else None,
                "receivedAt": rfc3339(received_at),
                "answeredAt": rfc3339(answer.answered_at),
                "deadlineAt": rfc3339(received_at + self.services.directory.answer_within),
            }
        )

    async def answer_batch(self, request: BaseRequest, messenger: Messenger) -> Response:
        received_at = self.services.now()
        queries = wire.read_items(await self.services.body(request), "queries", wire.Query, BATCH_MAX_QUERIES, wire.presence_query)
        batch = await self.services.answer_batch(messenger, queries, received_at)
        return wire.json_response(
            {
                "batchId": str(batch.batch_id),
                "receivedAt": rfc3339(received_at),
                "answeredAt": rfc3339(batch.answered_at),
                "deadlineAt": rfc3339(received_at + self.services.directory.answer_within),
                "results": [{"present": present, "binding": bound.outcome if bound else None} for present, bound in batch.answers],
            }
        )
