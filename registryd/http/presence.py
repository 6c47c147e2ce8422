"""`POST /v1/presence` and `/v1/presence/batch`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from aiohttp.web import BaseRequest

from registryd.domain.binding import Outcome
from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.reply import Reply
from registryd.http.services import Services
from registryd.presence.answerer import BATCH_MAX_QUERIES
from registryd.store.messengers import Messenger

_VERDICTS: Mapping[tuple[bool, Outcome | None], str] = {
    (present, outcome): f'"present":{"true" if present else "false"},"binding":' + (f'"{outcome}"' if outcome else "null")
    for present, outcome in product((True, False), (None, *Outcome))
}
"""Every answer that a query can have, as JSON ready for its place: the rest of a reply is ids and times, which need no escaping."""


@dataclass(frozen=True)
class PresenceHandlers:
    services: Services

    async def answer(self, request: BaseRequest, messenger: Messenger) -> Reply:
        received = time.monotonic()
        query = wire.read_query(await self.services.body(request))
        answer = await self.services.answer(messenger, query, received)
        verdict = _VERDICTS[answer.present, answer.bound.outcome if answer.bound else None]
        return Reply(f'{{"queryId":"{answer.query_id}",{verdict},{self._times(answer.received_at, answer.answered_at)}}}'.encode())

    async def answer_batch(self, request: BaseRequest, messenger: Messenger) -> Reply:
        received = time.monotonic()
        queries = wire.read_batch(await self.services.body(request), BATCH_MAX_QUERIES)
        await asyncio.sleep(0)  # reading ten thousand takes milliseconds: others have their turn
        batch = await self.services.answer_batch(messenger, queries, received)
        results = "},{".join([_VERDICTS[present, bound.outcome if bound else None] for present, bound in batch.answers])
        times = self._times(batch.received_at, batch.answered_at)
        return Reply(f'{{"batchId":"{batch.batch_id}",{times},"results":[{{{results}}}]}}'.encode())

    def _times(self, received_at: datetime, answered_at: datetime) -> str:
        deadline_at = received_at + self.services.directory.answer_within
        return f'"receivedAt":"{rfc3339(received_at)}","answeredAt":"{rfc3339(answered_at)}","deadlineAt":"{rfc3339(deadline_at)}"'
