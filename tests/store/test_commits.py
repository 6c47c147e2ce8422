"""What became of a transaction whose answer was lost."""

from __future__ import annotations

import asyncio

import pytest

from registryd.domain.errors import Unavailable
from registryd.store.commits import transaction_id, was_committed
from tests.conftest import TestDatabase


def test_a_commit_that_is_still_under_way_is_in_doubt_until_it_is_decided(database: TestDatabase) -> None:
    """The open transaction is the newest that the server knows of."""

    async def run() -> None:
        async with database.pool() as db, database.connect() as writer:
            for ends, is_committed in (("COMMIT", True), ("ROLLBACK", False)):
                await writer.execute("BEGIN")
                taken = await transaction_id(writer)
                with pytest.raises(Unavailable):
                    await was_committed(db, taken)
                await writer.execute(ends)
                assert await was_committed(db, taken) is is_committed

    asyncio.run(run())


def test_an_id_that_the_server_has_not_come_to_was_not_committed(database: TestDatabase) -> None:
    """After a failover: the former primary gave it out, and the standby has never heard of it."""

    async def run() -> None:
        async with database.pool() as db:
            assert not await was_committed(db, str(1 << 40))

    asyncio.run(run())
