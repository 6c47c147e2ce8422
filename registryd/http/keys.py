"""`/v1/account/keys`: a messenger looks at its own keys, makes the next one, and revokes the other one."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from registryd import observe
from registryd.domain.errors import InvalidArgument
from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.auth import Directory
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.store import rotation
from registryd.store.messengers import KeyRow, Messenger
from registryd.store.pool import Database

NO_STORE = {"Cache-Control": "no-store"}


@dataclass(frozen=True)
class KeyHandlers:
    db: Database
    directory: Directory

    async def read(self, call: Call[Messenger]) -> Reply:
        return wire.json_response({"keys": [_view(row) for row in await rotation.read_own(self.db, call.caller.messenger_id)]})

    async def make(self, call: Call[Messenger]) -> Reply:
        """The key is in this answer and nowhere else: only the hash of its secret is stored."""
        shown = self.directory.shown(call.request).key_id
        made = await rotation.rotate_own(self.db, call.caller.messenger_id)
        observe.event("key_made", messenger=call.caller.name, key_id=made.key.key_id, by_key=shown)
        former = [{"keyId": key.key_id, "expiresAt": rfc3339(key.expires_at)} for key in made.former]
        facts = {"keyId": made.key.key_id, "apiKey": made.key.shown, "formerKeys": former}
        return Reply(orjson.dumps(facts), headers=NO_STORE)

    async def revoke(self, call: Call[Messenger]) -> Reply:
        shown = self.directory.shown(call.request).key_id
        if call.content == shown:
            raise InvalidArgument(("keyId", "is the key that this request shows: revoke it with another one"))
        row = await rotation.revoke_own(self.db, call.caller.messenger_id, call.content)
        observe.event("key_revoked", messenger=call.caller.name, key_id=row.key_id, by_key=shown)
        return wire.json_response(_view(row))


def _view(row: KeyRow) -> dict[str, object]:
    times = {"createdAt": row.created_at, "expiresAt": row.expires_at, "revokedAt": row.revoked_at, "lastUsedAt": row.last_used_at}
    return {"keyId": row.key_id, **{name: rfc3339(at) if at else None for name, at in times.items()}}
