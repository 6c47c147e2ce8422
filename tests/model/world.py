"""Drives the real registry for the model: the code of the daemon and of the commands, on a clone of the template, under the daemon's role.

One clone serves all examples. Before each, `begin` empties the tables as nobody but a superuser with triggers switched off could.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from registryd.domain.contract import Event as FeedEvent
from registryd.domain.errors import CodeInUse, Unavailable
from registryd.domain.identifiers import IdentificationCode, MessengerId, Msisdn
from registryd.domain.notification import Attempt
from registryd.domain.presence import PresenceQuery, by_columns
from registryd.feed.events import ContractFeed
from registryd.feed.snapshot import FileImport, reconcile
from registryd.presence.answerer import Answerer
from registryd.store import bindings, breakglass, feed, holds, lanes, notifications
from registryd.store.breakglass import Ends, Notices
from registryd.store.digest_keys import DigestKey
from registryd.store.lanes import Progress
from registryd.store.snapshots import TooManyEnds
from tests.conftest import TestDatabase, rewrite_policy
from tests.model.mistake import Persons
from tests.model.plain import Event, Key, Line

REASON = "it was a mistake"
KEPT = ("schema_migration", "schema_code", "policy", "seal", "digest_key", "day_partition", "feed_state")
"""Tables that an example leaves as they are."""
LATER = timedelta(days=1)


class World:
    """The registry under test. `async with`."""

    def __init__(self, database: TestDatabase, persons: Persons, directory: Path) -> None:
        self.database = database
        self._persons = persons
        self._file = directory / "snapshot.csv"
        self._db = database.pool()
        self._ids: dict[Key, UUID] = {}
        self._tables: list[str] = []
        self.messengers: list[int] = []

    async def __aenter__(self) -> World:
        await self._db.__aenter__()
        self._stack = AsyncExitStack()
        self._asks = await self._stack.enter_async_context(breakglass.session(self._persons.asks))
        self._approves = await self._stack.enter_async_context(breakglass.session(self._persons.approves))
        self._dba: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self.database.dsn(), server_settings={"timezone": "UTC"})
        self._feed = ContractFeed(self._db, bytes(32))
        self._answerer = Answerer(self._db, DigestKey(1, bytes(32)), statements_in_flight=2, group_max=256, queue_max=1000)
        self._tables = await self._dba.fetchval(
            "SELECT array_agg(oid::regclass::text) FROM pg_class "
            "WHERE relnamespace = 'registry'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> ALL ($1)",
            list(KEPT),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._answerer.drain()
        await self._stack.aclose()
        await self._dba.close()
        await self._db.__aexit__()

    async def begin(self, messengers: int, ends_max: int) -> datetime:
        """An empty registry with so many new messengers, where so many contracts may end in an hour. Returns the database's time."""
        async with self._dba.transaction():
            await self._dba.execute(
                "SET LOCAL session_replication_role = 'replica';"
                + "".join(f"DELETE FROM {table};" for table in self._tables)
                + "DELETE FROM registry.policy WHERE effective_from > '2022-03-01 00:00:00+03'"
            )
        await self.declare(is_complete=True)
        await rewrite_policy(self._dba, f"ends_max = {ends_max}, ends_max_share = 0")
        rows = await self._dba.fetch(
            "INSERT INTO registry.messenger (name, endpoint_url) SELECT 'm' || i, 'http://127.0.0.1:9' FROM generate_series(1, $1) AS i "
            "RETURNING messenger_id",
            messengers,
        )
        self.messengers = [row["messenger_id"] for row in rows]
        self._ids = {}
        return await self.now()

    async def now(self) -> datetime:
        at: datetime = await self._dba.fetchval("SELECT clock_timestamp()")
        return at

    # What is done to it

    async def apply(self, events: Sequence[Event]) -> list[str]:
        calls = [
            FeedEvent(
                event_id=event.event_id,
                type=event.type,  # type: ignore[arg-type] # its words are the rules' own
                msisdn=Msisdn(event.number),
                occurred_at=event.occurred_at,
                holder=event.holder,  # type: ignore[arg-type]
                end_user=event.end_user,  # type: ignore[arg-type]
            )
            for event in events
        ]
        return [result.outcome for result in await self._feed.apply(calls)]

    async def ask(self, messenger: int, number: int, code: str | None) -> tuple[bool, str | None] | None:
        """None: 503."""
        query = PresenceQuery(Msisdn(number), IdentificationCode(code) if code else None)
        try:
            answer = await self._answerer.answer(MessengerId(messenger), query, time.monotonic())
        except CodeInUse:
            return True, "code_in_use"
        except Unavailable:
            return None
        return answer.present, str(answer.bound.outcome) if answer.bound else None

    async def ask_batch(self, messenger: int, queries: Sequence[tuple[int, str | None]]) -> list[tuple[bool, str | None]] | None:
        """None: 503."""
        asked = by_columns(PresenceQuery(Msisdn(number), IdentificationCode(code) if code else None) for number, code in queries)
        try:
            batch = await self._answerer.answer_batch(MessengerId(messenger), asked, time.monotonic())
        except Unavailable:
            return None
        return [(present, str(bound.outcome) if bound else None) for present, bound in batch.answers]

    async def remove(self, messenger: int, code: str) -> str | None:
        found = await bindings.remove(self._db, MessengerId(messenger), IdentificationCode(code))
        return found.binding.end_reason if found.binding else None

    async def end_by_sql(self, numbers: Sequence[int], at: datetime | None) -> datetime | None:
        """One UPDATE, as a DBA writes it. `at` None: it sets the status alone. Returns when the contracts ended."""
        change, times = ("ended_at = $2", [at]) if at else ("status = 'ended'", [])
        rows = await self._dba.fetch(
            f"UPDATE registry.contract SET {change} WHERE msisdn = ANY ($1::bigint[]) AND ended_at IS NULL RETURNING ended_at",
            numbers,
            *times,
        )
        assert len(rows) == len(numbers)
        return rows[0][0] if rows else None

    async def change_policy(self, *, suspended_is_present: bool, organisation_rule: str) -> None:
        """As if the law had always been so, because a row of the policy's history cannot be changed."""
        await rewrite_policy(self._dba, f"suspended_is_present = {suspended_is_present}, organisation_rule = '{organisation_rule}'")

    async def snapshot(self, lines: Mapping[int, Line], as_of: datetime, *, is_forced: bool) -> dict[str, int] | None:
        """None where it is refused because too many contracts would end or turn absent."""
        rows = [f"{number},{line.holder},{line.end_user},{line.status},{line.started_at.isoformat()}" for number, line in lines.items()]
        self._file.write_text("\n".join(("msisdn,holder,end_user,status,started_at", *rows)) + "\n")
        dsn, ends_max = self.database.dsn("registryd_app"), (lambda live: live) if is_forced else None
        try:
            done = await reconcile(dsn, None, FileImport(self._file), as_of, ends_max)
        except TooManyEnds:
            return None
        kinds = ("activated", "terminated", "holder_changed", "updated", "newer")
        return {kind: count for kind in kinds if (count := getattr(done, kind))}

    async def ends_left(self) -> int:
        left: int = await self._dba.fetchval("SELECT registry.ends_left()")
        return left

    async def let_hour_pass(self) -> None:
        """What was counted and which waves began are of an hour ago now."""
        await self._dba.execute(
            "UPDATE registry.ends_recorded SET recorded_at = recorded_at - interval '2 hours'; "
            "UPDATE registry.wave SET began_at = began_at - interval '2 hours', last_at = last_at - interval '2 hours'"
        )

    async def allow(self, ends: int) -> None:
        async with self._db.connection() as connection:
            await feed.allow_ends(connection, ends, await self.now() + LATER, REASON)

    async def hold(self, messenger: int | None) -> bool:
        return await holds.hold(self._db, None if messenger is None else MessengerId(messenger), REASON)

    async def let_go(self, messenger: int | None) -> bool:
        return await holds.release(self._db, None if messenger is None else MessengerId(messenger), REASON)

    async def is_held_back(self, messenger: int) -> tuple[bool, bool]:
        """By a person, and by a wave."""
        by_hand, in_wave = await holds.find(self._db, MessengerId(messenger))
        return by_hand, in_wave

    async def release(self, wave: int) -> None:
        async with self._db.connection() as connection:
            while await holds.release_wave(connection, await self._wave_id(wave), REASON):
                pass

    async def _wave_id(self, wave: int) -> int:
        found: int = await self._dba.fetchval("SELECT wave_id FROM registry.wave ORDER BY wave_id OFFSET $1 LIMIT 1", wave)
        return found

    # What two persons undo

    async def reinstate(
        self, *, wave: int | None = None, since: datetime | None = None, numbers: Sequence[int] | None = None
    ) -> Counter[tuple[str, str]]:
        """Returns how many contracts, bindings and notices had which outcome; the dry run must have said the same."""
        ends = Ends(since, wave=None if wave is None else await self._wave_id(wave), numbers=None if numbers is None else list(numbers))
        request = await breakglass.request_reinstate(self._asks, ends, REASON)
        await breakglass.approve(self._approves, request)
        expected = await breakglass.reinstate(self._asks, request, dry_run=True)
        done = await breakglass.reinstate(self._asks, request)
        assert done == expected
        told: Counter[tuple[str, str]] = Counter()
        for row in done:
            told[row.what, row.outcome] += row.quantity
        return told

    async def withdraw(self, *, wave: int | None = None, messenger: int | None = None) -> int:
        """Returns how many."""
        name = await self._dba.fetchval("SELECT name FROM registry.messenger WHERE messenger_id = $1", messenger)
        notices = Notices(name, wave=None if wave is None else await self._wave_id(wave))
        request = await breakglass.request_withdraw(self._asks, notices, REASON)
        await breakglass.approve(self._approves, request)
        return sum(row.notifications for row in await breakglass.withdraw(self._asks, request) if row.outcome == "withdrawn")

    async def declare(self, *, is_complete: bool) -> None:
        """A person says whether the registry holds every contract."""
        async with self._db.connection() as connection:
            await (feed.declare_complete if is_complete else feed.declare_incomplete)(connection, REASON)

    async def fold(self) -> None:
        await self._dba.execute("SELECT registry.fold_movements(), registry.fold_ends()")

    # Deliveries

    async def push(
        self, messenger: int, delivered: Iterable[Key], refused: Iterable[Key], *, later: bool, is_stale: bool
    ) -> set[Key] | None:
        """One lease of the messenger's lane, as a deliver process works it: reads what is due, and writes a receipt or a refusal for some.
        `is_stale`: another process has taken the lane meanwhile. Returns what was due; None where the lane was not leased.
        """
        async with self._db.connection() as connection:
            leases = await lanes.lease(connection, "one", 100, [MessengerId(m) for m in self.messengers if m != messenger], None)
        if not leases:
            return None
        (lease,) = leases
        due = await notifications.read_due(self._db, MessengerId(messenger), notifications.BEGINNING, 1000)
        found = {Key(messenger, n.msisdn, n.generation, n.undoes is not None): n for n in due}
        assert len(found) == len(due), "two notices of one messenger, number and generation"
        token = lease.token - is_stale
        wait = LATER if later else timedelta(0)
        receipts, refusals = [found[key].notification_id for key in delivered], [found[key].notification_id for key in refused]
        attempts = [Attempt(await self.now(), len(ids), outcome, status, 1, error) for ids, outcome, status, error in (  # type: ignore[arg-type]
            (receipts, "acknowledged", 204, None), (refusals, "rejected", 422, "status 422")) if ids]  # fmt: skip
        async with self._db.transaction() as connection:
            await notifications.settle_push(
                connection, MessengerId(messenger), token, receipts, [(id_, wait, "status 422") for id_ in refusals], attempts
            )
        await lanes.release(self._db, lease, Progress(notifications.BEGINNING, timedelta(0)), succeeded=bool(receipts))
        return set(found)

    async def pull(self, messenger: int) -> set[Key]:
        owed = await notifications.read_owed(self._db, MessengerId(messenger), notifications.BEGINNING, 1000)
        assert [n.deadline_at for n in owed] == sorted(n.deadline_at for n in owed)
        return {Key(messenger, n.msisdn, n.generation, n.undoes is not None) for n in owed}

    async def acknowledge(self, messenger: int, keys: Iterable[Key]) -> int:
        """`keys` may name what is settled already, or another messenger's."""
        return await notifications.acknowledge(self._db, MessengerId(messenger), [self._ids[key] for key in keys])

    async def replay(self, messenger: int, keys: Iterable[Key]) -> None:
        async with self._dba.transaction():
            replay = await self._dba.fetchval(
                "INSERT INTO registry.replay (messenger_id, per_second) VALUES ($1, 100) RETURNING replay_id", messenger
            )
            await self._dba.execute(
                "INSERT INTO registry.replayed_notification (replay_id, messenger_id, notification_id) SELECT $1, $2, unnest($3::uuid[])",
                replay,
                messenger,
                [self._ids[key] for key in keys],
            )
            await self._dba.execute("SELECT registry.owe_again($1, 1000)", replay)

    # What is there

    async def contracts(self) -> list[asyncpg.Record]:
        return await self._dba.fetch(
            "SELECT msisdn, generation, status::text, holder::text, end_user::text, started_at, ended_at, end_reason::text, recorded_at "
            "FROM registry.contract ORDER BY msisdn, generation"
        )

    async def bindings(self) -> list[asyncpg.Record]:
        return await self._dba.fetch("SELECT msisdn, generation, messenger_id, identification_code, end_reason::text FROM registry.binding")

    async def owed(self) -> dict[Key, asyncpg.Record]:
        rows = await self._dba.fetch("SELECT *, not_before > now() AS is_deferred FROM registry.notification")
        return self._noted(rows)

    async def held(self) -> dict[Key, asyncpg.Record]:
        return self._noted(
            await self._dba.fetch(
                "SELECT h.*, (SELECT count(*) FROM registry.wave AS w WHERE w.wave_id < h.wave_id) AS wave "
                "FROM registry.notification_held AS h"
            )
        )

    async def withdrawn(self) -> dict[Key, asyncpg.Record]:
        return self._noted(await self._dba.fetch("SELECT * FROM registry.notification_withdrawn"))

    async def delivered(self) -> dict[Key, asyncpg.Record]:
        return self._noted(await self._dba.fetch("SELECT *, via::text AS channel FROM registry.notification_delivered"))

    def _noted(self, rows: Sequence[asyncpg.Record]) -> dict[Key, asyncpg.Record]:
        found = {Key(row["messenger_id"], row["msisdn"], row["generation"], row.get("undoes") is not None): row for row in rows}
        assert len(found) == len(rows), "two notices of one messenger, number and generation"
        for key, row in found.items():
            known = self._ids.setdefault(key, row["notification_id"])
            assert known == row["notification_id"], "a notice has changed its id"
        return found

    async def figures(self) -> dict[str, Any]:
        """As tests/model/figures.py counts them."""
        named = "JOIN registry.messenger AS m ON m.name = r.messenger"
        of = self._dba.fetch
        return {
            "binding_by_messenger": {
                row[0]: tuple(row)[1:]
                for row in await of(
                    f"SELECT m.messenger_id, r.live, r.terminated, r.replaced, r.removed FROM report.binding_by_messenger AS r {named}"
                )
            },
            "contract_daily": {
                row[0]: tuple(row)[1:]
                for row in await of("SELECT day, activated, terminated, ported_out, holder_changed FROM report.contract_daily")
                if any(tuple(row)[1:])
            },
            "notification_backlog": {
                row[0]: tuple(row)[1:]
                for row in await of(f"SELECT m.messenger_id, r.pending, r.overdue, r.held FROM report.notification_backlog AS r {named}")
            },
            "notification_deadline": {
                (row[0], row[1]): tuple(row)[2:]
                for row in await of(
                    f"SELECT r.day, m.messenger_id, r.in_time, r.late, r.overdue, r.pending FROM report.notification_deadline AS r {named}"
                )
                if any(tuple(row)[2:])
            },
            "wave": [tuple(row) for row in await of("SELECT ends, notifications, released, withdrawn FROM report.wave ORDER BY wave_id")],
            "feed_lag": {(row[0], row[1]): row[2] for row in await of("SELECT type, outcome, events FROM report.feed_lag")},
            "delivery_attempt_daily": {
                (row[0], row[1], row[2]): row[3]
                for row in await of(
                    f"SELECT m.messenger_id, r.outcome, r.http_status, r.notifications FROM report.delivery_attempt_daily AS r {named}"
                )
            },
            "presence_daily": {
                row[0]: tuple(row)[1:]
                for row in await of(f"SELECT m.messenger_id, r.present, r.absent FROM report.presence_daily AS r {named}")
            },
        }
