"""`GET /v1/account`: what a messenger may know about itself."""

from __future__ import annotations

from dataclasses import dataclass

from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.auth import Directory
from registryd.http.changes import view
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.presence.quota import QuotaGuard
from registryd.store import changes, guard, holds, lanes, notifications
from registryd.store.messengers import Messenger
from registryd.store.pool import Database


@dataclass(frozen=True)
class AccountHandlers:
    db: Database
    quota: QuotaGuard
    directory: Directory

    async def show(self, call: Call[Messenger]) -> Reply:
        messenger = call.caller
        backlog = await notifications.count_pending(self.db, messenger.messenger_id)
        gate = await lanes.find(self.db, messenger.messenger_id)
        held = await holds.find(self.db, messenger.messenger_id)
        alarms = await guard.find_alarms(self.db, messenger.messenger_id) if self.quota.slows_down else []
        slowed = max(alarms, key=lambda alarm: alarm.ends_at, default=None)
        key = self.directory.shown(call.request)
        asked = await changes.read_own(self.db, messenger.messenger_id)
        usage = self.quota.usage(messenger.messenger_id)
        state = "none" if messenger.endpoint_url is None else "gated" if gate.gate_until else "healthy"
        return wire.json_response(
            {
                "messengerId": messenger.messenger_id,
                "name": messenger.name,
                "key": {"keyId": key.key_id, "expiresAt": rfc3339(key.expires_at) if key.expires_at else None},
                "endpoint": {
                    "url": messenger.endpoint_url,
                    "state": state,
                    "lastError": gate.last_error,
                    "gatedUntil": rfc3339(gate.gate_until) if gate.gate_until else None,
                },
                "notifications": {
                    "pending": backlog.pending,
                    "oldestDeadlineAt": rfc3339(backlog.oldest_deadline_at) if backlog.oldest_deadline_at else None,
                    "held": held.by_hand or held.in_wave,
                },
                "quota": {
                    "day": usage.day.isoformat(),
                    "limit": messenger.daily_quota,
                    "used": usage.used,
                    "absentRatio": round(usage.absent / usage.used, 4) if usage.used else None,
                },
                "slowedDown": {"until": rfc3339(slowed.ends_at), "reason": slowed.kind} if slowed else None,
                "changes": [view(change) for change in asked],
            }
        )
