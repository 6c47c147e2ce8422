"""`GET /v1/notifications`, `POST /v1/notifications/acknowledge` and `/v1/notifications/test`: the pull side of delivery."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from aiohttp.web import BaseRequest

from registryd import observe
from registryd.domain.errors import InvalidArgument
from registryd.domain.notification import Notification
from registryd.domain.notification import wire as as_wire
from registryd.http import wire
from registryd.http.reply import Reply
from registryd.http.services import Services
from registryd.store import notifications
from registryd.store.messengers import Messenger

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


@dataclass(frozen=True)
class NotificationHandlers:
    services: Services

    async def pull(self, request: BaseRequest, messenger: Messenger) -> Reply:
        query = request.rel_url.query
        limit = _limit(query.get("limit"))
        owed = await notifications.read_owed(self.services.db, messenger.messenger_id, _after(query.get("after")), limit)
        items = [as_wire(n, with_phone_number=messenger.includes_phone_number) for n in owed]
        return wire.json_response({"notifications": items, "next": _cursor(owed[-1]) if len(owed) == limit else None})

    async def acknowledge(self, request: BaseRequest, messenger: Messenger) -> Reply:
        body = wire.read(await self.services.body(request), wire.Acknowledgement)
        bad = [i for i, text in enumerate(body.notificationIds) if _UUID.fullmatch(text) is None]
        if bad:
            raise InvalidArgument(*((f"notificationIds[{i}]", "must be a UUID, as notifications carry it") for i in bad))
        ids = sorted({UUID(text) for text in body.notificationIds})
        settled = await notifications.acknowledge(self.services.db, messenger.messenger_id, ids)
        observe.notifications_delivered.labels(messenger.name, "pull").inc(settled)
        return wire.json_response({"acknowledged": settled})

    async def test(self, request: BaseRequest, messenger: Messenger) -> Reply:
        if request.body_exists:
            wire.read(await self.services.body(request) or b"{}", wire.Empty)
        if messenger.endpoint_url is None:
            raise InvalidArgument(("", "you have no endpoint to push to; ask the operator to set one"))
        test = await self.services.push_test(messenger)
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
