"""What evidence costs: sealing a page, verifying a million of them, and one break-glass look.

`make bench-evidence`: half a minute, on a private PostgreSQL without durability, because what is measured is CPU. A page of the journal
is one statement's queries, so that a page's cost is shared by its queries: lone queries are the worst that can be.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import asyncpg

from registryd.demo import embedded
from registryd.domain.identifiers import Msisdn
from registryd.store import audit, breakglass, breakglass_requests
from registryd.store.digest_keys import DigestKey
from tests.bench.measure import cpu_seconds
from tests.conftest import prepare_database

PAGES = 1_000_000
APART_MS = 10
"""A hundred lone queries a second: the most pages that a second's answers are likely to be."""
GROUPS = {"lone queries": (1, 1), "groups of 60 queries of 40 messengers": (60, 40)}
THREE_YEARS = 1_095 * 86_400 * 1_000 // APART_MS
WRITE = """
INSERT INTO registry.journal_page (page_id, answered_at, queries, digest_key, messenger_ids, query_counts, waited_ms, digests, present)
SELECT overlay(registry.id_at(p.at)::text PLACING '0000' FROM 33)::uuid, p.at, $3::integer, 1,
       (SELECT array_agg(m) FROM generate_series(1, $4::integer) AS m),
       (SELECT array_agg($3 / $4 + (m <= $3 % $4)::int) FROM generate_series(1, $4) AS m), array_fill(3, ARRAY[$4::integer]),
       decode(repeat(md5(p.n::text), $3), 'hex'), repeat('1', $3)::varbit
  FROM (SELECT n, $1::timestamptz + n * $5::integer * interval '1 ms' AS at FROM generate_series(1, $2::integer) AS n) AS p
"""


@contextmanager
def told(server: embedded.Server, what: str, count: int) -> Iterator[Callable[[], float]]:
    """Says how long it took, and PostgreSQL's CPU for each of `count`; yields what tells the CPU seconds afterwards."""
    started, cpu = time.perf_counter(), cpu_seconds(server.pid or 0)
    spent = 0.0
    yield lambda: spent
    seconds, spent = time.perf_counter() - started, cpu_seconds(server.pid or 0) - cpu
    say(f"  {what:30} {seconds:7.2f} s   {spent * 1e6 / count:7.2f} us of CPU each")


async def measure(server: embedded.Server, name: str, queries: int, messengers: int) -> None:
    connection = await asyncpg.connect(server.dsn(name))
    begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(milliseconds=PAGES * APART_MS + 120_000)
    await connection.execute("DELETE FROM registry.seal")
    await connection.execute("SELECT registry.append_seal('begin', $1, 0, 0, sha256(''), 'the bench')", begin)
    with told(server, f"{PAGES:,} pages written", PAGES):
        await connection.execute(WRITE, begin, PAGES, queries, messengers, APART_MS)
    await connection.execute("VACUUM ANALYZE")
    with told(server, "sealed, a minute at a time", PAGES):
        while await connection.fetchrow("SELECT * FROM registry.seal_window()"):
            pass
    async with audit.reading(server.dsn(name), None) as reader:
        head = await audit.read_heads(reader)
    with told(server, "verified", PAGES) as verified:
        verdict = await audit.verify(server.dsn(name), None, {})
    assert (verdict.pages, verdict.findings) == (PAGES, [])
    say(f"  three years of them by that CPU: {verified() * THREE_YEARS / PAGES / 3600:.1f} h on one processor")
    with told(server, "verified since the last head", PAGES):
        await audit.verify(server.dsn(name), None, head, since=True)
    size = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(partition)) FROM registry.day_partition WHERE family = 'journal_page'"
    )
    say(f"  {size / PAGES:.0f} bytes a page, index included")
    async with breakglass.session(server.dsn(name, "anna")) as anna, breakglass.session(server.dsn(name, "boris")) as boris:
        number = Msisdn(79_010_800_002)
        request = await breakglass.request(anna, number, "what a look costs")
        await breakglass_requests.prepare(connection, breakglass_requests.Asked(request, number), [DigestKey(1, bytes(32))])
        await breakglass.approve(boris, request)
        with told(server, "searched for one number", PAGES):
            await breakglass.look(anna, request)
    await connection.close()


async def make_persons(server: embedded.Server) -> None:
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("CREATE ROLE anna LOGIN IN ROLE registryd_breakglass; CREATE ROLE boris LOGIN IN ROLE registryd_approver")
    await connection.close()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    options = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
    with embedded.Server(embedded.find_binaries(), durable=False, options=options) as server:
        for number, (what, size) in enumerate(GROUPS.items()):
            say(what)
            asyncio.run(prepare_database(server, f"evidence_{number}"))
            if number == 0:
                asyncio.run(make_persons(server))
            asyncio.run(measure(server, f"evidence_{number}", *size))


if __name__ == "__main__":
    main()
