"""Sixteen clients over HTTP: what each asked, when, and what it was told. Who has no answer waits a second or so."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from typing import Any, NamedTuple

import aiohttp

from registryd.client.receiver import Receipt
from registryd.store import keys
from tests.conftest import Site, TestMessenger
from tests.history.audit import Notice
from tests.history.checker import Operation

CLIENTS = 16
SHARES = {"bind": 60, "ask": 10, "terminate": 15, "activate": 15}
PULL_S = 0.5
RETRY_S = 1.0


class Addresses(NamedTuple):
    api: str
    operator: str


class Clients:
    """Runs so many operations. `operations` then holds them with their numbers; `told` counts answers and refusals."""

    def __init__(
        self,
        addresses: Addresses,
        messengers: Sequence[TestMessenger],
        numbers: Sequence[int],
        count: int,
        seed: int,
        *,
        pace_s: float = 0.0,
    ) -> None:
        """`pace_s`: from one operation of a client to its next, at least."""
        self.operations: list[tuple[int, Operation]] = []
        self.told: Counter[str] = Counter()
        self.pulled: list[Notice] = []
        self.answered: dict[str, bool] = {}
        """Whether the number was present, by the query's id."""
        self.applied: list[str] = []
        """The ids of the events that were acknowledged as applied."""
        self._addresses = addresses
        self._messengers = messengers
        self._numbers = numbers
        self._left = count
        self._seed = seed
        self._names = 0
        self._pace_s = pace_s

    async def run(self, operator_keys: Sequence[str]) -> None:
        await asyncio.gather(*(self._client(random.Random(f"{self._seed} {i}"), key) for i, key in enumerate(operator_keys)))

    def stop(self) -> None:
        self._left = 0

    def answered_at(self, since: float) -> list[float]:
        """When queries were answered since then, in order."""
        return sorted(op.ended for _, op in self.operations if op.kind in ("ask", "bind") and op.told is not None and op.ended > since)

    def no_answer_for(self, since: float) -> float:
        """The longest time between two answers."""
        return max((after - before for before, after in itertools.pairwise(self.answered_at(since))), default=inf)

    def longest_s(self, since: float) -> float:
        """The longest that a request took which ended since then."""
        return max((op.ended - op.began for _, op in self.operations if op.ended > since), default=0.0)

    async def _client(self, random_: random.Random, operator_key: str) -> None:
        async with (
            aiohttp.ClientSession(self._addresses.api) as api,
            aiohttp.ClientSession(self._addresses.operator, headers={"Authorization": f"Bearer {operator_key}"}) as operator,
        ):
            while self._left > 0:
                self._left -= 1
                began = time.monotonic()
                # Some numbers are asked for much more often than others, so that operations on one number overlap.
                number = self._numbers[int(len(self._numbers) * random_.random() ** 3)]
                kind = random_.choices(list(SHARES), list(SHARES.values()))[0]
                if kind in ("bind", "ask"):
                    has_answer = await self._ask(api, random_.choice(self._messengers), number, kind)
                else:
                    has_answer = await self._event(operator, number, kind)
                wait_s = began + self._pace_s - time.monotonic() if has_answer else RETRY_S * random_.uniform(0.5, 1.5)
                if wait_s > 0:
                    await asyncio.sleep(wait_s)

    def _fresh(self, what: str) -> str:
        self._names += 1
        return f"{what}{self._names}"

    async def _ask(self, api: aiohttp.ClientSession, messenger: TestMessenger, number: int, kind: str) -> bool:
        """Returns whether there was an answer."""
        code = self._fresh("c") if kind == "bind" else ""
        body = {"phoneNumber": f"+{number}"} | ({"identificationCode": code} if code else {})
        began = time.monotonic()
        status, answer = await self._post(api, "/v1/presence", body, messenger.headers)
        ended = time.monotonic()
        if status == 200:
            told = answer["binding"] or ("present" if answer["present"] else "absent")
            self.answered[answer["queryId"]] = answer["present"]
        elif status == 429:
            return True
        else:
            told = None
        self._note(number, Operation(kind, began, ended, told, messenger.messenger_id, code))  # type: ignore[arg-type] # of SHARES
        return told is not None

    async def _event(self, operator: aiohttp.ClientSession, number: int, kind: str) -> bool:
        """Returns whether there was an answer."""
        at = datetime.now(UTC)
        types = {"terminate": "terminated", "activate": "activated"}
        event = {"eventId": self._fresh("e"), "type": types[kind], "phoneNumber": f"+{number}", "occurredAt": at.isoformat()}
        began = time.monotonic()
        status, answer = await self._post(operator, "/operator/v1/contract-events", {"events": [event]}, {})
        ended = time.monotonic()
        told: str | None = None
        if status == 200:
            outcome = answer["results"][0]["outcome"]
            self.told[outcome] += 1
            # Refused or not yet: it has changed nothing.
            told = "applied" if outcome == "applied" else "nothing"
        elif status == 429:
            return True
        if told == "applied":
            self.applied.append(event["eventId"])
        op = Operation(kind, began, ended, told, code=event["eventId"], at=at.timestamp())  # type: ignore[arg-type] # of SHARES
        self._note(number, op)
        return told is not None

    async def _post(self, session: aiohttp.ClientSession, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        try:
            async with session.post(path, json=body, headers=headers) as response:
                answer = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, TimeoutError):
            status, answer = 0, None
        if status != 200:
            self.told[f"status {status}"] += 1
        return status, answer

    def _note(self, number: int, op: Operation) -> None:
        self.operations.append((number, op))
        self.told[f"{op.kind} {op.told}"] += 1

    async def pull(self, messenger: TestMessenger, over: asyncio.Event) -> None:
        """What a messenger without an endpoint does, until `over` and there is nothing left."""
        async with aiohttp.ClientSession(self._addresses.api, headers=messenger.headers) as api:
            while True:
                is_over = over.is_set()
                with suppress(aiohttp.ClientError, TimeoutError):  # the database, or the whole service, may be away
                    async with api.get("/v1/notifications", params={"limit": 1000}) as response:
                        owed = (await response.json())["notifications"] if response.status == 200 else None
                    if owed == [] and is_over:
                        return
                    if owed:
                        self.pulled += [notice_of(messenger.messenger_id, item) for item in owed]
                        ids = [item["notificationId"] for item in owed]
                        async with api.post("/v1/notifications/acknowledge", json={"notificationIds": ids}) as response:
                            await response.read()
                await asyncio.sleep(PULL_S)


def notice_of(messenger_id: int, item: dict[str, Any]) -> Notice:
    return Notice(item["notificationId"], messenger_id, item["generation"], item["identificationCode"])


def pushed(messenger_id: int, receipts: Sequence[Receipt]) -> list[Notice]:
    return [notice_of(messenger_id, item) for receipt in receipts if receipt.kind == "binding.terminated" for item in receipt.notifications]


def acknowledged(receipts: Sequence[Receipt]) -> list[Receipt]:
    """Those that were authentic and answered 2xx."""
    return [receipt for receipt in receipts if receipt.verified and 200 <= receipt.status < 300]


async def operator_keys(site: Site) -> list[str]:
    """A key for each client: a key has a budget of calls a minute."""
    made = [keys.new_key("ok") for _ in range(CLIENTS)]
    async with site.database.connect() as connection:
        await connection.executemany(
            "INSERT INTO registry.operator_key (key_id, name, scopes, secret_sha256) VALUES ($1, $2, '{feed}', $3)",
            [(key.key_id, f"client-{key.key_id}", key.secret_sha256) for key in made],
        )
    return [key.shown for key in made]
