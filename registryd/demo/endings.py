"""The demo's number that ends soon: ten seconds after somebody has bound it, billing ends its contract, with a real notice.

Ten seconds later it has its next holder, so that it can be tried again.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from registryd.demo.steps import Scene
from registryd.domain.identifiers import phone_number
from registryd.domain.times import rfc3339
from registryd.store.migrations import connect

LOOK_S = 0.25
DUE = """
SELECT CASE WHEN c.ended_at IS NOT NULL THEN c.ended_at <= now() - interval '10 s'
            ELSE EXISTS (SELECT FROM registry.binding AS b
                          WHERE b.msisdn = c.msisdn AND b.ended_at IS NULL AND b.bound_at <= now() - interval '10 s') END AS is_due,
       c.ended_at IS NULL AS is_live
  FROM registry.contract AS c WHERE c.msisdn = $1 ORDER BY c.generation DESC LIMIT 1
"""


async def end_soon(scene: Scene, msisdn: int) -> None:
    """Ends the number's contract, and gives it the next one, for as long as the demo serves. Raises: DemoError."""
    connection = await connect(scene.site.dsn)
    try:
        while True:
            found = await connection.fetchrow(DUE, msisdn)
            if found is not None and found["is_due"]:
                event = {
                    "eventId": f"demo-{time.time_ns()}",
                    "type": "terminated" if found["is_live"] else "activated",
                    "phoneNumber": phone_number(msisdn),
                    "occurredAt": rfc3339(datetime.now(UTC)),
                }
                await scene.tell_operator([event])
            await asyncio.sleep(LOOK_S)
    finally:
        await connection.close()
