"""`POST /v1/bindings`, `/v1/bindings/retrieve` and `/v1/bindings/remove`."""

from __future__ import annotations

from dataclasses import dataclass

from registryd.domain.binding import Outcome
from registryd.domain.errors import NotFound, NotPresent
from registryd.domain.presence import Answer
from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.presence import answer_one
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.presence.answerer import Answerer
from registryd.store import bindings
from registryd.store.bindings import BindingRow
from registryd.store.messengers import Messenger
from registryd.store.pool import Database


@dataclass(frozen=True)
class BindingHandlers:
    db: Database
    answerer: Answerer

    async def record(self, call: Call[Messenger]) -> Reply:
        """Tells whether the number is present, so it is a query like any other: budgeted and journaled."""
        return tell_binding(await answer_one(self.answerer, call))

    async def retrieve(self, call: Call[Messenger]) -> Reply:
        return _view(await bindings.find(self.db, call.caller.messenger_id, call.content))

    async def remove(self, call: Call[Messenger]) -> Reply:
        return _view(await bindings.remove(self.db, call.caller.messenger_id, call.content))


def tell_binding(answer: Answer) -> Reply:
    """Raises: NotPresent."""
    if answer.bound is None or answer.bound.bound_at is None:
        raise NotPresent
    status = 201 if answer.bound.outcome is Outcome.RECORDED else 200
    bound_at = rfc3339(answer.bound.bound_at)
    return wire.json_response({"binding": answer.bound.outcome, "generation": answer.bound.generation, "boundAt": bound_at}, status)


def _view(row: BindingRow | None) -> Reply:
    if row is None:
        raise NotFound
    return wire.json_response(
        {
            "identificationCode": row.identification_code,
            "generation": row.generation,
            "state": "active" if row.ended_at is None else "ended",
            "boundAt": rfc3339(row.bound_at),
            "endedAt": rfc3339(row.ended_at) if row.ended_at else None,
            "endReason": row.end_reason,
        }
    )
