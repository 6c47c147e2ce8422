"""What evidence costs: sealing a page, verifying a million of them, and one break-glass look.

`make bench-evidence`: half a minute, on a private PostgreSQL without durability, because what is measured is CPU. A page of the journal
is one statement's queries of one messenger, so that a page's cost is shared by its queries.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from registryd.demo import embedded
from registryd.domain.identifiers import Msisdn
from registryd.store import audit, breakglass, breakglass_requests
from registryd.store.digest_keys import DigestKey
from tests.bench.measure import cpu_seconds
from tests.conftest import prepare_database

PAGES = 1_000_000
QUERIES = 8
PAGES_A_SEAL = 100
WRITE = """
INSERT INTO registry.journal_page
SELECT registry.id_at(now() - interval '3 minutes' + n * interval '100 us'), now(), now(), 1 + n % 5, $2, $2, 1,
       decode(repeat(md5(n::text), $2), 'hex'), repeat('1', $2)::varbit
  FROM generate_series(1, $1::integer) AS n
"""
SEAL = """
DO $$ DECLARE written uuid[]; BEGIN
    FOR written IN SELECT array_agg(p.page_id)
                     FROM (SELECT page_id, row_number() OVER (ORDER BY page_id) AS n FROM registry.journal_page) AS p
                    GROUP BY p.n / {0} ORDER BY p.n / {0} LOOP
        PERFORM registry.seal_pages(written);
    END LOOP;
END $$
"""


@contextmanager
def told(server: embedded.Server, what: str, count: int) -> Iterator[None]:
    """Says how long it took, and PostgreSQL's CPU for each of `count`."""
    started, cpu = time.perf_counter(), cpu_seconds(server.pid or 0)
    yield
    seconds, spent = time.perf_counter() - started, cpu_seconds(server.pid or 0) - cpu
    sys.stdout.write(f"{what:44} {seconds:7.2f} s   {spent * 1e6 / count:7.2f} us of CPU each\n")
    sys.stdout.flush()


async def measure(server: embedded.Server, name: str) -> None:
    connection = await asyncpg.connect(server.dsn(name))
    await connection.execute("CREATE ROLE anna LOGIN IN ROLE registryd_breakglass; CREATE ROLE boris LOGIN IN ROLE registryd_approver")
    with told(server, f"{PAGES:,} pages of {QUERIES} queries written", PAGES):
        await connection.execute(WRITE, PAGES, QUERIES)
    await connection.execute("VACUUM ANALYZE")
    with told(server, f"sealed, {PAGES_A_SEAL} at a time", PAGES):
        await connection.execute(SEAL.format(PAGES_A_SEAL))
    await connection.execute("VACUUM ANALYZE")
    async with audit.reading(server.dsn(name), None) as reader:
        with told(server, "verified", PAGES):
            verdict = await audit.verify(reader, {})
    assert (verdict.pages, verdict.findings) == (PAGES, [])
    async with breakglass.session(server.dsn(name, "anna")) as anna, breakglass.session(server.dsn(name, "boris")) as boris:
        number = Msisdn(79_010_800_002)
        request = await breakglass.request(anna, number, "what a look costs")
        await breakglass_requests.prepare(connection, breakglass_requests.Asked(request, number), [DigestKey(1, bytes(32))])
        await breakglass.approve(boris, request)
        with told(server, "searched for one number", PAGES):
            await breakglass.look(anna, request)
    await connection.close()


def main() -> None:
    options = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
    with embedded.Server(embedded.find_binaries(), durable=False, options=options) as server:
        asyncio.run(prepare_database(server, "evidence"))
        asyncio.run(measure(server, "evidence"))


if __name__ == "__main__":
    main()
