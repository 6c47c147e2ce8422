"""Sealed evidence, and ways to change it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from registryd.domain import heads
from registryd.domain.heads import Link
from registryd.store import audit
from registryd.store.audit import Verdict
from tests.conftest import TestDatabase
from tests.store.conftest import Connection, begin_chain, seal_all, write_page

KEY = bytes(range(32))
PUBLIC_KEY = heads.public_key(KEY)
SEALS, PAGES_EACH = 6, 4

REHASH = """
DO $$ DECLARE s registry.seal; before bytea := decode(repeat('00', 32), 'hex'); BEGIN
    FOR s IN SELECT * FROM registry.seal ORDER BY sequence LOOP
        UPDATE registry.seal SET previous = before, (pages, queries, content) = (
               SELECT count(*), coalesce(sum(p.queries), 0), sha256(coalesce(string_agg(
                      uuid_send(p.page_id) || timestamptz_send(p.answered_at) || int4send(p.queries) || int2send(p.digest_key)
                      || array_send(p.messenger_ids) || array_send(p.query_counts) || array_send(p.waited_ms) || p.digests
                      || varbit_send(p.present) || coalesce(varbit_send(p.told), '\\xffffffff')
                      || coalesce(varbit_send(p.bound), '\\xffffffff')
                      || coalesce(int4send(p.turned_by_rule), '\\xffffffff'), '' ORDER BY p.page_id), ''))
                 FROM registry.journal_page AS p
                WHERE p.page_id >= registry.first_id_at(from_at) AND p.page_id < registry.first_id_at(until_at))
         WHERE sequence = s.sequence;
        UPDATE registry.seal SET sha256 = sha256(previous || int8send(sequence) || timestamptz_send(sealed_at) || timestamptz_send(from_at)
               || timestamptz_send(until_at) || int8send(pages) || int8send(queries) || content || int8send(system_identifier)
               || int4send(timeline) || convert_to(kind::text || note, 'UTF8'))
         WHERE sequence = s.sequence RETURNING sha256 INTO before;
    END LOOP;
END $$
"""
"""What the database's owner can do: make the whole chain anew over what there is now."""


async def populate(connection: Connection) -> list[list[UUID]]:
    """A chain over half an hour, an hour ago: the pages of each seal."""
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=40)
    await begin_chain(connection, start)
    pages = []
    for number in range(SEALS):
        written = [await write_page(connection, start + timedelta(minutes=5 * number, seconds=n)) for n in range(PAGES_EACH)]
        assert await seal_all(connection, start + timedelta(minutes=5 * number + 1)) == 1
        pages.append(sorted(written))
    return pages


async def verified(database: TestDatabase, kept: dict[str, Link] | None = None, **how: Any) -> Verdict:
    return await audit.verify(database.dsn(), None, kept or {}, **how)


async def kept_head(database: TestDatabase) -> dict[str, Link]:
    async with audit.reading(database.dsn(), None) as connection:
        return heads.opened(heads.signed(await audit.read_heads(connection), KEY), PUBLIC_KEY)


COPY = (
    "INSERT INTO registry.journal_page SELECT '{id}', answered_at, queries, digest_key, messenger_ids, query_counts, waited_ms, digests, "
    "present, told, bound, turned_by_rule FROM registry.journal_page WHERE page_id = '{{p}}'"
)
