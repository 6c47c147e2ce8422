"""What a head that was kept elsewhere shows: an end cut off, a chain made anew, a lost promotion, and only what came after it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from registryd.domain import heads
from registryd.domain.heads import Link
from tests.conftest import TestDatabase
from tests.store.conftest import seal_all, write_page
from tests.store.tampering import KEY, PUBLIC_KEY, REHASH, SEALS, kept_head, populate, verified

CUT_OR_MADE_ANEW = {
    "the end is cut off": (
        "DELETE FROM registry.journal_page WHERE page_id > '{q}'; DELETE FROM registry.seal WHERE sequence >= 5",
        ("head_missing", SEALS + 1),
    ),
    "a page is edited and the whole chain made anew": (
        "UPDATE registry.journal_page SET present = B'010' WHERE page_id = '{q}'; {rehash}",
        ("head_differs", SEALS + 1),
    ),
    "a page is removed and the whole chain made anew": (
        "DELETE FROM registry.journal_page WHERE page_id = '{q}'; {rehash}",
        ("head_differs", SEALS + 1),
    ),
}


@pytest.mark.parametrize("tampering", CUT_OR_MADE_ANEW)
def test_what_the_chain_alone_cannot_show_a_kept_head_does(database: TestDatabase, tampering: str) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            pages = await populate(connection)
            head = await kept_head(database)
            assert (await verified(database, head)).findings == []
            sql, (fault, entry) = CUT_OR_MADE_ANEW[tampering]
            await connection.execute(sql.format(q=pages[2][-1], rehash=REHASH))
            assert (await verified(database)).findings == []
            assert [(f.fault, f.entry) for f in (await verified(database, head)).findings] == [(fault, entry)]

    asyncio.run(run())


def test_a_head_of_before_a_promotion_that_lost_the_end_is_told_as_that(database: TestDatabase) -> None:
    """The seals that were lost, and what the next primary sealed instead, on its own timeline."""

    async def run() -> None:
        async with database.connect() as connection:
            await populate(connection)
            head = await kept_head(database)
            then = {name: link._replace(origin=link.origin._replace(timeline=link.origin.timeline + 7)) for name, link in head.items()}
            await connection.execute("DELETE FROM registry.seal WHERE sequence > 4")
            assert [(f.fault, f.entry) for f in (await verified(database, head)).findings] == [("head_missing", SEALS + 1)]
            assert [(f.fault, f.entry) for f in (await verified(database, then)).findings] == [("head_of_lost_timeline", SEALS + 1)]
            assert await seal_all(connection, datetime.now(UTC) - timedelta(minutes=5)) == 3
            assert [(f.fault, f.entry) for f in (await verified(database, head)).findings] == [("head_differs", SEALS + 1)]
            assert [(f.fault, f.entry) for f in (await verified(database, then)).findings] == [("head_of_lost_timeline", SEALS + 1)]
            # A head that was not lost is none, whatever the timeline is now.
            kept = (await kept_head(database))["journal"]._replace(origin=then["journal"].origin)
            assert (await verified(database, {"journal": kept})).findings == []

    asyncio.run(run())


def test_from_a_kept_head_on_only_what_came_after_is_looked_at(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            pages = await populate(connection)
            head = await kept_head(database)
            now = datetime.now(UTC).replace(second=0, microsecond=0)
            later = await write_page(connection, now - timedelta(minutes=3))
            assert await seal_all(connection, now) == 1
            verdict = await verified(database, head, since=True)
            assert (verdict.seals, verdict.pages, verdict.findings) == (2, 1, [])
            edit = "UPDATE registry.journal_page SET present = B'010' WHERE page_id = $1"
            await connection.execute(edit, pages[0][0])
            assert (await verified(database, head, since=True)).findings == [], "it lies before"
            await connection.execute(edit, later)
            assert [(f.fault, f.entry) for f in (await verified(database, head, since=True)).findings] == [("window_changed", SEALS + 2)]
            stranger = {"journal": head["journal"]._replace(sha256=bytes(32))}
            assert "head_differs" in [f.fault for f in (await verified(database, stranger, since=True)).findings]
            await connection.execute("DELETE FROM registry.seal WHERE sequence = $1", SEALS + 1)
            assert ("entry_missing", SEALS + 1) in [(f.fault, f.entry) for f in (await verified(database, head, since=True)).findings]
            await connection.execute("DELETE FROM registry.seal")
            assert "head_missing" in [f.fault for f in (await verified(database, head, since=True)).findings]

    asyncio.run(run())


def test_only_the_head_keys_owner_makes_a_head_and_the_public_key_is_enough_to_check_it() -> None:
    link = Link(7, datetime(2026, 11, 25, tzinfo=UTC), bytes(32), heads.Origin(2**63 - 1, 3))
    text = heads.signed({"journal": link}, KEY)
    assert heads.opened(text, PUBLIC_KEY) == {"journal": link}
    for forged in (
        text.replace('"sequence":7', '"sequence":6'),
        text.replace("00", "01", 1),
        text.replace('"timeline":3', '"timeline":4'),
        "{}",
        "",
        heads.signed({"journal": link}, bytes(32)),
    ):
        with pytest.raises(heads.BadHead):
            heads.opened(forged, PUBLIC_KEY)
    for stranger in (heads.public_key(bytes(32)), "", "not base64"):
        with pytest.raises(heads.BadHead):
            heads.opened(text, stranger)
