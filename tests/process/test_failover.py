"""The primary is lost and its standby promoted: answers within seconds, 503 meanwhile, and nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registryd.domain.identifiers import Msisdn, msisdn_digest
from registryd.store.primary import split_hosts
from tests.conftest import client, eventually
from tests.failover.pair import Pair, pair
from tests.http.test_database_away import Told, assert_never_guessed, frozen, load, more

BACK_WITHIN_S = 5.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as made:
        yield made


async def readyz(running: Pair) -> tuple[int, dict[str, str]]:
    async with client(running.daemon.operator) as session, session.get("/readyz") as response:
        return response.status, (await response.json())["checks"]


async def assert_journaled(running: Pair, told: list[Told]) -> None:
    """Every answer stands in the journal of the new primary."""
    answered = {answer.body["queryId"]: answer for answer in told if answer.status == 200}
    key = running.site.settings.credentials.key("digest-key")
    import asyncpg

    connection = await asyncpg.connect(running.second.dsn(running.site.database.name))
    rows = await connection.fetch("SELECT q.* FROM unnest($1::uuid[]) AS id, registry.find_query(id) AS q", sorted(answered))
    await connection.close()
    found = {str(row["query_id"]): (row["msisdn_digest"], row["present"]) for row in rows}
    assert found == {query: (msisdn_digest(key, Msisdn(answer.number)), answer.body["present"]) for query, answer in answered.items()}


def test_a_frozen_primary_is_left_for_the_promoted_standby_and_never_returned_to(running: Pair) -> None:
    async def run() -> None:
        async with load(running.as_away) as told:
            await more(told, 200, 100)
            with frozen(running.first):
                assert await readyz(running) == (503, {"database": "away", "schema": "unknown"})
                await asyncio.to_thread(running.promote)
                assert await more(told, 200, 100) < BACK_WITHIN_S
                assert await readyz(running) == (200, {"database": "ok", "schema": "ok"})
            # It takes writes again, as one that nobody could stop: what is answered now is journaled at the new one alone.
            pages = running.sql(running.first, "SELECT count(*) FROM registry.journal_page")
            await more(told, 200, 300)
            assert running.sql(running.first, "SELECT count(*) FROM registry.journal_page") == pages
        assert_never_guessed(told)
        await assert_journaled(running, told)

    asyncio.run(run())
