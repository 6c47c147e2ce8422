"""The worst day, scaled down: every contract ends in one statement (`python -m tests.bench worstday`: 2.2 million of them)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from registryd.store.pool import Database
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, add_contracts, add_messengers, ask, bind

CONTRACTS = 10_000
MESSENGERS = 3
MORE_MAX_BYTES = 32 * 1024 * 1024


def private_bytes(pid: int) -> int:
    """What a process holds of its own: not the server's shared buffers."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells RssAnon")


async def one_query(db: Database, messenger_id: int, msisdn: int) -> str:
    _, bits = await ask(db, messenger_id, (msisdn, None))
    return bits


def test_ends_in_one_statement_take_bounded_memory_and_stop_no_query(database: TestDatabase) -> None:
    database.allow_ends()

    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            added = await add_messengers(connection, MESSENGERS)
            await add_contracts(connection, 2 * CONTRACTS)
            for messenger_id in added:
                await bind(connection, messenger_id, 2 * CONTRACTS)
            pid = connection.get_server_pid()
            peaks = []
            answers: set[str] = set()
            for first, count in ((FIRST, CONTRACTS // 4), (FIRST + CONTRACTS, CONTRACTS)):
                transaction = connection.transaction()
                await transaction.start()
                ending = asyncio.create_task(
                    connection.execute(
                        "UPDATE registry.contract SET ended_at = now() WHERE msisdn BETWEEN $1::bigint AND $1 + $2 - 1",
                        first,
                        count,
                    )
                )
                peak = 0
                while not ending.done():
                    peak = max(peak, private_bytes(pid))
                    answers.add(await one_query(db, added[0], first + 7))
                assert await ending == f"UPDATE {count}"
                # Ended, and not committed: the number is still its subscriber's, and nobody waits to be told so.
                answers.add(await one_query(db, added[0], first + 7))
                await transaction.commit()
                assert await one_query(db, added[0], first + 7) == "0"
                peaks.append(peak)
            assert answers == {"1"}
            assert peaks[1] < peaks[0] + MORE_MAX_BYTES, "four times the ends, and no four times the memory"
            assert await connection.fetchval("SELECT count(*) FROM registry.notification") == MESSENGERS * CONTRACTS * 5 // 4

    asyncio.run(run())
