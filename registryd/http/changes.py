"""`POST /v1/account/endpoint` and `/v1/account/webhook-secret`: a messenger asks for a change, which a person confirms or refuses."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from registryd import observe
from registryd.domain.endpoint import EndpointRules
from registryd.domain.errors import InvalidArgument
from registryd.domain.times import rfc3339
from registryd.http import wire
from registryd.http.auth import Directory
from registryd.http.keys import NO_STORE
from registryd.http.reply import Reply
from registryd.http.routes import Call
from registryd.store import changes
from registryd.store.changes import Change, Requested
from registryd.store.messengers import Messenger
from registryd.store.pool import Database


@dataclass(frozen=True)
class ChangeHandlers:
    db: Database
    directory: Directory
    endpoints: EndpointRules

    async def endpoint(self, call: Call[Messenger]) -> Reply:
        try:
            url = self.endpoints.endpoint(call.content)
        except ValueError as error:
            raise InvalidArgument(("url", str(error))) from None
        requested = await changes.request_endpoint(self.db, call.caller.messenger_id, self._key_id(call), url)
        self._tell(call, "endpoint", requested)
        return wire.json_response({**_waiting(requested), "kind": "endpoint", "url": url})

    async def webhook_secret(self, call: Call[Messenger]) -> Reply:
        """The secret is in this answer and nowhere else in the clear."""
        requested, secret = await changes.request_secret(self.db, call.caller.messenger_id, self._key_id(call))
        self._tell(call, "webhook_secret", requested)
        facts = {**_waiting(requested), "kind": "webhook_secret", "webhookSecret": secret}
        return Reply(orjson.dumps(facts), headers=NO_STORE)

    def _key_id(self, call: Call[Messenger]) -> str:
        return self.directory.shown(call.request).key_id

    def _tell(self, call: Call[Messenger], kind: str, requested: Requested) -> None:
        """Logs a new request, at which a person has to look. One that is repeated was logged before."""
        if requested.outcome == "asked":
            observe.event("change_requested", "warning", messenger=call.caller.name, kind=kind, change=requested.change_id)


def view(change: Change) -> dict[str, object]:
    """As the account tells it."""
    return {
        "changeId": change.change_id,
        "kind": change.kind,
        "state": change.state,
        "url": change.endpoint_url,
        "requestedAt": rfc3339(change.requested_at),
        "expiresAt": rfc3339(change.expires_at),
        "decidedAt": rfc3339(change.decided_at) if change.decided_at else None,
        "reason": change.reason,
    }


def _waiting(requested: Requested) -> dict[str, object]:
    times = {"requestedAt": rfc3339(requested.requested_at), "expiresAt": rfc3339(requested.expires_at)}
    return {"changeId": requested.change_id, "state": "waiting", **times}
