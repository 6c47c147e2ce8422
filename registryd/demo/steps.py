"""The steps of the demo's story. Each is the real thing over the wire, and tells whether it came out as it should."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from registryd.client.receiver import Receipt, Receiver
from registryd.demo.site import DemoError, Examples, Site
from registryd.domain.identifiers import phone_number
from registryd.domain.times import rfc3339

RECEIPT_TIMEOUT_S = 20.0


@dataclass
class Scene:
    """What the steps share. `keep` is what a used data directory remembers: the messenger's key and which numbers were told of."""

    site: Site
    api: str
    operator: str
    health: dict[str, str]
    """By process."""
    account: dict[str, Any]
    examples: Examples
    receiver: Receiver
    http: aiohttp.ClientSession
    receipts: asyncio.Queue[Receipt]
    told: int

    @property
    def number(self) -> int:
        return self.nth(0)

    def nth(self, further: int) -> int:
        """A number that no story on this directory has ended, nor the next `further` ones end."""
        numbers = self.examples.of_the_story
        return numbers[(self.told + further) % len(numbers)]

    @property
    def code(self) -> str:
        return f"user-{self.number % 100_000:05d}"

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A messenger's request. Raises: DemoError."""
        return await self._post(self.api + path, self.account["apiKey"], body)

    async def tell_operator(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """Billing's request. Raises: DemoError."""
        return await self._post(self.operator + "/operator/v1/contract-events", self.site.operator_key, {"events": events})

    async def _post(self, url: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.http.post(url, json=body, headers={"Authorization": f"Bearer {token}"}) as response:
            answer = await response.json(content_type=None)
            if response.status >= 300:
                raise DemoError(f"{url}: {response.status} {answer.get('detail')}")
            return dict(answer)


async def _query_present(scene: Scene) -> tuple[bool, str]:
    answer = await scene.post("/v1/presence", {"phoneNumber": phone_number(scene.number)})
    return answer["present"] is True, f"POST /v1/presence {phone_number(scene.number)} → present: {answer['present']}"


async def _bind(scene: Scene) -> tuple[bool, str]:
    answer = await scene.post("/v1/bindings", {"phoneNumber": phone_number(scene.number), "identificationCode": scene.code})
    return answer["binding"] == "recorded", f"POST /v1/bindings {scene.code} → {answer['binding']} at {answer['boundAt']}"


async def _query_absent(scene: Scene) -> tuple[bool, str]:
    number = phone_number(scene.examples.never_issued)
    answer = await scene.post("/v1/presence", {"phoneNumber": number})
    return answer["present"] is False, f"POST /v1/presence {number} → present: {answer['present']}"


async def _batch(scene: Scene) -> tuple[bool, str]:
    e = scene.examples
    expected = [
        ("an individual's", scene.number, True),
        ("an organisation's without a registered end user", e.unregistered, False),
        ("suspended", e.suspended, True),
        ("recycled, of a later holder", e.recycled, True),
        ("ended", e.ended, False),
        ("never issued", e.never_issued, False),
    ]
    asked = [(kind, number, present) for kind, number, present in expected if number]
    answer = await scene.post("/v1/presence/batch", {"queries": [{"phoneNumber": phone_number(number)} for _, number, _ in asked]})
    told = [result["present"] for result in answer["results"]]
    lines = [f"{'present' if present else 'absent ':<7}  {kind}" for (kind, _, _), present in zip(asked, told, strict=True)]
    return told == [present for _, _, present in asked], f"POST /v1/presence/batch → {len(told)} answers\n" + "\n".join(
        f"{'':14}{x}" for x in lines
    )


async def _terminate(scene: Scene) -> tuple[bool, str]:
    now = datetime.now(UTC)
    event = {
        "eventId": f"demo-{time.time_ns()}",
        "type": "terminated",
        "phoneNumber": phone_number(scene.number),
        "occurredAt": rfc3339(now - timedelta(seconds=1)),
    }
    answer = await scene.tell_operator([event])
    outcome = answer["results"][0]["outcome"]
    return outcome == "applied", f"POST /operator/v1/contract-events terminated → {outcome}"


async def _notified(scene: Scene) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(RECEIPT_TIMEOUT_S):
            while (receipt := await scene.receipts.get()).kind != "binding.terminated":
                pass  # a data directory of yesterday is owed a digest, too
    except TimeoutError:
        return False, f"nothing came within {RECEIPT_TIMEOUT_S:g} s"
    notice = receipt.notifications[0]
    good = receipt.verified and notice["identificationCode"] == scene.code
    return good, (
        f"{scene.receiver.url} got {receipt.kind} {receipt.webhook_id}: signature {'verified' if receipt.verified else receipt.problem}; "
        f"{notice['identificationCode']}, due {notice['deadlineAt']}"
    )


async def _report(scene: Scene) -> tuple[bool, str]:
    # The receipt is settled a moment after it is given.
    for _ in range(100):
        rows = await asyncio.to_thread(scene.site.run, "report", "notification_deadline", as_json=True)
        if rows and all(row["pending"] == 0 for row in rows):
            break
        await asyncio.sleep(0.1)
    good = bool(rows) and all(row["late"] == row["overdue"] == row["pending"] == 0 for row in rows)
    table = await asyncio.to_thread(scene.site.run, "report", "notification_deadline")
    return good, "registryd report notification_deadline\n" + table.rstrip()


STEPS: tuple[tuple[str, Callable[[Scene], Awaitable[tuple[bool, str]]]], ...] = (
    ("a messenger asks for a subscriber's number", _query_present),
    ("it tells its user's identification code: a binding", _bind),
    ("it asks for a number never issued", _query_absent),
    ("a batch, one number of each kind", _batch),
    ("billing says that the contract ended", _terminate),
    ("the messenger is notified, signed", _notified),
    ("the DBA's report", _report),
)
