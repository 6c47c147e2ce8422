"""What the messenger API's handlers work with. Delivery is a sibling of this package, so its one use here comes as a callable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp.web import BaseRequest

from registryd import observe
from registryd.config import Api
from registryd.domain.errors import CodeInUse
from registryd.domain.identifiers import Msisdn
from registryd.domain.notification import TestPush
from registryd.domain.presence import Answer, PresenceQuery
from registryd.http import transport
from registryd.http.auth import Directory
from registryd.presence.answerer import Answerer, BatchAnswer
from registryd.presence.quota import QuotaGuard
from registryd.store.messengers import Messenger
from registryd.store.pool import Database

RECORDED_AT_ONCE = 1_000
"""Between parts of a batch others have their turn."""


@dataclass(frozen=True)
class Services:
    api: Api
    db: Database
    directory: Directory
    answerer: Answerer
    quota: QuotaGuard
    push_test: Callable[[Messenger], Awaitable[TestPush]]

    async def body(self, request: BaseRequest) -> bytes:
        """Raises: HttpError."""
        return await transport.read_body(request, self.api)

    async def answer(self, messenger: Messenger, query: PresenceQuery, received: float) -> Answer:
        """One query within the messenger's budget. Raises: QuotaExceeded, CodeInUse, Unavailable."""
        self.quota.reserve(messenger.messenger_id, messenger.daily_quota, 1)
        try:
            answer = await self.answerer.answer(messenger.messenger_id, query, received)
        except CodeInUse:
            # Only a present number is told so: the messenger has its answer, and it counts.
            self._record(messenger, (query.msisdn,), (True,))
            raise
        finally:
            self.quota.release(messenger.messenger_id, 1)
        self._record(messenger, (query.msisdn,), (answer.present,))
        return answer

    async def answer_batch(self, messenger: Messenger, queries: Sequence[PresenceQuery], received: float) -> BatchAnswer:
        """A batch that the messenger's budget holds whole. Raises: QuotaExceeded, Unavailable."""
        reserved = len(queries)
        self.quota.reserve(messenger.messenger_id, messenger.daily_quota, reserved)
        try:
            batch = await self.answerer.answer_batch(messenger.messenger_id, queries, received)
            for start in range(0, len(queries), RECORDED_AT_ONCE):
                part = slice(start, start + RECORDED_AT_ONCE)
                numbers = [query.msisdn for query in queries[part]]
                self._record(messenger, numbers, [present for present, _ in batch.answers[part]])
                self.quota.release(messenger.messenger_id, len(numbers))
                reserved -= len(numbers)
                await asyncio.sleep(0)
        finally:
            self.quota.release(messenger.messenger_id, reserved)
        return batch

    def _record(self, messenger: Messenger, numbers: Sequence[Msisdn], presents: Sequence[bool]) -> None:
        self.quota.record(messenger.messenger_id, numbers, presents)
        absent = presents.count(False)
        if absent < len(presents):
            observe.child(observe.queries, messenger.name, "present").inc(len(presents) - absent)
        if absent:
            observe.child(observe.queries, messenger.name, "absent").inc(absent)
