"""`/v1/notifications/attempts` and `/v1/notifications/replay`: what was pushed to a messenger, and having it pushed again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from registryd import observe
from registryd.domain.errors import InvalidArgument
from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.notifications import read_limit
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.store import notifications, replays
from registryd.store.messengers import Messenger
from registryd.store.notifications import PushAttempt
from registryd.store.pool import Database
from registryd.store.replays import OWN_PER_SECOND, OwnReplay

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class DeliveryHandlers:
    db: Database

    async def attempts(self, call: Call[Messenger]) -> Reply:
        """The cursor is the time of the page's last push in microseconds."""
        query = call.request.rel_url.query
        limit = read_limit(query.get("limit"))
        rows = await notifications.read_attempts(self.db, call.caller.messenger_id, _before(query.get("after")), limit)
        next_at = await notifications.find_next_attempt(self.db, call.caller.messenger_id)
        return wire.json_response(
            {
                "attempts": [_attempt(row) for row in rows],
                "next": str((rows[-1].attempted_at - EPOCH) // MICROSECOND) if len(rows) >= limit else None,
                "nextAttemptAt": rfc3339(next_at) if next_at else None,
            }
        )

    async def replay(self, call: Call[Messenger]) -> Reply:
        since, until, dry_run = call.content
        choice = await replays.ask_own(self.db, call.caller.messenger_id, since, until, dry_run=dry_run)
        if choice.replay_id is not None:
            observe.event("replay_asked", messenger=call.caller.name, replay=choice.replay_id, notifications=choice.notifications)
        window = {"from": rfc3339(since), "to": rfc3339(until)}
        facts = {"notifications": choice.notifications, "dryRun": dry_run, "perSecond": OWN_PER_SECOND}
        return wire.json_response({"replayId": choice.replay_id, **window, **facts})

    async def replays(self, call: Call[Messenger]) -> Reply:
        return wire.json_response({"replays": [_replay(row) for row in await replays.read_own(self.db, call.caller.messenger_id)]})


def _attempt(row: PushAttempt) -> dict[str, object]:
    return {
        "attemptedAt": rfc3339(row.attempted_at),
        "notifications": row.notifications,
        "outcome": row.outcome,
        "status": row.http_status,
        "latencyMs": row.latency_ms,
        "error": row.error,
    }


def _replay(row: OwnReplay) -> dict[str, object]:
    times = {"from": row.since_at, "to": row.until_at, "askedAt": row.asked_at, "finishedAt": row.finished_at}
    return {
        "replayId": row.replay_id,
        "askedBy": "messenger" if row.own else "operator",
        **{name: rfc3339(at) if at else None for name, at in times.items()},
        "notifications": row.notifications,
        "waiting": row.waiting,
    }


def _before(cursor: str | None) -> datetime:
    """Raises: InvalidArgument."""
    if cursor is None:
        return LAST
    if re.fullmatch(r"[0-9]{1,17}", cursor, re.ASCII) is None:
        raise InvalidArgument(("after", "must be a cursor that `next` gave"))
    return EPOCH + int(cursor) * MICROSECOND
