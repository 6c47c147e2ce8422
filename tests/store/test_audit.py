"""Evidence that was edited, deleted, inserted, moved or cut off is found, every time, and named; what policy lets go is not missed."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest

from registryd.domain.chains import LetGo
from tests.conftest import TestDatabase, time_ordered_id
from tests.store.conftest import begin_chain, change_policy, seal_all, write_page
from tests.store.tampering import COPY, PAGES_EACH, REHASH, SEALS, kept_head, populate, verified

TAMPERINGS = {
    # Each is SQL on pages {p}, {q} of seal {s} (its sequence), and what is found: fault, seal and page.
    "an answer is edited": (
        "UPDATE registry.journal_page SET present = B'010' WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a digest is edited": (
        "UPDATE registry.journal_page SET digests = set_byte(digests, 20, 255 - get_byte(digests, 20)) WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a time is edited by a microsecond": (
        "UPDATE registry.journal_page SET answered_at = answered_at + '1 us' WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a late answer is made one in time": (
        "UPDATE registry.journal_page SET waited_ms = '{{0}}' WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a query is given to another messenger": (
        "UPDATE registry.journal_page SET messenger_ids = '{{2}}' WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "an answer is said not to have been told": (
        "UPDATE registry.journal_page SET told = B'011' WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a binding is said not to have come": (
        "UPDATE registry.journal_page SET bound = B'001' WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a rule is said to have turned an answer": (
        "UPDATE registry.journal_page SET turned_by_rule = 1 WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a page is deleted": (
        "DELETE FROM registry.journal_page WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a page is given another id": (
        "UPDATE registry.journal_page SET page_id = '{new}' WHERE page_id = '{p}'",
        [("window_changed", "s", None)],
    ),
    "a page is moved to another window": (
        "UPDATE registry.journal_page SET page_id = registry.id_at(registry.time_of('{p}') + '5 minutes') WHERE page_id = '{p}'",
        [("window_changed", "s", None), ("window_changed", "after s", None)],
    ),
    "a page is inserted": (
        COPY.format(id="{new}"),
        [("window_changed", "s", None)],
    ),
    "a page is inserted where there was none": (
        COPY.format(id="{idle}"),
        [("window_changed", "after s", None)],
    ),
    "a page from another year is inserted": (
        COPY.format(id="{far}"),
        [("page_unsealed", None, "far")],
    ),
    "a page from before the beginning is inserted": (
        COPY.format(id="{old}"),
        [("page_unsealed", None, "old")],
    ),
    "two pages change places": (
        "UPDATE registry.journal_page AS t SET digests = o.digests FROM registry.journal_page AS o "
        "WHERE (t.page_id, o.page_id) IN (('{p}', '{q}'), ('{q}', '{p}'))",
        [("window_changed", "s", None)],
    ),
    "a page is deleted and its seal counts one less": (
        "DELETE FROM registry.journal_page WHERE page_id = '{p}'; UPDATE registry.seal SET pages = pages - 1, queries = queries - 3 "
        "WHERE sequence = {s}",
        [("entry_changed", "s", None), ("window_changed", "s", None)],
    ),
    "a page is edited and its seal made anew": (
        "UPDATE registry.journal_page SET present = B'010' WHERE page_id = '{p}'; CREATE TEMPORARY TABLE kept ON COMMIT PRESERVE ROWS AS "
        "SELECT * FROM registry.seal; {rehash}; UPDATE registry.seal AS t SET previous = k.previous, sha256 = k.sha256 FROM kept AS k "
        "WHERE k.sequence = t.sequence AND t.sequence <> {s}",
        [("entry_changed", "after s", None)],
    ),
    "a seal's window is narrowed, and what lay outside deleted": (
        "DELETE FROM registry.journal_page WHERE page_id >= registry.first_id_at((SELECT from_at FROM registry.seal WHERE sequence = {s})) "
        "AND page_id <= '{p}'; UPDATE registry.seal SET from_at = registry.time_of('{p}') + '1 ms', pages = pages - 1, "
        "queries = queries - 3 WHERE sequence = {s}",
        [("entry_changed", "s", None), ("entry_changed", "s", None), ("window_changed", "s", None)],
    ),
    "a seal's time is edited": (
        "UPDATE registry.seal SET sealed_at = sealed_at - interval '1 day' WHERE sequence = {s}",
        [("entry_changed", "s", None)],
    ),
    "a seal's window is put at the end of time": (
        "UPDATE registry.seal SET until_at = 'infinity' WHERE sequence = {s}",
        [("entry_changed", "s", None), ("entry_changed", "after s", None)],
    ),
    "a seal's timeline is edited": (
        "UPDATE registry.seal SET timeline = 7 WHERE sequence = {s}",
        [("entry_changed", "s", None)],
    ),
    "a seal is deleted with its pages": (
        "DELETE FROM registry.journal_page WHERE page_id >= registry.first_id_at((SELECT from_at FROM registry.seal WHERE sequence = {s})) "
        "AND page_id < registry.first_id_at((SELECT until_at FROM registry.seal WHERE sequence = {s})); "
        "DELETE FROM registry.seal WHERE sequence = {s}",
        [("entry_missing", "s", None)],
    ),
    "two seals change places": (
        "UPDATE registry.seal SET sequence = 1000 WHERE sequence = {s}; UPDATE registry.seal SET sequence = {s} WHERE sequence = {s} + 1; "
        "UPDATE registry.seal SET sequence = {s} + 1 WHERE sequence = 1000",
        [("entry_changed", "s", None)] * 3 + [("entry_changed", "after s", None)] * 3 + [("entry_changed", "two after s", None)] * 2,
    ),
    "the beginning is cut off": (
        "DELETE FROM registry.seal WHERE sequence <= {s}; DELETE FROM registry.journal_page WHERE page_id <= '{last}'",
        [("entry_missing", 1, None)],
    ),
    "the beginning is cut off and called let go": (
        "DELETE FROM registry.journal_page WHERE page_id <= '{last}'; DELETE FROM registry.seal WHERE sequence < {s}; "
        "SELECT registry.append_seal('retention', NULL, 0, 0, sha256(''), '2000-01-03 ' || {s} - 1 || ' ' || encode(previous, 'hex')) "
        "FROM registry.seal WHERE sequence = {s}",
        [("retention_early", "last", None), ("window_changed", "s", None)],
    ),
    "policy is said to have let pages go that it keeps": (
        "DELETE FROM registry.journal_page; SELECT registry.append_seal('retention', NULL, 0, 0, sha256(''), '2100-01-04 0 ')",
        [("retention_early", "last", None)],
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_what_was_tampered_with_is_found_and_named(database: TestDatabase, tampering: str) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            pages = await populate(connection)
            before = await verified(database)
            assert (before.seals, before.pages, before.findings) == (SEALS + 1, SEALS * PAGES_EACH, [])
            sql, expected = TAMPERINGS[tampering]
            sequence, (p, q, *_, last) = 5, pages[3]
            ids = {
                "new": UUID(str(p)[:-4] + "0100"),
                "idle": time_ordered_id((q.int >> 80) + 120_000, bytes(10)),
                "far": time_ordered_id(int(datetime(2040, 1, 1, tzinfo=UTC).timestamp() * 1000), bytes(10)),
                "old": time_ordered_id((pages[0][0].int >> 80) - 3_600_000, bytes(10)),
            }
            await connection.execute(sql.format(p=p, q=q, last=last, s=sequence, rehash=REHASH, **ids))
            names = {page_id: name for name, page_id in ids.items()}
            entries = {sequence: "s", sequence + 1: "after s", sequence + 2: "two after s", SEALS + 2: "last"}
            found = (await verified(database)).findings
            shown = [(f.fault, entries.get(f.entry or 0, f.entry), names.get(f.page_id) if f.page_id else None) for f in found]
            assert sorted(shown, key=repr) == sorted(expected, key=repr)  # type: ignore[call-overload]

    asyncio.run(run())


def test_an_interrupted_verification_goes_on_from_the_day_it_reached(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=3)
            await begin_chain(connection, noon)
            written = [await write_page(connection, noon + timedelta(days=days)) for days in range(3)]
            await seal_all(connection)
            reached: list[tuple[date, int, int]] = []
            verdict = await verified(database, progress=lambda *told: reached.append(told))
            assert (verdict.pages, verdict.findings) == (3, [])
            assert (reached[-1][0], reached[-1][1:]) == (datetime.now(UTC).date(), (3, 3))
            for page_id in written:
                await connection.execute("UPDATE registry.journal_page SET present = B'011' WHERE page_id = $1", page_id)
            assert len((await verified(database)).findings) == 3
            last = await verified(database, from_day=(noon + timedelta(days=2)).date())
            assert (last.pages, [f.fault for f in last.findings]) == (1, ["window_changed"])
            assert last.seals == verdict.seals, "the chain is walked whole"

    asyncio.run(run())


def test_pages_that_nothing_seals_for_an_hour_are_told(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            now = datetime.now(UTC)
            await begin_chain(connection, now - timedelta(hours=3))
            left = await write_page(connection, now - timedelta(hours=2))
            await write_page(connection, now - timedelta(minutes=30))
            assert [(f.fault, f.page_id) for f in (await verified(database)).findings] == [("page_unsealed", left)]
            await seal_all(connection)
            assert (await verified(database)).findings == []

    asyncio.run(run())


def test_the_chain_stays_whole_when_weeks_go_by_policy_and_says_what_went(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            now = datetime.now(UTC)
            monday = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=now.weekday())
            await begin_chain(connection, monday - timedelta(days=22))
            heads_then = []
            for weeks in (3, 2, 1, 0):
                # The last second of a week and the first of the next.
                for seconds in (-1, 0):
                    await write_page(connection, monday - timedelta(weeks=weeks, seconds=-seconds))
                await seal_all(connection, monday - timedelta(weeks=weeks, minutes=-2))
                heads_then.append(await kept_head(database))
            assert (await verified(database)).findings == []
            await change_policy(connection, journal_kept=f"{(now - monday).days + 8} days")  # into the week before last
            assert await app.fetchval("SELECT registry.drop_part('journal_page')") == (monday - timedelta(weeks=4)).date()
            between = await verified(database)
            assert (between.findings, between.dropped_before) == ([], (monday - timedelta(weeks=3)).date())
            assert await app.fetchval("SELECT registry.drop_part('journal_page')") == (monday - timedelta(weeks=3)).date()
            assert await app.fetchval("SELECT registry.drop_part('journal_page')") is None
            verdict = await verified(database)
            assert (verdict.findings, verdict.dropped_before, verdict.pages) == ([], (monday - timedelta(weeks=2)).date(), 5)
            policy = await connection.fetchrow(
                "SELECT effective_from, recorded_at FROM registry.policy ORDER BY effective_from DESC LIMIT 1"
            )
            assert policy is not None
            effective_from, recorded_at = policy
            kept = f"{(now - monday).days + 8} days"
            last = await connection.fetchval("SELECT max(sequence) FROM registry.seal")
            assert verdict.let_go == [LetGo(effective_from, recorded_at, kept, last - 1, last, (monday - timedelta(weeks=2)).date())]
            # The first seal that is left is of what went, so that none that had to be kept can be missing.
            first = await connection.fetchrow("SELECT sequence, until_at FROM registry.seal ORDER BY sequence LIMIT 1")
            assert first is not None
            assert first["until_at"] == monday - timedelta(weeks=2)
            found = [[f.fault for f in (await verified(database, head)).findings] for head in heads_then]
            assert found == [["head_missing"], [], [], []]
            # What goes beyond what was said is missed.
            await connection.execute(f"DROP TABLE registry.journal_page_{monday - timedelta(weeks=1):%Y%m%d}")
            assert {f.fault for f in (await verified(database)).findings} == {"window_changed"}
            await connection.execute("DELETE FROM registry.seal WHERE sequence = $1", first["sequence"])
            assert ("entry_missing", 1) in [(f.fault, f.entry) for f in (await verified(database)).findings]

    asyncio.run(run())
