"""A transaction that began before midnight UTC is still open after it: the partitions of the new day cannot be made yet."""

from __future__ import annotations

import asyncio
import time

from tests.conftest import Site, client, daemon, eventually, wait_for

NUMBER = 79_160_000_001


def test_an_instance_starts_and_answers_while_the_partitions_of_the_day_cannot_be_made(site: Site) -> None:
    """Of the journal, of deliveries and of attempts. What is written meanwhile is in its place once they can be made."""
    messenger = asyncio.run(site.add_messenger())
    asyncio.run(site.add_contracts(NUMBER))

    async def journaled(part: str) -> int:
        async with site.database.connect() as dba:
            return int(await dba.fetchval(f"SELECT count(*) FROM registry.journal_page{part}"))

    async def drop_partitions() -> None:
        async with site.database.connect() as dba:
            for row in await dba.fetch("SELECT partition FROM registry.day_partition"):
                await dba.execute(f"DROP TABLE {row['partition']}")

    async def run() -> None:
        await drop_partitions()
        async with site.database.connect() as dump:
            transaction = dump.transaction()
            await transaction.start()
            for table in ("journal_page", "notification_delivered", "delivery_attempt"):
                await dump.fetch(f"SELECT count(*) FROM registry.{table}")
            began = time.monotonic()
            with daemon(site, "answer", "operate") as started:
                async with client(started.api, messenger) as session:
                    answer = await session.post("/v1/presence", json={"phoneNumber": f"+{NUMBER}"})
                    assert (answer.status, (await answer.json())["present"]) == (200, True)
                    assert time.monotonic() - began < 30, "of which the start of two processes takes most"
                assert await journaled("_default") == 1
                missing = wait_for(lambda: [line for line in started.log() if line["event"] == "partitions_missing"])
                assert (missing[0]["level"], bool(missing[0]["waits_for"])) == ("error", True)
                await transaction.rollback()
            with daemon(site, "operate"):
                await eventually(lambda: _is(journaled("_default"), 0))
                assert await journaled("") == 1

    asyncio.run(run())


async def _is(found, wanted: int) -> bool:  # type: ignore[no-untyped-def]
    return bool(await found == wanted)
