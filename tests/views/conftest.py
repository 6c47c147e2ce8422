"""A registry with 100 messengers, about which the tests know everything that a view can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from registryd.demo import embedded
from registryd.store.pool import Database
from tests.conftest import TestDatabase, cloned
from tests.persons import Persons, acting

T = TypeVar("T")
MESSENGERS = 100
FIRST = 79_160_500_000
NUMBERS = 600
CODE = "zebra-okapi-"
"""Every code begins with it; a mask shows less."""

# m001 is overdue, m002's endpoint fails, m003 looks like a search, m004 is held by hand, m006 alone asks, m007 pulls. The others
# are owed nothing and ask nothing.
FACTS = f"""
INSERT INTO registry.messenger (name, endpoint_url, daily_quota)
SELECT 'm' || to_char(i, 'FM000'),
       CASE WHEN i <> 7 THEN 'https://m' || i || '.example.net/hook?token=wombat' END, CASE WHEN i = 6 THEN 5000 END
  FROM generate_series(0, {MESSENGERS - 1}) AS i;

INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)
SELECT {FIRST} + i, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series(0, {NUMBERS - 1}) AS i;

INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)
SELECT {FIRST} + i, 1, m.messenger_id, '{CODE}' || i
  FROM generate_series(0, 4) AS i, registry.messenger AS m WHERE m.name IN ('m001', 'm002');

UPDATE registry.contract SET ended_at = now() - interval '25 hours', end_reason = 'terminated', status = 'ended' WHERE msisdn < {FIRST + 3};
UPDATE registry.contract SET ended_at = now() - interval '3 hours', end_reason = 'terminated', status = 'ended' WHERE msisdn = {FIRST + 3};
ALTER TABLE registry.notification DISABLE TRIGGER refuse_losing;
DELETE FROM registry.notification AS n USING registry.messenger AS m
 WHERE m.messenger_id = n.messenger_id AND m.name = 'm002' AND n.deadline_at < now();
ALTER TABLE registry.notification ENABLE TRIGGER refuse_losing;

UPDATE registry.lane AS l SET failures = 7, gate_until = now() + interval '20 seconds', last_error = 'the connection was refused',
       last_success_at = now() - interval '2 hours'
  FROM registry.messenger AS m WHERE m.messenger_id = l.messenger_id AND m.name = 'm002';
UPDATE registry.lane AS l SET owner = 'here deliver@1', lease_until = now() + interval '1 hour'
  FROM registry.messenger AS m WHERE m.messenger_id = l.messenger_id AND m.name = 'm001';

INSERT INTO registry.delivery_attempt (messenger_id, attempted_at, notifications, outcome, http_status, latency_ms, error)
SELECT m.messenger_id, now() - i * interval '1 minute', 1,
       CASE WHEN i % 5 = 0 THEN 'failed' ELSE 'acknowledged' END::registry.delivery_outcome,
       CASE WHEN i % 5 = 0 THEN 502 ELSE 200 END, i * 10, CASE WHEN i % 5 = 0 THEN 'status 502' END
  FROM registry.messenger AS m, generate_series(1, 25) AS i WHERE m.name = 'm002';

INSERT INTO registry.enumeration_alarm (messenger_id, kind, ends_at, signs)
SELECT m.messenger_id, 'canary', now() + interval '1 hour', 3 FROM registry.messenger AS m WHERE m.name = 'm003';
INSERT INTO registry.enumeration_alarm (messenger_id, kind, raised_at, ends_at, cleared_at)
SELECT m.messenger_id, 'absent', now() - interval '2 days', now() - interval '1 day', now() - interval '47 hours'
  FROM registry.messenger AS m WHERE m.name = 'm003';

INSERT INTO registry.hold (messenger_id, reason)
SELECT m.messenger_id, 'a person looks at +{FIRST}' FROM registry.messenger AS m WHERE m.name = 'm004';

INSERT INTO registry.quota_usage (messenger_id, day, used, absent)
SELECT m.messenger_id, (now() AT TIME ZONE 'UTC')::date, 1000, 30 FROM registry.messenger AS m WHERE m.name = 'm006';
INSERT INTO registry.refusal_day (day, messenger_id, reason, refusals)
SELECT (now() AT TIME ZONE 'UTC')::date, m.messenger_id, r.reason, r.refusals
  FROM registry.messenger AS m, (VALUES ('quota', 4), ('budget', 9)) AS r(reason, refusals) WHERE m.name = 'm006';
INSERT INTO registry.answer_minute (minute, queries, absent, requests, refused, failed, latencies)
SELECT date_trunc('minute', now(), 'UTC') - i * interval '1 minute', 600, 18, 610, 8, 2, '{{0,0,500,100,0,0,0,0,0,0,0,0,0,0,0,0}}'
  FROM generate_series(1, 3) AS i;

INSERT INTO registry.process (host, role, instance, pid, version, schema) VALUES
    ('here', 'answer', 1, 10, '0.1.0', 1), ('here', 'answer', 2, 11, '0.1.0', 1), ('here', 'deliver', 1, 12, '0.1.0', 1);
INSERT INTO registry.process (host, role, instance, pid, version, schema, since, heard_at)
VALUES ('there', 'deliver', 1, 13, '0.0.9', 1, now() - interval '3 days', now() - interval '10 minutes');

INSERT INTO registry.feed_event (event_id, type, content, outcome, reason, occurred_at, recorded_at)
SELECT 'e' || i, 'activated', '\\x00112233445566778899aabbccddeeff',
       CASE WHEN i <= 30 THEN 'applied' ELSE 'refused' END::registry.feed_outcome,
       CASE WHEN i > 38 THEN 'too early' WHEN i > 30 THEN 'known' END, now() - interval '100 seconds', now() - interval '90 seconds'
  FROM generate_series(1, 40) AS i;
INSERT INTO registry.feed_waiting (event_id, type, reason, occurred_at, first_at)
VALUES ('crm-{FIRST}', 'terminated', 'no_contract_yet', now() - interval '2 hours', now() - interval '1 hour');
INSERT INTO registry.last_snapshot (as_of) VALUES (now() - interval '5 hours');
SELECT registry.note_snapshot(l.as_of, 600, 2, 3, 4, 5) FROM registry.last_snapshot AS l;

INSERT INTO registry.last_verification (pages, findings) VALUES (77, 0);

INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256, created_at, expires_at, revoked_at, last_used_at)
SELECT 'abcdefg' || k.place, m.messenger_id, decode(repeat('00', 32), 'hex'), now() - k.place * interval '1 day',
       k.expires_at, k.revoked_at, now()
  FROM registry.messenger AS m,
       (VALUES (2, NULL::timestamptz, NULL::timestamptz), (3, now() + interval '1 hour', NULL), (4, now() - interval '1 day', NULL),
               (5, NULL, now() - interval '2 days'), (6, NULL, now() - interval '31 days')) AS k(place, expires_at, revoked_at)
 WHERE m.name = 'm006';
INSERT INTO registry.messenger_secret (messenger_id, kind, ciphertext, expires_at)
SELECT m.messenger_id, 'ed25519', 'wombat', now() + interval '1 day' FROM registry.messenger AS m WHERE m.name = 'm006';
INSERT INTO registry.operator_key (key_id, name, scopes, secret_sha256, revoked_at)
SELECT 'hgfedcb' || k.place, 'billing', '{{feed,read}}', decode(repeat('00', 32), 'hex'), k.revoked_at
  FROM (VALUES (2, NULL::timestamptz), (3, now() - interval '40 days')) AS k(place, revoked_at);

SELECT registry.change_policy('{{"notice_within": "12 hours"}}', now() + interval '30 days', 'a planned decree, asked by +{FIRST}');
"""


@pytest.fixture(scope="module")
def crowd(server: embedded.Server, template: str) -> Iterator[TestDatabase]:
    """A module's tests undo what they do to it."""
    with cloned(server, template) as database:

        async def fill() -> None:
            async with database.connect() as connection:
                await connection.execute(FACTS)
                await connection.execute("ANALYZE")

        asyncio.run(fill())
        yield database


def seen(crowd: TestDatabase, read: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        async with crowd.pool() as db:
            return await read(db)

    return asyncio.run(run())


@pytest.fixture
def persons(database: TestDatabase) -> Iterator[Persons]:
    with acting(database) as made:
        yield made
