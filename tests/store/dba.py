"""A DBA at psql, and contracts that she finds bound and owed."""

from __future__ import annotations

import itertools

from tests.conftest import TestDatabase

numbers = itertools.count(79_170_000_001)


def dba(database: TestDatabase, sql: str, user: str = "postgres") -> list[list[str]]:
    """What psql shows: rows of texts."""
    done = database.psql("-At", "-F", "|", "-c", sql, user=user)
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


def refused(database: TestDatabase, sql: str, user: str = "postgres") -> str:
    """What psql says of a statement that must fail."""
    done = database.psql("-c", sql, user=user)
    assert done.returncode != 0, "it was not refused"
    return done.stderr


def bound(database: TestDatabase, messengers: int = 2, started_at: str = "2020-01-01") -> int:
    """A new number with a live contract, bound to the first messengers of the database; its code is `u-<number>`."""
    number = next(numbers)
    dba(
        database,
        f"""
        INSERT INTO registry.messenger (name) SELECT 'messenger-' || i FROM generate_series(1, {messengers}) AS i ON CONFLICT DO NOTHING;
        INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at)
        VALUES ({number}, 1, 'active', 'individual', 'not_required', '{started_at}');
        INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code)
        SELECT {number}, 1, m.messenger_id, 'u-{number}' FROM registry.messenger AS m
         WHERE m.name IN (SELECT 'messenger-' || i FROM generate_series(1, {messengers}) AS i);
        """,
    )
    return number


def owed(database: TestDatabase, number: int) -> list[list[str]]:
    return dba(
        database,
        f"""
        SELECT n.identification_code, n.generation, n.terminated_at = c.ended_at, n.attempts,
               n.deadline_at = date_trunc('milliseconds', c.ended_at + interval '24 hours'),
               registry.time_of(n.notification_id) = n.deadline_at
          FROM registry.notification AS n JOIN registry.contract AS c ON c.msisdn = n.msisdn AND c.generation = n.generation
         WHERE n.msisdn = {number} ORDER BY n.messenger_id
        """,
    )
