"""Each view on a registry with 100 messengers, about which everything is known."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import msgspec
import pytest

from registryd.domain.errors import TooLong, Unavailable
from registryd.http.views import NAMED, PLAIN
from registryd.store import changes
from registryd.store import feed as store
from registryd.store.pool import Database
from registryd.store.reading import reading
from registryd.views import alarms, answering, backlog, duty, feed, find, lanes, policy, presence, processes, reports
from registryd.views.shape import NothingThere, encode
from tests.conftest import TestDatabase
from tests.store.conftest import add_contracts, add_messengers, bind
from tests.views.conftest import CODE, FIRST, MESSENGERS, NUMBERS, seen


def test_duty_tells_what_a_person_must_do_the_worst_first(crowd: TestDatabase) -> None:
    found = seen(crowd, duty.read)
    assert [(p.severity, p.code, p.messenger, p.link) for p in found.problems] == [
        ("page", "role_missing", None, "processes"),
        ("page", "overdue", "m001", "lanes/m001"),
        ("warning", "alarm", "m003", "alarms"),
        ("warning", "process_silent", None, "processes"),
        ("warning", "slack_low", "m002", "lanes/m002"),
        ("warning", "lane_gated", "m002", "lanes/m002"),
        ("warning", "held", "m004", "backlog"),
        ("warning", "feed_waiting", None, "feed"),
    ]
    assert (found.registry_complete, found.pending, found.overdue, found.late_today) == (True, 5, 3, 0)
    assert [(r.role, r.processes) for r in found.roles] == [("answer", 2), ("deliver", 1), ("operate", 0)]
    assert (found.alarms_in_force, found.lanes_gated, found.holds, found.waves_held) == (1, 1, 1, 0)
    assert found.tightest is not None
    assert (found.tightest.messenger, found.tightest.is_too_slow) == ("m001", True)
    assert -3700 < found.tightest.slack_seconds < -3500
    assert found.law.next_from is not None


def test_a_registry_that_is_not_complete_and_a_notification_that_came_late_are_told(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            (messenger_id,) = await add_messengers(dba, 1)
            await add_contracts(dba, 2)
            await bind(dba, messenger_id, 2)
            await dba.execute("UPDATE registry.contract SET ended_at = now() - interval '25 hours'")
            owed = await dba.fetch("SELECT notification_id FROM registry.notification")
            await dba.execute("SELECT registry.settle_by_hand($1, $2, 'courier', NULL)", messenger_id, [owed[0]["notification_id"]])
            await dba.execute("SELECT registry.declare_incomplete('a restore')")
            found = await duty.read(db)
            assert (found.problems[0].code, found.late_today, found.overdue) == ("registry_incomplete", 1, 1)
            assert "late" in [p.code for p in found.problems]

    asyncio.run(run())


def test_a_change_that_a_messenger_asks_for_needs_a_person_until_it_is_decided(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            (messenger_id,) = await add_messengers(dba, 1)
            await dba.execute("INSERT INTO registry.messenger_key VALUES ('aaaaaaaa', $1, sha256(''))", messenger_id)
            asked = await changes.request_endpoint(db, messenger_id, "aaaaaaaa", "https://example.net/")  # type: ignore[arg-type]
            (told,) = [p for p in (await duty.read(db)).problems if p.code == "change_requested"]
            assert (told.severity, told.link) == ("warning", "changes")
            await changes.refuse(db, asked.change_id, "nobody asked for it", "anna")
            assert "change_requested" not in [p.code for p in (await duty.read(db)).problems]

    asyncio.run(run())


def test_backlogs_are_there_for_every_messenger_the_tightest_first(crowd: TestDatabase) -> None:
    found = seen(crowd, backlog.read)
    assert len(found.messengers) == MESSENGERS
    assert [b.messenger for b in found.messengers[:4]] == ["m001", "m002", "m000", "m003"]
    first, second, *_ = found.messengers
    assert (first.endpoint, second.endpoint, second.pending, second.overdue) == ("healthy", "gated", 1, 0)
    assert second.last_error == "the connection was refused"
    assert found.pending == sum(b.pending for b in found.messengers)
    assert [(h.messenger, h.reason) for h in found.holds] == [("m004", "a person looks at +*")]
    assert [b.messenger for b in found.messengers if b.is_held] == ["m004"]


def test_a_held_wave_is_told_with_what_it_holds(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            await dba.execute("SELECT registry.change_policy('{\"ends_max\": 1, \"ends_max_share\": 0}', now(), 'a test')")
            (messenger_id,) = await add_messengers(dba, 1)
            await add_contracts(dba, 3)
            await bind(dba, messenger_id, 3)
            await dba.execute("UPDATE registry.contract SET ended_at = now()")
            owed, now = await backlog.read(db), await duty.read(db)
            assert [(w.wave, w.ends, w.notifications, w.held, w.released) for w in owed.waves] == [(1, 3, 3, 3, 0)]
            assert (owed.pending, owed.held, now.held, now.waves_held) == (3, 3, 3, 1)
            assert ("page", "wave_held") in [(p.severity, p.code) for p in now.problems]

    asyncio.run(run())


def test_a_large_backlog_is_told_exactly_though_it_is_not_counted_row_by_row(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            messenger_id, other = await add_messengers(dba, 2)
            await dba.execute(
                "INSERT INTO registry.notification (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, "
                "identification_code, replayed) "
                "SELECT $1, 1, d.at, registry.id_at(d.at), 79160000000, d.at - interval '1 day', 'x', i > 3100 "
                "FROM generate_series(1, 3200) AS i, "
                "LATERAL (SELECT date_trunc('minute', now()) + CASE WHEN i > 2600 THEN 1 ELSE -1 END * interval '10 minutes' AS at) AS d",
                messenger_id,
            )
            owed = {b.messenger: b for b in (await backlog.read(db)).messengers}
            names = {r["messenger_id"]: r["name"] for r in await dba.fetch("SELECT messenger_id, name FROM registry.messenger")}
            large, small = owed[names[messenger_id]], owed[names[other]]
            assert (large.pending, large.overdue, large.replayed) == (3200, 2600, 100)
            assert (small.pending, small.overdue) == (0, 0)

    asyncio.run(run())


def test_lanes_tell_who_fails_and_why_and_no_secret_of_an_address(crowd: TestDatabase) -> None:
    found = seen(crowd, lanes.read).lanes
    assert len(found) == MESSENGERS
    first = found[0]
    assert (first.messenger, first.state, first.failures, first.last_error) == ("m002", "gated", 7, "the connection was refused")
    assert (first.endpoint, first.push_p50_seconds, first.failed_share) == ("https://m2.example.net/hook", 0.13, 0.2)
    by_name = {lane.messenger: lane for lane in found}
    assert (by_name["m007"].state, by_name["m007"].endpoint) == ("none", None)
    assert by_name["m001"].process == "here deliver@1"
    assert b"wombat" not in encode(seen(crowd, lanes.read))


def test_one_lane_tells_its_last_twenty_pushes_the_newest_first(crowd: TestDatabase) -> None:
    found = seen(crowd, lambda db: lanes.read_one(db, "m002"))
    assert len(found.attempts) == 20
    assert [a.latency_seconds for a in found.attempts[:3]] == [0.01, 0.02, 0.03]
    assert [(a.outcome, a.http_status, a.error) for a in found.attempts[4:5]] == [("failed", 502, "status 502")]
    assert (found.lane.messenger, found.backlog.messenger, found.backlog.pending) == ("m002", "m002", 1)


def test_presence_tells_rates_and_who_was_refused_why(crowd: TestDatabase) -> None:
    found = seen(crowd, presence.read)
    now = found.answering
    assert 0 < now.queries_per_second <= 6
    assert (now.p50_seconds, now.p99_seconds, now.failed_share) == (0.004, 0.0097, 0.0033)
    assert (now.queries_today, now.absent_ratio, found.present_today, found.absent_today) == (1000, 0.03, 970, 30)
    assert [(r.reason, r.refusals) for r in found.refusals] == [("budget", 9), ("quota", 4)]
    first = found.messengers[0]
    assert (first.messenger, first.queries, first.quota, first.absent_ratio) == ("m006", 1000, 5000, 0.03)
    assert first.refusals == found.refusals
    assert len(found.messengers) == MESSENGERS
    assert len(found.trend) == 60
    assert sum(m.queries for m in found.trend) == 1800
    assert [m.p99_seconds for m in found.trend if m.requests] == [0.0097] * 3
    assert {m.p99_seconds for m in found.trend if not m.requests} == {None}


def test_feed_tells_lag_refusals_what_waits_and_the_last_snapshot(crowd: TestDatabase) -> None:
    found = seen(crowd, feed.read)
    assert found.complete
    assert found.mean_lag_seconds == pytest.approx(10, abs=0.1)
    assert found.worst_lag_seconds == pytest.approx(10, abs=0.1)
    assert {t.outcome: t.events for t in found.types} == {"applied": 30, "refused": 10}
    assert [(r.reason, r.events) for r in found.refused] == [("known", 8), ("too early", 2)]
    assert found.waiting == 1
    assert [(w.event_id, w.reason, round(w.waited_seconds / 60)) for w in found.waiting_events] == [("crm-*", "no_contract_yet", 60)]
    assert found.snapshot is not None
    assert msgspec.structs.astuple(found.snapshot)[2:] == (600, 2, 3, 4, 5)
    assert len(found.trend) == 60
    assert sum(m.events for m in found.trend) == 40
    assert found.events_per_minute == 8.0


def test_processes_tell_who_is_up_and_what_each_has_in_hand(crowd: TestDatabase) -> None:
    found = seen(crowd, processes.read)
    assert [(p.role, p.host, p.instance, p.is_up, p.lanes, p.version) for p in found.processes] == [
        ("answer", "here", 1, True, 0, "0.1.0"),
        ("answer", "here", 2, True, 0, "0.1.0"),
        ("deliver", "here", 1, True, 1, "0.1.0"),
        ("deliver", "there", 1, False, 0, "0.0.9"),
    ]
    assert found.database.size_bytes > 1_000_000


def test_sessions_are_counted_whoever_has_them_and_by_the_process_that_they_name(crowd: TestDatabase) -> None:
    """A role like the daemon's sees little of the sessions of other roles."""

    async def run() -> processes.Processes:
        async with AsyncExitStack() as stack:
            for _ in range(9):
                other = await asyncpg.connect(crowd.dsn(), server_settings={"application_name": "registryd answer@2 answers"})
                stack.push_async_callback(other.close)
            return await asyncio.to_thread(seen, crowd, processes.read)

    found = asyncio.run(run())
    assert {(p.role, p.instance): p.connections for p in found.processes if p.connections} == {("answer", 2): 9}
    assert 9 < found.database.connections < found.database.connections_max


def test_alarms_in_force_come_first(crowd: TestDatabase) -> None:
    found = seen(crowd, alarms.read)
    assert (found.in_force, found.queries_per_minute) == (1, 60)
    assert [(a.messenger, a.kind, a.in_force, a.signs) for a in found.alarms] == [("m003", "canary", True, 3), ("m003", "absent", False, 1)]


def test_policies_tell_what_each_changes(crowd: TestDatabase) -> None:
    planned, in_force = seen(crowd, policy.read).policies
    assert (planned.state, in_force.state) == ("planned", "in_force")
    assert [(r.name, r.before, r.value) for r in planned.rules if r.differs] == [("notice_within", "24:00:00", "12:00:00")]
    assert not any(r.differs or r.before for r in in_force.rules)
    assert in_force.superseded_at == planned.effective_from


def test_quantiles_lie_within_their_bucket_and_are_unknown_without_figures() -> None:
    assert answering.quantile([], 0.5) is None
    assert answering.quantile([0, 0], 0.99) is None
    assert answering.quantile([100], 0.5) == 0.0005
    assert answering.quantile([50, 50], 0.5) == 0.001
    assert answering.quantile([0] * 15 + [3], 0.5) == 1200, "beyond the last bound nothing is known"


def test_a_minute_that_is_not_whole_is_no_part_of_the_feeds_trend(database: TestDatabase) -> None:
    async def run() -> None:
        async with database.pool() as db, database.connect() as dba:
            await dba.execute(
                "INSERT INTO registry.feed_event (event_id, type, content, outcome, occurred_at, recorded_at) "
                "SELECT 'e' || i, 'activated', decode(repeat('00', 16), 'hex'), 'applied', now(), now() - i * interval '1 second' "
                "FROM generate_series(0, 1199) AS i"
            )
            async with reading(db) as moment:
                whole = await moment.fetch(store.READ_MINUTES, 60, 2000)
                newest = await moment.fetch(store.READ_MINUTES, 60, 200)
        assert len(whole) == 60
        assert {m.events for m in whole[-15:]} == {60}
        assert [m.events for m in newest] == [60] * len(newest)
        assert 2 <= len(newest) <= 3

    asyncio.run(run())


def test_no_view_tells_a_number_or_a_code(crowd: TestDatabase) -> None:
    """Nor does what a person wrote, such as a hold's reason or a policy's note."""

    async def run() -> list[bytes]:
        async with crowd.pool() as db:
            told = [encode(await read(db)) for read in PLAIN.values()]
            for name in ("m001", "m004"):
                told += [encode(await lanes.read_one(db, name)), encode(await find.find(db, name))]
            names = [report.name for report in (await reports.list_all(db)).reports]
            return told + [encode(await reports.read(db, name)) for name in names]

    told = b"".join(asyncio.run(run()))
    assert b"m001" in told
    assert CODE.encode() not in told
    assert not [n for n in range(FIRST, FIRST + NUMBERS) if str(n).encode() in told]


def test_an_unknown_name_is_nothing(crowd: TestDatabase) -> None:
    for read in NAMED.values():
        with pytest.raises(NothingThere):
            seen(crowd, lambda db, read=read: read(db, "nobody"))  # type: ignore[misc]


def test_who_looks_can_neither_write_nor_take_long(crowd: TestDatabase) -> None:
    async def run() -> None:
        async with crowd.pool() as db:
            with pytest.raises(Unavailable) as refused:
                async with reading(db) as moment:
                    await moment.connection.execute("UPDATE registry.lane SET failures = failures")
            assert isinstance(refused.value.__cause__, asyncpg.ReadOnlySQLTransactionError)
            with pytest.raises(Unavailable) as stopped:
                async with reading(db, 0.05) as moment:
                    await moment.connection.execute("SELECT pg_sleep(30)")
            assert isinstance(stopped.value, TooLong), "it is not told that the database is away"
            async with db.connection() as connection:
                assert await connection.fetchval("SHOW statement_timeout") == "0", "the bound is the transaction's"

    asyncio.run(run())


def test_a_view_whose_statements_take_long_together_is_told_as_one_that_takes_long(
    crowd: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registryd.store.reading.WHOLE_S", 0.2)

    async def look_for_ever(db: Database) -> None:
        async with reading(db) as moment:
            while True:
                await moment.connection.execute("SELECT pg_sleep(0.05)")

    async def run() -> None:
        async with crowd.pool(size=1) as db:
            with pytest.raises(TooLong):
                await look_for_ever(db)
            async with db.connection() as connection:
                assert await connection.fetchval("SELECT true"), "the connection is of use to the next"

    asyncio.run(run())


def test_json_has_times_with_milliseconds_and_names_in_camel_case(crowd: TestDatabase) -> None:
    told = msgspec.json.decode(encode(seen(crowd, alarms.read)))
    assert set(told) == {"seenAt", "inForce", "queriesPerMinute", "alarms"}
    assert len(told["seenAt"]) == len("2026-01-02T03:04:05.678Z")
    assert told["seenAt"].endswith("Z")
