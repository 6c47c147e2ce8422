"""`GET /v1/account`: what a messenger may know of itself."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp.web import BaseRequest

from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.reply import Reply
from registryd.http.services import Services
from registryd.store import lanes, notifications
from registryd.store.messengers import Messenger


@dataclass(frozen=True)
class AccountHandlers:
    services: Services

    async def show(self, request: BaseRequest, messenger: Messenger) -> Reply:
        backlog = await notifications.count_pending(self.services.db, messenger.messenger_id)
        gate = await lanes.find(self.services.db, messenger.messenger_id)
        usage = self.services.quota.usage(messenger.messenger_id)
        state = "none" if messenger.endpoint_url is None else "gated" if gate.gate_until else "healthy"
        return wire.json_response(
            {
                "messengerId": messenger.messenger_id,
                "name": messenger.name,
                "endpoint": {
                    "url": messenger.endpoint_url,
                    "state": state,
                    "lastError": gate.last_error,
                    "gatedUntil": rfc3339(gate.gate_until) if gate.gate_until else None,
                },
                "notifications": {
                    "pending": backlog.pending,
                    "oldestDeadlineAt": rfc3339(backlog.oldest_deadline_at) if backlog.oldest_deadline_at else None,
                },
                "quota": {
                    "day": usage.day.isoformat(),
                    "limit": messenger.daily_quota,
                    "used": usage.used,
                    "absentRatio": round(usage.absent / usage.used, 4) if usage.used else None,
                },
            }
        )
