"""`GET /v1/notifications`, `POST /v1/notifications/acknowledge` and `/v1/notifications/test`: the pull side of delivery."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from registryd import observe
from registryd.domain.errors import InvalidArgument
from registryd.domain.notification import Notification, TestPush
from registryd.domain.notification import wire as as_wire
from registryd.http import wire
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.store import notifications
from registryd.store.messengers import Messenger
from registryd.store.pool import Database

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000


@dataclass(frozen=True)
class NotificationHandlers:
    db: Database
    push_test: Callable[[Messenger], Awaitable[TestPush]]

    async def pull(self, call: Call[Messenger]) -> Reply:
        query = call.request.rel_url.query
        limit = _limit(query.get("limit"))
        owed = await notifications.read_owed(self.db, call.caller.messenger_id, _after(query.get("after")), limit)
        items = [as_wire(n, with_phone_number=call.caller.includes_phone_number) for n in owed]
        return wire.json_response({"notifications": items, "next": _cursor(owed[-1]) if len(owed) == limit else None})

    async def acknowledge(self, call: Call[Messenger]) -> Reply:
        settled = await notifications.acknowledge(self.db, call.caller.messenger_id, call.content)
        observe.notifications_delivered.labels(call.caller.name, "pull").inc(settled)
        return wire.json_response({"acknowledged": settled})

    async def test(self, call: Call[Messenger]) -> Reply:
        if call.caller.endpoint_url is None:
            raise InvalidArgument(("", "you have no endpoint to push to; ask the operator to set one"))
        test = await self.push_test(call.caller)
        return wire.json_response({"delivered": test.delivered, "status": test.status, "latencyMs": test.latency_ms, "error": test.error})


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) is None or not 1 <= int(text) <= LIMIT_MAX:
        raise InvalidArgument(("limit", f"must be 1 to {LIMIT_MAX}"))
    return int(text)


def _cursor(last: Notification) -> str:
    """The key of the last notification told: 8 bytes of microseconds, 16 of id."""
    microseconds = int(last.deadline_at.timestamp()) * 1_000_000 + last.deadline_at.microsecond
    return base64.urlsafe_b64encode(microseconds.to_bytes(8, "big") + last.notification_id.bytes).decode().rstrip("=")


def _after(cursor: str | None) -> notifications.Key:
    if cursor is None:
        return notifications.BEGINNING
    try:
        if re.fullmatch(r"[A-Za-z0-9_-]{32}", cursor, re.ASCII) is None:
            raise ValueError
        key = base64.b64decode(cursor, b"-_", validate=True)
        microseconds = int.from_bytes(key[:8], "big")
        return datetime.fromtimestamp(microseconds // 1_000_000, UTC).replace(microsecond=microseconds % 1_000_000), UUID(bytes=key[8:])
    except (ValueError, OverflowError, OSError, binascii.Error):
        raise InvalidArgument(("after", "must be a cursor that `next` gave")) from None
