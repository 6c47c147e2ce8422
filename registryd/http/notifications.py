"""`GET /v1/notifications`, `POST /v1/notifications/acknowledge` and `/v1/notifications/test`: the pull side of delivery."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from uuid import UUID

from registryd import observe
from registryd.domain.errors import HeldBack, InvalidArgument
from registryd.domain.notification import Notification
from registryd.domain.notification import wire as as_wire
from registryd.http import wire
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.store import holds, notifications, test_pushes
from registryd.store.messengers import Messenger
from registryd.store.pool import Database

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
WRITTEN_AT_ONCE = 100
"""Between two parts of a page the event loop serves others."""


@dataclass(frozen=True)
class NotificationHandlers:
    db: Database

    async def pull(self, call: Call[Messenger]) -> Reply:
        query = call.request.rel_url.query
        limit = read_limit(query.get("limit"))
        held = await holds.find(self.db, call.caller.messenger_id)
        if held.by_hand:
            raise HeldBack
        owed = await notifications.read_owed(self.db, call.caller.messenger_id, _after(query.get("after")), limit)
        if not owed and held.in_wave:
            raise HeldBack  # an empty list would say that nothing is owed
        items: list[dict[str, object]] = []
        for start in range(0, len(owed), WRITTEN_AT_ONCE):
            part = owed[start : start + WRITTEN_AT_ONCE]
            items += [{"type": n.type, **as_wire(n, with_phone_number=_tells_number(call.caller, n))} for n in part]
            await asyncio.sleep(0)
        return wire.json_response({"notifications": items, "next": str(owed[-1].notification_id) if len(owed) == limit else None})

    async def acknowledge(self, call: Call[Messenger]) -> Reply:
        settled = await notifications.acknowledge(self.db, call.caller.messenger_id, call.content)
        observe.notifications_delivered.labels(call.caller.name, "pull").inc(settled)
        return wire.json_response({"acknowledged": settled})

    async def test(self, call: Call[Messenger]) -> Reply:
        if call.caller.endpoint_url is None:
            raise InvalidArgument(("", "you have no endpoint to push to; ask the operator to set one"))
        test = await test_pushes.run(self.db, call.caller.messenger_id)
        return wire.json_response({"delivered": test.delivered, "status": test.status, "latencyMs": test.latency_ms, "error": test.error})


def _tells_number(messenger: Messenger, notification: Notification) -> bool:
    """A replay is pushed with the number, but pulled without: a key that leaked would otherwise fetch the numbers of all past days."""
    return messenger.includes_phone_number and not notification.replayed


def read_limit(text: str | None) -> int:
    """Raises: InvalidArgument."""
    if text is None:
        return LIMIT_DEFAULT
    if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) is None or not 1 <= int(text) <= LIMIT_MAX:
        raise InvalidArgument(("limit", f"must be 1 to {LIMIT_MAX}"))
    return int(text)


def _after(cursor: str | None) -> UUID:
    """The id after which to go on: `next` is the last one told."""
    if cursor is None:
        return notifications.BEGINNING
    if wire.UUID_TEXT.fullmatch(cursor) is None:
        raise InvalidArgument(("after", "must be a cursor that `next` gave"))
    return UUID(cursor)
