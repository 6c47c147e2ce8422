"""The service, its messengers and its clients, for a history that is judged when all is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from tests.conftest import Inbox, Site, TestMessenger, eventually, receiving, rewrite_policy
from tests.history.audit import Fault
from tests.history.judge import judge
from tests.history.load import Addresses, Clients, operator_keys
from tests.served import Served, serving

NUMBERS = [79_160_000_001 + i for i in range(50)]


class Play:
    """Use: `run`, then `judge`."""

    def __init__(self, site: Site, served: Served, clients: Clients, pulls: TestMessenger, keys: Sequence[str], inboxes: dict[int, Inbox]):
        self.served = served
        self.clients = clients
        self.inboxes = inboxes
        """Of the messengers that are pushed to, by their ids."""
        self._site = site
        self._pulls = pulls
        self._keys = keys
        self._over = asyncio.Event()
        self._pulling = asyncio.create_task(clients.pull(pulls, self._over))

    async def run(self) -> None:
        await self.clients.run(self._keys)

    async def judge(self) -> list[Fault]:
        """Waits until everything that is owed was delivered, and judges."""
        await eventually(self._is_all_delivered, timeout=600)
        self._over.set()
        await self._pulling
        return await judge(self._site.database, self.clients, self.inboxes)

    async def owed(self) -> list[UUID]:
        """What is owed now to the messengers that are pushed to."""
        async with self._site.database.connect() as connection:
            owed = "SELECT notification_id FROM registry.notification WHERE messenger_id = ANY ($1)"
            return [record["notification_id"] for record in await connection.fetch(owed, list(self.inboxes))]

    async def is_delivered(self, owed: Sequence[UUID]) -> bool:
        """Whether none of these is owed any more."""
        return not set(owed) & set(await self.owed())

    async def _is_all_delivered(self) -> bool:
        return not await self.owed()


@asynccontextmanager
async def playing(
    site: Site, count: int, seed: int, *, is_faulty: bool = False, pace_s: float = 0.0, environment: dict[str, str] | None = None
) -> AsyncIterator[Play]:
    """Starts the service, with two processes that answer and two that deliver. `is_faulty`: endpoints fail now and then."""
    async with site.database.connect() as connection:
        await rewrite_policy(connection, "alarm_queries_per_minute = 2147483647, ends_max = 1000000")
    one, many, pulls = [await site.add_messenger(name) for name in ("one", "many", "pulls")]
    keys = await operator_keys(site)
    async with (
        receiving(one.secret, fail_every=97 if is_faulty else 0) as (at_one, inbox_one),
        receiving(many.secret, drop_every=89 if is_faulty else 0) as (at_many, inbox_many),
    ):
        async with site.database.connect() as connection:
            for messenger, url, batch_max in ((one, at_one.url, 1), (many, at_many.url, 10)):
                change = "UPDATE registry.messenger SET endpoint_url = $2, batch_max = $3 WHERE messenger_id = $1"
                await connection.execute(change, messenger.messenger_id, url, batch_max)
        with serving(site, "--answer", "2", "--deliver", "2", environment=environment) as served:
            addresses = Addresses(served.api, served.base("operator"))
            clients = Clients(addresses, (one, many, pulls), NUMBERS, count, seed, pace_s=pace_s)
            inboxes = {one.messenger_id: inbox_one, many.messenger_id: inbox_many}
            yield Play(site, served, clients, pulls, keys, inboxes)
