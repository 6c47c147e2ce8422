"""What a query costs in the journal, and that it is found and written in one partition of many."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from uuid import UUID

import pytest

from registryd.domain.identifiers import MessengerId, Msisdn, query_id
from registryd.store import presence
from registryd.store.session import PROBES
from tests.conftest import TestDatabase
from tests.store.conftest import FIRST, add_messengers, explaining, write_page
from tests.store.kept import at_noon, day_before, part_of


def test_a_query_is_found_and_journaled_in_one_partition_of_many(shared: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(shared, PROBES) as explained:
            connection = explained.connection
            await connection.execute("SELECT registry.make_partitions(current_date - 100, 101)")
            (messenger_id,) = await add_messengers(connection, 1)
            page_id = await write_page(connection, at_noon(day_before(20)), messenger_id)
            name = f"journal_page_{part_of('journal_page', day_before(20)):%Y%m%d}"
            wanted = UUID(query_id(str(page_id), 2))
            for text, argument in (
                ("SELECT * FROM registry.find_query($1)", wanted),
                ("SELECT q.* FROM unnest($1::uuid[]) AS id, registry.find_query(id) AS q", [wanted]),
                (f"SELECT * FROM registry.find_query('{wanted}') WHERE $1", True),
            ):
                statement = await connection.prepare(text)
                for _ in range(7):  # past the five that PostgreSQL plans anew before it keeps a plan
                    explained.told.clear()
                    (found,) = await statement.fetch(argument)
                    assert (found["query_id"], found["present"], found["messenger_id"]) == (wanted, False, messenger_id)
                (probe,) = await explained.plans("FROM registry.journal_page AS p")
                (scan,) = [node for node in probe.nodes if "Index Name" in node]
                assert (scan["Node Type"], scan["Relation Name"], scan["Index Name"]) == ("Index Scan", name, f"{name}_pkey")
                assert scan["Index Cond"].startswith("(page_id = ")
        # What a plan would hide is what it locks: journaling a page opens its partition and no other.
        async with shared.connect() as look, shared.pool(1) as db, db.transaction() as own:
            await look.execute("SELECT registry.make_partitions(current_date - 100, 101)")
            await own.fetch(presence.ANSWER.sql, [FIRST], [1], [1], [0], bytes(16), 1)
            locked = await look.fetch(
                "SELECT d.day FROM pg_locks AS l JOIN registry.day_partition AS d ON d.partition = l.relation WHERE l.pid = $1",
                own.get_server_pid(),
            )
            assert [row["day"] for row in locked] == [part_of("journal_page", datetime.now(UTC).date())]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("size", "messengers", "most"),
    [(1, 1, 230.0), (60, 40, 40.0), (60, 1, 22.0), (399, 100, 25.0), (1_000, 1, 20.0)],
    ids=["1", "60 of 40", "60 of one", "399 of 100", "batch"],
)
def test_what_a_query_costs_in_the_journal(
    database: TestDatabase, size: int, messengers: int, most: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes a query, index and TOAST included. Below 400 queries nothing is put aside."""

    async def run() -> tuple[float, int]:
        async with database.connect() as connection, database.pool() as db:
            owners = [MessengerId(messenger_id) for messenger_id in await add_messengers(connection, messengers)]
            counts = [size // messengers + (n < size % messengers) for n in range(messengers)]
            pages = 40_000 // size if size > 1 else 3_000
            for _ in range(pages):
                numbers = [Msisdn(FIRST + i) for i in range(size)]
                await presence.answer(db, presence.Runs(owners, counts, [3] * messengers), numbers, None, bytes(16 * size), 1)
            sizes = await connection.fetchrow(
                "SELECT sum(pg_total_relation_size(d.partition)), sum(coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)) "
                "FROM registry.day_partition AS d JOIN pg_class AS c ON c.oid = d.partition WHERE d.family = 'journal_page'"
            )
            assert sizes is not None
            return int(sizes[0]) / (pages * size), int(sizes[1])

    cost, aside = asyncio.run(run())
    with capsys.disabled():
        sys.stdout.write(f" {cost:.1f} bytes a query ")
    assert cost <= most
    assert (aside > 0) is (size >= 400)
