"""What the registry fails on: told once, however many events meet it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from structlog.testing import capture_logs

from registryd.domain.contract import Event, Result
from registryd.domain.identifiers import Msisdn
from registryd.feed.events import ContractFeed
from tests.conftest import TestDatabase

NUMBERS = range(79_160_000_000, 79_160_000_030)


def test_a_fault_that_many_events_meet_is_told_once(database: TestDatabase) -> None:
    database.psql("-c", "ALTER TABLE registry.contract ADD CONSTRAINT odd CHECK (msisdn = 0) NOT VALID")

    async def run() -> list[Result]:
        async with database.pool(1) as pool:
            at = datetime.now(UTC) - timedelta(hours=1)
            return await ContractFeed(pool, b"k" * 32).apply(
                [Event(event_id=f"e{n}", type="activated", msisdn=Msisdn(n), occurred_at=at) for n in NUMBERS]
            )

    with capture_logs() as log:
        results = asyncio.run(run())
    assert {(result.reason or "").split(":")[0] for result in results} == {"registry_failed"}
    assert [line["event"] for line in log] == ["event_failed"]
