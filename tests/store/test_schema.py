"""The schema as it stands: names that are agreed, a comment on everything, states tied to their times, and a contract's size."""

from __future__ import annotations

import asyncio

import asyncpg

from tests.conftest import TestDatabase

# What the schema is.

TABLES = {
    "policy": "effective_from answer_within notice_within organisation_rule suspended_is_present journal_kept notification_kept note "
    "honest_absent_ratio scan_absent_ratio honest_density honest_queries_per_alarm alarm_lasts alarm_queries_per_minute echo_per_s",
    "numbering_range": "first_msisdn last_msisdn region note source",
    "contract": "msisdn generation status holder end_user started_at ended_at end_reason recorded_at",
    "messenger": "messenger_id name agreement register_no state endpoint_url batch_max includes_phone_number daily_quota "
    "certificate_sha256",
    "messenger_key": "key_id messenger_id secret_sha256 created_at expires_at revoked_at last_used_at",
    "messenger_secret": "messenger_id",
    "binding": "msisdn generation messenger_id identification_code bound_at ended_at end_reason",
    "journal_page": "page_id answered_at messenger_ids query_counts waited_ms queries digest_key digests present told bound turned_by_rule",
    "presence_query": "query_id messenger_id msisdn_digest present received_at answered_at",
    "notification": "messenger_id deadline_at notification_id msisdn generation identification_code terminated_at recorded_at not_before "
    "attempts last_error undoes",
    "notification_held": "messenger_id deadline_at notification_id msisdn generation identification_code terminated_at recorded_at wave_id",
    "notification_withdrawn": "messenger_id notification_id msisdn generation identification_code withdrawn_at request reason",
    "notification_delivered": "messenger_id deadline_at notification_id msisdn generation identification_code terminated_at recorded_at "
    "delivered_at via attempts",
    "delivery_attempt": "messenger_id attempted_at notifications outcome http_status latency_ms error",
    "lane": "messenger_id owner token lease_until gate_until failures last_error",
    "feed_event": "event_id",
    "enumeration_alarm": "messenger_id raised_at kind ends_at signs cleared_at",
    "canary_number": "msisdn added_at",
    "schema_migration": "version checksum applied_at",
}
PRIMARY_KEYS = {
    "policy": ["effective_from"],
    "contract": ["msisdn", "generation"],
    "journal_page": ["page_id"],
    "notification": ["messenger_id", "deadline_at", "notification_id"],
}
REPORTS = {
    *("presence_daily", "answer_deadline", "binding_by_messenger", "contract_daily", "notification_backlog"),
    *(
        "notification_deadline",
        "notification_withdrawn",
        "delivery_attempt_daily",
        "endpoint_health",
        "quota_today",
        "enumeration_alarm",
        "feed_lag",
        "policy",
    ),
}


def test_tables_columns_and_keys_have_their_agreed_names(shared: TestDatabase) -> None:
    async def run() -> None:
        async with shared.connect() as connection:
            rows = await connection.fetch(
                "SELECT table_name, array_agg(column_name::text) AS columns FROM information_schema.columns "
                "WHERE table_schema = 'registry' GROUP BY 1"
            )
            there = {row["table_name"]: set(row["columns"]) for row in rows}
            wanted = {table: set(columns.split()) for table, columns in TABLES.items()}
            assert {table: columns & there.get(table, set()) for table, columns in wanted.items()} == wanted
            keys = await connection.fetch(
                "SELECT conrelid::regclass::text AS table, array_agg(a.attname::text ORDER BY k.place) AS columns FROM pg_constraint "
                "CROSS JOIN LATERAL unnest(conkey) WITH ORDINALITY AS k(number, place) "
                "JOIN pg_attribute AS a ON a.attrelid = conrelid AND a.attnum = k.number WHERE contype = 'p' GROUP BY conrelid"
            )
            found = {row["table"]: row["columns"] for row in keys}
            assert {table: found[f"registry.{table}"] for table in PRIMARY_KEYS} == PRIMARY_KEYS
            views = await connection.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'report'")
            assert {row["viewname"] for row in views} >= REPORTS

    asyncio.run(run())


def test_everything_has_a_comment(shared: TestDatabase) -> None:
    async def run() -> None:
        async with shared.connect() as connection:
            silent = await connection.fetch(
                """
                SELECT c.oid::regclass::text AS name FROM pg_class AS c
                 WHERE c.relnamespace::regnamespace::text IN ('registry', 'report') AND c.relkind IN ('r', 'p', 'v')
                   AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') IS NULL
                UNION ALL
                SELECT c.oid::regclass || '.' || a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
                 WHERE c.relnamespace::regnamespace::text IN ('registry', 'report') AND c.relkind IN ('r', 'p', 'v')
                   AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
                UNION ALL
                SELECT f.oid::regprocedure::text FROM pg_proc AS f
                 WHERE f.pronamespace::regnamespace::text IN ('registry', 'report') AND obj_description(f.oid, 'pg_proc') IS NULL
                UNION ALL
                SELECT n.nspname FROM pg_namespace AS n
                 WHERE n.nspname IN ('registry', 'report') AND obj_description(n.oid, 'pg_namespace') IS NULL
                """
            )
            assert [row["name"] for row in silent] == []
            decree = "SELECT obj_description('registry.policy'::regclass) || string_agg(note, '') FROM registry.policy"
            assert "Decree 1801" in await connection.fetchval(decree)
            assert "March 2028" in await connection.fetchval(decree)

    asyncio.run(run())


def test_every_state_that_has_a_time_is_tied_to_it(shared: TestDatabase) -> None:
    """States are words, each with its timestamp: a row that has one without the other is refused by the table itself."""
    contract = "INSERT INTO registry.contract VALUES (79160000001, '2020-01-01', now(), "
    page = "INSERT INTO registry.journal_page VALUES (registry.id_at(now()), now(), "
    wrong = [
        f"{contract} 'ended', 'individual', 'not_required', 1, NULL, NULL)",
        f"{contract} 'active', 'individual', 'not_required', 1, now(), 'terminated')",
        f"{contract} 'ended', 'individual', 'not_required', 1, now(), NULL)",
        f"{contract} 'ended', 'individual', 'not_required', 1, '2019-01-01', 'terminated')",
        f"{contract} 'active', 'individual', 'registered', 1)",
        f"{contract} 'active', 'organisation', 'not_required', 1)",
        f"{contract} 'active', 'individual', 'not_required', 0)",
        "INSERT INTO registry.contract VALUES (999, now(), now(), 'active', 'individual', 'not_required', 1)",
        "INSERT INTO registry.messenger (name, state) VALUES ('one', 'suspended')",
        "INSERT INTO registry.messenger (name, suspended_at) VALUES ('one', now())",
        "INSERT INTO registry.messenger (name, endpoint_url) VALUES ('one', 'ftp://x')",
        "INSERT INTO registry.messenger (name) VALUES ('Not A Name')",
        "INSERT INTO registry.numbering_range VALUES (79160000000, 79150000000)",
        "INSERT INTO registry.numbering_range VALUES (79160000000, 79169999999), (79169999999, 79170000000)",
        "INSERT INTO registry.feed_event VALUES ('e', 'terminated', sha256('x'), 'applied', NULL, now())",
        "INSERT INTO registry.feed_event VALUES ('e', 'terminated', decode(repeat('00', 16), 'hex'), 'refused', NULL, now())",
        f"{page} 2, 1, '{{1}}', '{{2}}', '{{0}}', decode(repeat('00', 16), 'hex'), B'10')",
        f"{page} 1, 1, '{{1}}', '{{1}}', '{{0}}', decode(repeat('00', 16), 'hex'), B'10')",
        f"{page} 1, 1, '{{1}}', '{{1}}', '{{0}}', decode(repeat('00', 16), 'hex'), B'1', B'10')",
        f"{page} 2, 1, '{{1,2}}', '{{2}}', '{{0,0}}', decode(repeat('00', 32), 'hex'), B'10')",
        f"{page} 2, 1, '{{1,2}}', '{{1,1}}', '{{0}}', decode(repeat('00', 32), 'hex'), B'10')",
        "UPDATE registry.lane SET owner = 'a'",
        "UPDATE registry.lane SET gate_until = now()",
    ]

    async def run() -> None:
        async with shared.connect() as connection:
            await connection.execute("INSERT INTO registry.messenger (name) VALUES ('with-a-lane') ON CONFLICT DO NOTHING")
            taken = []
            for statement in wrong:
                try:
                    async with connection.transaction():
                        await connection.execute(statement)
                    taken.append(statement)
                except asyncpg.IntegrityConstraintViolationError:
                    pass
            assert taken == []

    asyncio.run(run())


def test_a_contract_takes_about_125_bytes_with_its_indexes_and_117_as_a_snapshot_brings_it(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.connect() as connection:
            columns = "msisdn, generation, status, holder, end_user, started_at, recorded_at"
            for first, recorded_at, most in ((79_160_000_000, "NULL", 118), (79_170_000_000, "now()", 127)):
                await connection.execute(
                    f"INSERT INTO registry.contract ({columns}) SELECT {first} + i, 1, 'active', 'individual', 'not_required', now(), "
                    f"{recorded_at} FROM generate_series(1, 50000) AS i"
                )
                size = await connection.fetchval("SELECT pg_relation_size('registry.contract') + pg_indexes_size('registry.contract')")
                assert size / 50_000 < most
                await connection.execute("SET session_replication_role = 'replica'; DELETE FROM registry.contract; RESET ALL")
                await connection.execute("VACUUM (FULL) registry.contract")

    asyncio.run(run())
