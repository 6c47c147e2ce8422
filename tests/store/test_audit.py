"""Evidence that was edited, deleted, inserted, moved or cut off is found, every time, and named; what policy lets go is not missed."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from registryd.domain import heads
from registryd.domain.heads import Link
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn, time_ordered_id
from registryd.domain.presence import PresenceQuery
from registryd.keep import erasure
from registryd.presence.answerer import Answerer
from registryd.presence.sealing import SEARCHED_S, Sealer
from registryd.store import audit
from registryd.store.audit import LetGo, Verdict
from registryd.store.digest_keys import DigestKey
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers, change_policy

KEY = bytes(range(32))
PUBLIC_KEY = heads.public_key(KEY)
SEALS, PAGES_EACH = 6, 4


async def write_page(connection: Connection, at: datetime, queries: int = 3) -> UUID:
    page_id = time_ordered_id(int(at.timestamp() * 1000), secrets.token_bytes(10))
    await connection.execute(
        "INSERT INTO registry.journal_page "
        "VALUES ($1, $2, $2::timestamptz + '1 ms', 1, $3, 1, 2, $4, ('1' || repeat('0', $3 - 1))::varbit)",
        page_id,
        at,
        queries,
        secrets.token_bytes(16 * queries),
    )
    return page_id


async def seal(connection: Connection, page_ids: Sequence[UUID]) -> list[UUID]:
    return list(await connection.fetchval("SELECT registry.seal_pages($1)", page_ids))


async def begin_before(connection: Connection, days: int) -> None:
    """As if the chain had begun so many days ago: its first seal is made anew."""
    await connection.execute("DELETE FROM registry.seal; SELECT registry.append_seal('begin', '{}', '{}', 'a test')")
    await connection.execute("UPDATE registry.seal SET sealed_at = now() - make_interval(days => $1)", days)
    await connection.execute(REHASH)
    day = datetime.now(UTC).date() - timedelta(days=days)
    await connection.execute("UPDATE registry.retention SET closed_through = $1", day - timedelta(days=1))
    await connection.execute("SELECT registry.make_partitions($1, $2)", day, days + 1)


REHASH = """
DO $$ DECLARE s registry.seal; before bytea := decode(repeat('00', 32), 'hex'); BEGIN
    FOR s IN SELECT * FROM registry.seal ORDER BY sequence LOOP
        UPDATE registry.seal SET previous = before,
               marks = (SELECT coalesce(string_agg(substring(registry.page_sha256(p) FROM 1 FOR 4), '' ORDER BY u.place), '')
                          FROM unnest(page_ids) WITH ORDINALITY AS u(id, place) JOIN registry.journal_page AS p ON p.page_id = u.id),
               content = (SELECT sha256(coalesce(string_agg(registry.page_sha256(p), '' ORDER BY u.place), ''))
                            FROM unnest(page_ids) WITH ORDINALITY AS u(id, place) JOIN registry.journal_page AS p ON p.page_id = u.id)
         WHERE sequence = s.sequence;
        UPDATE registry.seal SET sha256 = sha256(previous || int8send(sequence) || timestamptz_send(sealed_at)
                                                 || array_send(page_ids) || marks || content || convert_to(kind::text || note, 'UTF8'))
         WHERE sequence = s.sequence RETURNING sha256 INTO before;
    END LOOP;
END $$
"""
"""What the database's owner can do: make the whole chain anew over what there is now."""


async def populate(connection: Connection) -> list[list[UUID]]:
    """A chain over an hour, some minutes old: the pages of each seal."""
    await begin_before(connection, 1)
    start = datetime.now(UTC) - timedelta(hours=1)
    pages = []
    for number in range(SEALS):
        written = [await write_page(connection, start + timedelta(minutes=5 * number, seconds=n)) for n in range(PAGES_EACH)]
        assert await seal(connection, written) == sorted(written)
        pages.append(sorted(written))
    return pages


async def verified(database: TestDatabase, kept: dict[str, Link] | None = None) -> Verdict:
    async with audit.reading(database.dsn(), None) as connection:
        return await audit.verify(connection, kept or {})


async def kept_head(database: TestDatabase) -> dict[str, Link]:
    async with audit.reading(database.dsn(), None) as connection:
        return heads.opened(heads.signed(await audit.read_heads(connection), KEY), PUBLIC_KEY)


COPY = (
    "INSERT INTO registry.journal_page SELECT '{id}', received_at, answered_at, messenger_id, queries, present_count, digest_key, digests, "
    "present FROM registry.journal_page WHERE page_id = '{{p}}'"
)

TAMPERINGS = {
    # Each is SQL on pages {p}, {q} of seal {s} (its sequence), and what is found: fault, seal and page.
    "an answer is edited": (
        "UPDATE registry.journal_page SET present = B'010' WHERE page_id = '{p}'",
        [("page_changed", "s", "p")],
    ),
    "a digest is edited": (
        "UPDATE registry.journal_page SET digests = set_byte(digests, 20, 255 - get_byte(digests, 20)) WHERE page_id = '{p}'",
        [("page_changed", "s", "p")],
    ),
    "a time is edited by a microsecond": (
        "UPDATE registry.journal_page SET answered_at = answered_at + '1 us' WHERE page_id = '{p}'",
        [("page_changed", "s", "p")],
    ),
    "a query is given to another messenger": (
        "UPDATE registry.journal_page SET messenger_id = 2 WHERE page_id = '{p}'",
        [("page_changed", "s", "p")],
    ),
    "a page is deleted": (
        "DELETE FROM registry.journal_page WHERE page_id = '{p}'",
        [("page_missing", "s", "p")],
    ),
    "a page is given another id": (
        "UPDATE registry.journal_page SET page_id = '{new}' WHERE page_id = '{p}'",
        [("page_missing", "s", "p"), ("page_unsealed", None, "new")],
    ),
    "a page is inserted": (
        COPY.format(id="{new}"),
        [("page_unsealed", None, "new")],
    ),
    "a page from another year is inserted": (
        COPY.format(id="{far}"),
        [("page_unsealed", None, "far")],
    ),
    "two pages change places": (
        "UPDATE registry.journal_page AS t SET digests = o.digests FROM registry.journal_page AS o "
        "WHERE (t.page_id, o.page_id) IN (('{p}', '{q}'), ('{q}', '{p}'))",
        [("page_changed", "s", "p"), ("page_changed", "s", "q")],
    ),
    "a seal's pages change places": (
        "UPDATE registry.seal SET page_ids = (SELECT array_agg(u ORDER BY u DESC) FROM unnest(page_ids) AS u), "
        "marks = substring(marks FROM 13) || substring(marks FROM 9 FOR 4) || substring(marks FROM 5 FOR 4) || substring(marks FOR 4) "
        "WHERE sequence = {s}",
        [("entry_changed", "s", None)] * 2,
    ),
    "a page is struck from its seal and deleted": (
        "UPDATE registry.seal SET page_ids = array_remove(page_ids, '{p}'), marks = substring(marks FROM 5) WHERE sequence = {s}; "
        "DELETE FROM registry.journal_page WHERE page_id = '{p}'",
        [("entry_changed", "s", None), ("entry_changed", "s", None)],
    ),
    "a page is edited with its mark": (
        "UPDATE registry.journal_page SET present = B'010' WHERE page_id = '{p}'; UPDATE registry.seal SET marks = "
        "(SELECT substring(registry.page_sha256(j) FOR 4) FROM registry.journal_page AS j WHERE page_id = '{p}') "
        "|| substring(marks FROM 5) WHERE sequence = {s}",
        [("entry_changed", "s", None)] * 2,
    ),
    "a page is edited and its seal made anew": (
        "UPDATE registry.journal_page SET present = B'010' WHERE page_id = '{p}'; CREATE TEMPORARY TABLE kept ON COMMIT PRESERVE ROWS AS "
        "SELECT * FROM registry.seal; {rehash}; UPDATE registry.seal AS t SET previous = k.previous, sha256 = k.sha256 FROM kept AS k "
        "WHERE k.sequence = t.sequence AND t.sequence <> {s}",
        [("entry_changed", "after s", None)],
    ),
    "a page is called one that the policy let go, and deleted": (
        "UPDATE registry.seal SET page_ids[1] = '00000000-0000-7000-8000-000000000000' WHERE sequence = {s}; "
        "DELETE FROM registry.journal_page WHERE page_id = '{p}'; "
        "SELECT registry.append_seal('retention', '{{}}', '{{}}', '2000-01-01')",
        [("entry_changed", "s", None)],
    ),
    "a page is struck from its seal by a NULL and deleted": (
        "UPDATE registry.seal SET page_ids[2] = NULL WHERE sequence = {s}; DELETE FROM registry.journal_page WHERE page_id = '{q}'",
        [("entry_changed", "s", None), ("page_missing", "s", None)],
    ),
    "a seal's mark is edited": (
        "UPDATE registry.seal SET marks = set_byte(marks, 0, 255 - get_byte(marks, 0)) WHERE sequence = {s}",
        [("entry_changed", "s", None), ("page_changed", "s", "p")],
    ),
    "a seal's time is edited": (
        "UPDATE registry.seal SET sealed_at = sealed_at - interval '1 day' WHERE sequence = {s}",
        [("entry_changed", "s", None)],
    ),
    "a seal is deleted with its pages": (
        "DELETE FROM registry.journal_page WHERE page_id = ANY((SELECT page_ids FROM registry.seal WHERE sequence = {s})::uuid[]); "
        "DELETE FROM registry.seal WHERE sequence = {s}",
        [("entry_missing", "s", None)],
    ),
    "two seals change places": (
        "UPDATE registry.seal SET sequence = 1000 WHERE sequence = {s}; UPDATE registry.seal SET sequence = {s} WHERE sequence = {s} + 1; "
        "UPDATE registry.seal SET sequence = {s} + 1 WHERE sequence = 1000",
        [("entry_changed", "s", None)] * 2 + [("entry_changed", "after s", None)] * 2 + [("entry_changed", "two after s", None)],
    ),
    "the beginning is cut off": (
        "DELETE FROM registry.seal WHERE sequence <= {s}; DELETE FROM registry.journal_page WHERE page_id <= '{q}'",
        [("entry_missing", 1, None)],
    ),
    "the beginning is cut off and called forgotten": (
        "DELETE FROM registry.journal_page WHERE page_id <= '{q}'; DELETE FROM registry.seal WHERE sequence < {s}; "
        "SELECT registry.append_seal('forgotten', '{{}}', '{{}}', {s} - 1 || ' ' || encode(previous, 'hex')) "
        "FROM registry.seal WHERE sequence = {s}",
        [("retention_early", "last", None), ("page_missing", "s", "p"), ("page_missing", "s", "q")],
    ),
    "the end is cut off and its pages left": (
        "DELETE FROM registry.seal WHERE sequence > {s}",
        [("page_unsealed", None, "any")] * 2 * PAGES_EACH,
    ),
    "policy is said to have let pages go that it keeps": (
        "DELETE FROM registry.journal_page; SELECT registry.append_seal('retention', '{{}}', '{{}}', '2100-01-01')",
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
            sequence, (p, q, *_) = 5, pages[3]
            new, far = str(p)[:-4] + "0100", time_ordered_id(int(datetime(2040, 1, 1, tzinfo=UTC).timestamp() * 1000), bytes(10))
            await connection.execute(sql.format(p=p, q=q, s=sequence, new=new, far=far, rehash=REHASH))
            names = {str(p): "p", str(q): "q", new: "new", str(far): "far"}
            entries = {sequence: "s", sequence + 1: "after s", sequence + 2: "two after s", SEALS + 2: "last"}
            found = (await verified(database)).findings
            shown = [(f.fault, entries.get(f.entry or 0, f.entry), names.get(str(f.page_id), "any") if f.page_id else None) for f in found]
            assert sorted(shown, key=repr) == sorted(expected, key=repr)  # type: ignore[call-overload]

    asyncio.run(run())


CUT_OR_MADE_ANEW = {
    "the end is cut off": (
        "DELETE FROM registry.journal_page WHERE page_id > '{q}'; DELETE FROM registry.seal WHERE sequence >= 5; {rehash}",
        ("head_missing", SEALS + 1),
    ),
    "a page is edited and the whole chain made anew": (
        "UPDATE registry.journal_page SET present = B'010' WHERE page_id = '{q}'; {rehash}",
        ("head_differs", SEALS + 1),
    ),
    "a page is removed and the whole chain made anew": (
        "DELETE FROM registry.journal_page WHERE page_id = '{q}'; UPDATE registry.seal SET page_ids = array_remove(page_ids, '{q}'), "
        "marks = substring(marks FROM 5) WHERE '{q}' = ANY(page_ids); {rehash}",
        ("head_differs", SEALS + 1),
    ),
}


@pytest.mark.parametrize("tampering", CUT_OR_MADE_ANEW)
def test_what_the_chain_alone_cannot_show_a_kept_head_does(database: TestDatabase, tampering: str) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            pages = await populate(connection)
            head = await kept_head(database)
            await seal(connection, [await write_page(connection, datetime.now(UTC) - timedelta(minutes=2))])
            assert (await verified(database, head)).findings == []
            sql, (fault, entry) = CUT_OR_MADE_ANEW[tampering]
            await connection.execute("DELETE FROM registry.seal WHERE sequence > $1", SEALS + 1)
            await connection.execute(
                f"DELETE FROM registry.journal_page WHERE received_at > now() - interval '5 minutes'; {sql}".format(
                    q=pages[2][-1], rehash=REHASH
                )
            )
            assert (await verified(database)).findings == []
            assert [(f.fault, f.entry) for f in (await verified(database, head)).findings] == [(fault, entry)]

    asyncio.run(run())


def test_only_the_head_keys_owner_makes_a_head_and_the_public_key_is_enough_to_check_it() -> None:
    link = Link(7, datetime(2026, 11, 25, tzinfo=UTC), bytes(32))
    text = heads.signed({"journal": link}, KEY)
    assert heads.opened(text, PUBLIC_KEY) == {"journal": link}
    for forged in (
        text.replace('"sequence":7', '"sequence":6'),
        text.replace("00", "01", 1),
        "{}",
        "",
        heads.signed({"journal": link}, bytes(32)),
    ):
        with pytest.raises(heads.BadHead):
            heads.opened(forged, PUBLIC_KEY)
    for stranger in (heads.public_key(bytes(32)), "", "not base64"):
        with pytest.raises(heads.BadHead):
            heads.opened(text, stranger)


def test_a_worker_seals_what_it_wrote_late_commits_too_and_nothing_else(database: TestDatabase) -> None:
    async def run() -> None:
        now = 0.0
        async with database.connect() as connection, database.connect() as late, database.pool() as db:
            sealer = Sealer(db, clock=lambda: now)
            at = datetime.now(UTC) - timedelta(minutes=2)
            foreign = await write_page(connection, at)
            never = time_ordered_id(0, bytes(10))
            transaction = late.transaction()
            await transaction.start()
            slow = await write_page(late, at)
            quick = await write_page(connection, at)
            sealer.note([slow, never, quick])
            await sealer.seal()

            async def covered() -> list[UUID]:
                return list(await connection.fetchval("SELECT coalesce(array_agg(u), '{}') FROM registry.seal, unnest(page_ids) AS u"))

            assert await covered() == [quick]
            await transaction.commit()
            await sealer.seal()
            assert await covered() == [quick, slow]
            now = SEARCHED_S + 1
            await sealer.seal()
            await write_page(connection, at)
            assert await covered() == [quick, slow]
            assert foreign not in await covered()
            count = await connection.fetchval("SELECT count(*) FROM registry.seal")
            await sealer.seal()  # nothing is left to seal, so nothing is written
            assert await connection.fetchval("SELECT count(*) FROM registry.seal") == count

    asyncio.run(run())


def test_workers_that_seal_at_once_make_one_chain(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool(4) as db:
            await begin_before(connection, 1)
            start = datetime.now(UTC) - timedelta(minutes=10)
            sealers = [Sealer(db) for _ in range(4)]
            for n in range(40):
                sealers[n % 4].note([await write_page(connection, start + timedelta(seconds=n))])
                if n % 8 == 7:
                    await asyncio.gather(*(sealer.seal() for sealer in sealers))
            verdict = await verified(database)
            assert (verdict.seals, verdict.pages, verdict.findings) == (1 + 4 * 5, 40, [])

    asyncio.run(run())


def test_pages_of_a_killed_worker_are_reported_until_they_are_adopted_for_a_reason(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            await populate(connection)
            left = await write_page(connection, datetime.now(UTC) - timedelta(minutes=3))
            await write_page(connection, datetime.now(UTC))  # its worker has still time
            assert [(f.fault, f.page_id) for f in (await verified(database)).findings] == [("page_unsealed", left)]
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.execute("SELECT registry.adopt_unsealed_pages('')")
            assert await connection.fetchval("SELECT registry.adopt_unsealed_pages('worker 2 ran out of memory')") == 1
            assert (await verified(database)).findings == []
            await connection.execute("UPDATE registry.seal SET note = 'all is well' WHERE kind = 'adopted'")
            assert [f.fault for f in (await verified(database)).findings] == ["entry_changed"]

    asyncio.run(run())


def test_the_chain_stays_whole_when_days_are_dropped_by_policy(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app:
            await begin_before(connection, 4)
            midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            for days in (4, 3, 2, 1):
                # The last second of a day and the first of the next share a seal.
                eve = midnight - timedelta(days=days - 1)
                written = [await write_page(connection, eve + timedelta(seconds=n)) for n in (-2, -1, 0, 1)]
                await seal(connection, written)
            assert (await verified(database)).findings == []
            head = await kept_head(database)
            await change_policy(connection, journal_kept="2 days")
            while await app.fetchval("SELECT registry.close_day('journal_page')"):
                pass
            dropped = 0
            while await app.fetchval("SELECT registry.drop_day('journal_page')"):
                dropped += 1
            assert dropped == 2
            verdict = await verified(database, head)
            assert verdict.findings == []
            assert verdict.dropped_before == (midnight - timedelta(days=2)).date()
            policy = await connection.fetchrow(
                "SELECT effective_from, recorded_at FROM registry.policy ORDER BY effective_from DESC LIMIT 1"
            )
            assert policy is not None
            since, recorded_at = policy
            assert verdict.let_go == [LetGo(since, recorded_at, "2 days", 6, 7, verdict.dropped_before)]
            # What is left of a seal that lost a part is still held to its marks, and what is kept is not let go unnoticed.
            first_kept = await connection.fetchval("SELECT page_id FROM registry.journal_page ORDER BY page_id LIMIT 1")
            await connection.execute("UPDATE registry.journal_page SET present = B'010' WHERE page_id = $1", first_kept)
            assert [(f.fault, f.page_id) for f in (await verified(database)).findings] == [("page_changed", first_kept)]
            day = (midnight - timedelta(days=1)).date()
            await connection.execute(f"DROP TABLE registry.journal_page_{day:%Y%m%d}")
            faults = {f.fault for f in (await verified(database)).findings}
            assert faults == {"page_changed", "page_missing"}

    asyncio.run(run())


def test_seals_are_forgotten_from_the_beginning_a_day_after_their_pages_and_the_chain_says_so(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.connect("registryd_app") as app, database.pool() as db:
            await begin_before(connection, 6)
            midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            heads_then = []
            for days in range(6, 0, -1):
                noon = midnight - timedelta(days=days, hours=-12)
                await seal(connection, [await write_page(connection, noon)])
                await connection.execute("UPDATE registry.seal SET sealed_at = $1 WHERE sequence = $2", noon, 8 - days)
                await connection.execute(REHASH)
                heads_then.append(await kept_head(database))
            await change_policy(connection, journal_kept="2 days")
            assert await erasure.forget(db) == (0, 0, 0), "not before the pages"
            while await app.fetchval("SELECT registry.close_day('journal_page')"):
                pass
            while await app.fetchval("SELECT registry.drop_day('journal_page')"):
                pass
            # Of days 6, 5, 4 and 3 the pages are gone; the last seal of these that are older than a day stays, as the chain's beginning.
            assert await erasure.forget(db, 2) == (3, 0, 0)
            assert await erasure.forget(db) == (0, 0, 0)
            kept = await connection.fetch("SELECT sequence, kind::text FROM registry.seal ORDER BY sequence")
            assert [row["sequence"] for row in kept[:4]] == [4, 5, 6, 7]
            assert [row["kind"] for row in kept if row["kind"] != "pages"] == ["retention"] * 4 + ["forgotten"] * 2
            assert (await verified(database)).findings == []
            found = [[(f.fault, f.entry) for f in (await verified(database, head)).findings] for head in heads_then]
            assert found == [[("head_missing", 2)], *[[]] * 5]
            stranger = {"journal": heads_then[1]["journal"]._replace(sha256=bytes(32))}
            assert [(f.fault, f.entry) for f in (await verified(database, stranger)).findings] == [("head_differs", 3)]
            # An unsealed page can still be adopted, and what goes beyond what was said is missed.
            left = await write_page(connection, datetime.now(UTC) - timedelta(minutes=3))
            assert [f.page_id for f in (await verified(database)).findings] == [left]
            assert await connection.fetchval("SELECT registry.adopt_unsealed_pages('worker 2 ran out of memory')") == 1
            await connection.execute("DELETE FROM registry.seal WHERE sequence = 4")
            assert [(f.fault, f.entry) for f in (await verified(database)).findings] == [("entry_missing", 1)]

    asyncio.run(run())


def test_every_answered_query_is_sealed(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection, database.pool() as db:
            await begin_before(connection, 1)
            await add_contracts(connection, 2)
            (messenger_id,) = await add_messengers(connection, 1)
            sealer = Sealer(db)
            answerer = Answerer(db, DigestKey(1, bytes(32)), statements_in_flight=2, group_max=4, queue_max=100, note_pages=sealer.note)
            asked = [PresenceQuery(Msisdn(FIRST + n), IdentificationCode(f"u{n}") if n % 2 else None) for n in range(4)]
            await asyncio.gather(
                *(answerer.answer(MessengerId(messenger_id), query, time.monotonic()) for query in asked),
                answerer.answer_batch(MessengerId(messenger_id), asked[::2], time.monotonic()),
            )
            await answerer.drain()
            await sealer.seal()
            verdict = await verified(database)
            assert verdict.pages == await connection.fetchval("SELECT count(*) FROM registry.journal_page") >= 2
            assert verdict.findings == []

    asyncio.run(run())
