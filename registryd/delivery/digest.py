"""The daily digest: what was delivered to a messenger on a day, pushed as one signed `notifications.digest`.

It is made once the day is over, kept, and pushed apart from the lane until it is received: an endpoint that refuses it is not failing, and
holds up no notification. Its `webhook-id` and body are the same on every retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from registryd import observe
from registryd.delivery.push import Pusher
from registryd.domain.digest import Digester, digest_event
from registryd.domain.notification import Acknowledged, Failed, Rejected
from registryd.store import digests
from registryd.store.digests import Claimed
from registryd.store.pool import Database
from registryd.store.secretbox import WrongSecretsKey


class Digests:
    """`is_on_watch`: whether this worker is the one that does what needs doing once."""

    def __init__(self, db: Database, pusher: Pusher, is_on_watch: Callable[[], bool]) -> None:
        self._db = db
        self._pusher = pusher
        self._is_on_watch = is_on_watch

    async def send(self) -> None:
        """Makes the digests that are missing and pushes those that are due. Raises: Unavailable."""
        if not self._is_on_watch():
            return
        for missing in await digests.read_missing(self._db):
            digester = Digester()
            async for page in digests.read_delivered(self._db, missing.messenger_id, missing.day):
                digester.add(page)
            await digests.add(self._db, missing, digester.digest)
        await asyncio.gather(*(self._push(claimed) for claimed in await digests.claim(self._db)))

    async def _push(self, claimed: Claimed) -> None:
        body = orjson.dumps(digest_event(claimed.day, claimed.digest, claimed.made_at))
        message_id = f"msg_digest_{claimed.messenger_id}_{claimed.day:%Y%m%d}"
        try:
            outcome = await self._pusher.announce(claimed.messenger_id, claimed.name, claimed.endpoint_url, message_id, body)
        except (WrongSecretsKey, ValueError):
            observe.event("secrets_unreadable", "error", messenger=claimed.name)
            return
        match outcome:
            case Acknowledged():
                error = None
            case Rejected(status):
                error = f"status {status}"
            case Failed(error):
                pass
        await digests.settle(self._db, claimed, error)
