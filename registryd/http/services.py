"""What the messenger API's handlers work with. Delivery is a sibling of this package, so its one use here comes as a callable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp.web import BaseRequest

from registryd.config import Api
from registryd.domain.notification import TestPush
from registryd.http import transport
from registryd.http.auth import Directory
from registryd.presence.quota import QuotaGuard
from registryd.presence.resolver import Resolver
from registryd.store.messengers import Messenger
from registryd.store.pool import Database


@dataclass(frozen=True)
class Services:
    api: Api
    db: Database
    directory: Directory
    resolver: Resolver
    quota: QuotaGuard
    push_test: Callable[[Messenger], Awaitable[TestPush]]

    async def body(self, request: BaseRequest) -> bytes:
        """Raises: HttpError."""
        return await transport.read_body(request, self.api)

    def now(self) -> datetime:
        return datetime.now(UTC)
