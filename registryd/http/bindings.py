"""`POST /v1/bindings`, and below it `/retrieve`, `/list`, `/remove` and `/remove/batch`."""

from __future__ import annotations

from dataclasses import dataclass, field

from registryd import observe
from registryd.domain.binding import Outcome
from registryd.domain.errors import NotFound, NotPresent
from registryd.domain.presence import Answer
from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.auth import Directory
from registryd.http.presence import answer_one
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.loglines import Repeats
from registryd.presence.answerer import Answerer
from registryd.store import bindings
from registryd.store.bindings import BindingRow
from registryd.store.messengers import Messenger
from registryd.store.pool import Database


@dataclass(frozen=True)
class BindingHandlers:
    db: Database
    answerer: Answerer
    directory: Directory
    repeats: Repeats = field(default_factory=observe.repeats)

    async def record(self, call: Call[Messenger]) -> Reply:
        """Tells whether the number is present, so it is a query like any other: it counts against the quota and is journaled."""
        return tell_binding(await answer_one(self.answerer, call))

    async def retrieve(self, call: Call[Messenger]) -> Reply:
        return _answer(await bindings.find(self.db, call.caller.messenger_id, call.content))

    async def remove(self, call: Call[Messenger]) -> Reply:
        """Told in the log, because no notice is owed for what is removed: a key that leaked could end all of a messenger's bindings."""
        removal = await bindings.remove(self.db, call.caller.messenger_id, call.content)
        if removal.has_ended:
            facts = {"messenger": call.caller.name, "key_id": self.directory.key_id(call.request), "bindings": 1}
            self.repeats.tell("bindings_removed", "info", kind=(facts["messenger"], facts["key_id"]), facts=facts)
        return _answer(removal.binding)

    async def remove_batch(self, call: Call[Messenger]) -> Reply:
        """As `remove`, with a line for each batch."""
        found, ended = await bindings.remove_many(self.db, call.caller.messenger_id, call.content)
        if ended:
            key_id = self.directory.key_id(call.request)
            observe.event("bindings_removed", messenger=call.caller.name, key_id=key_id, bindings=ended)
        return wire.json_response({"results": [_view(found[code]) if code in found else None for code in call.content]})

    async def read(self, call: Call[Messenger]) -> Reply:
        """A page of the live ones. `next` is the code that it ends with, while there may be more."""
        after, limit = call.content
        rows = await bindings.read_live(self.db, call.caller.messenger_id, after, limit)
        is_full = len(rows) == limit
        return wire.json_response({"bindings": [_view(row) for row in rows], "next": rows[-1].identification_code if is_full else None})


def tell_binding(answer: Answer) -> Reply:
    """Raises: NotPresent."""
    if answer.bound is None or answer.bound.bound_at is None:
        raise NotPresent
    status = 201 if answer.bound.outcome is Outcome.RECORDED else 200
    bound_at = rfc3339(answer.bound.bound_at)
    return wire.json_response({"binding": answer.bound.outcome, "generation": answer.bound.generation, "boundAt": bound_at}, status)


def _answer(row: BindingRow | None) -> Reply:
    if row is None:
        raise NotFound
    return wire.json_response(_view(row))


def _view(row: BindingRow) -> dict[str, object]:
    return {
        "identificationCode": row.identification_code,
        "generation": row.generation,
        "state": "active" if row.ended_at is None else "ended",
        "boundAt": rfc3339(row.bound_at),
        "endedAt": rfc3339(row.ended_at) if row.ended_at else None,
        "endReason": row.end_reason,
    }
