"""A burst of terminations as billing sends it, and two messengers that know every number of it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
from aiohttp.web import Response

from tests.conftest import Site, TestMessenger
from tests.delivery.conftest import FIRST_NUMBER, Lookup, Received, is_verified, listening

TERMINATIONS = 2_000
EVENTS_A_CALL = 100


def calls() -> list[list[dict[str, str]]]:
    """The burst, as billing sends it."""
    events = [
        {
            "eventId": f"burst-{n}",
            "type": "terminated",
            "phoneNumber": f"+{FIRST_NUMBER + n}",
            "occurredAt": "2026-01-02T03:04:05.678Z",
        }
        for n in range(TERMINATIONS)
    ]
    return [events[i : i + EVENTS_A_CALL] for i in range(0, TERMINATIONS, EVENTS_A_CALL)]


async def send(site: Site, operator: str, events: list[dict[str, str]]) -> list[dict[str, Any]] | None:
    """One call; None where no answer came that says what became of it."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with (
            aiohttp.ClientSession(headers=site.operator_headers, timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.post(f"{operator}/operator/v1/contract-events", json={"events": events}) as answer,
        ):
            if answer.status == 200:
                return list((await answer.json())["results"])
            assert answer.status == 503, await answer.text()
    return None


class Inbox:
    """Two messengers that know every number of the burst: one takes notices one by one, the other in batches; neither is quick."""

    def __init__(self, seed: int) -> None:
        self.received: dict[str, list[Received]] = {"single": [], "batch": []}
        self.messengers: dict[str, TestMessenger] = {}
        self._random = random.Random(seed)

    @asynccontextmanager
    async def open(self, site: Site, database: Lookup) -> AsyncIterator[None]:
        async with listening(lambda r: self._answer("single", r)) as single, listening(lambda r: self._answer("batch", r)) as batch:
            self.messengers["single"] = await site.add_messenger("single", single.url)
            self.messengers["batch"] = await site.add_messenger("batch", batch.url, batch_max=7)
            await database.bind(self.messengers["single"], *(f"s{n}" for n in range(TERMINATIONS)))
            await database.run(
                "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)"
                " SELECT msisdn, generation, $1, 'b' || substr(identification_code, 2) FROM registry.binding",
                self.messengers["batch"].messenger_id,
            )
            yield

    async def _answer(self, name: str, received: Received) -> Response:
        self.received[name].append(received)
        await asyncio.sleep(self._random.uniform(0, 0.03))
        return Response(status=204)

    def ids(self) -> dict[str, list[str]]:
        """Every notificationId that came for each code, repeats included."""
        found: dict[str, list[str]] = defaultdict(list)
        for received in itertools.chain(*self.received.values()):
            for notice in received.notifications:
                found[notice["identificationCode"]].append(notice["notificationId"])
        return found

    async def assert_whole(self, database: Lookup) -> int:
        """Every notice came, under one id each, verified and recorded once; returns how many came again."""
        found = self.ids()
        assert set(found) == {f"{prefix}{n}" for prefix in "sb" for n in range(TERMINATIONS)}
        assert {len(set(ids)) for ids in found.values()} == {1}
        for name, received in self.received.items():
            assert all(is_verified(one, self.messengers[name].secret) for one in received[:20] + received[-20:])
        delivered = await database.rows("SELECT identification_code, notification_id::text FROM registry.notification_delivered")
        assert sorted(delivered) == sorted((code, ids[0]) for code, ids in found.items())
        assert await database.pending() == 0
        return sum(map(len, found.values())) - len(found)
