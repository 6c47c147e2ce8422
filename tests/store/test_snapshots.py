"""`contracts import --snapshot`: the registry is made to agree with billing's table, by exactly what differs, and by nothing half."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registryd.domain.contract import Event
from registryd.domain.files import ImportRefused
from registryd.domain.identifiers import Msisdn
from registryd.feed import snapshot
from registryd.feed.events import ContractFeed
from registryd.feed.snapshot import FileImport
from registryd.store.snapshots import Owed, Reconciled, TooManyEnds
from tests.conftest import TestDatabase, eventually
from tests.store.billing import BAD, FIRST, STARTED, add_bindings, billing, changed, counts, everything, history, live, take, write
from tests.store.conftest import explaining, waits

UNPACED = (1, None, 5_000)
"""Of a messenger that takes single notifications and has received none: batch_max, latency_ms, echo_per_s."""


def test_a_later_snapshot_changes_exactly_what_differs_and_its_dry_run_says_so(database: TestDatabase, tmp_path: Path) -> None:
    before = billing(20_000)
    path = write(tmp_path / "billing.csv", before)
    assert take(database, path) == Reconciled(20_000, 0, 20_000, 0, 0, 0, 0, 0, [], is_complete=True, outside=0)
    assert live(database) == before
    names = add_bindings(database, 20_000, 7_000)
    after, changes = changed(before, 0.05)
    write(path, after)
    as_of = datetime.now(UTC)
    ends = changes["gone"] + changes["held"] + changes["kind"]
    owed = [Owed(names[0], len(ends), *UNPACED), Owed(names[1], sum(number < FIRST + 7_000 for number in ends), *UNPACED)]
    expected = Reconciled(
        len(after),
        20_000,
        len(changes["new"]),
        len(changes["gone"]),
        len(changes["held"] + changes["kind"]),
        len(changes["updated"]),
        0,
        0,
        owed,
    )
    untouched = everything(database)
    would = take(database, path, as_of=as_of, dry_run=True)
    assert would == expected._replace(absent=would.absent)
    assert everything(database) == untouched
    assert take(database, path, as_of=as_of) == expected._replace(absent=would.absent, is_complete=True, outside=0)
    # Of a holder of another kind, when it changed is known no closer than by the snapshot's own time.
    wanted = {
        number: (*facts[:3], f"{as_of:%Y-%m-%dT%H:%M:%SZ}" if number in set(changes["kind"]) else facts[3])
        for number, facts in after.items()
    }
    assert live(database) == wanted
    reasons = "string_agg(coalesce(end_reason::text, 'live'), ' ' ORDER BY generation)"
    found = database.psql(
        "-Atc", f"SELECT msisdn, {reasons} FROM registry.contract GROUP BY msisdn HAVING max(ended_at) IS NOT NULL"
    ).stdout
    held = {f"{number}|holder_changed live" for number in changes["held"] + changes["kind"]}
    assert set(found.splitlines()) == held | {f"{number}|terminated" for number in changes["gone"]}
    count = "SELECT count(*), count(DISTINCT (messenger_id, msisdn, generation)) FROM registry.notification"
    assert database.psql("-Atc", count).stdout == f"{expected.notifications}|{expected.notifications}\n"
    assert (
        database.psql("-Atc", "SELECT count(*) FROM registry.binding WHERE ended_at IS NULL").stdout
        == f"{27_000 - expected.notifications}\n"
    )
    untouched = everything(database)
    assert take(database, path) == Reconciled(len(after), len(after), 0, 0, 0, 0, 0, 0, [], is_complete=True, outside=0)
    assert everything(database) == untouched


def test_the_first_snapshot_is_loaded_under_every_rule_of_the_table(database: TestDatabase, tmp_path: Path) -> None:
    definitions = (
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'registry' "
        "UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 1"
    )
    before = database.psql("-Atc", definitions).stdout
    table = dict(reversed(billing(3_000).items()))
    path = write(tmp_path / "billing.csv", table)
    assert take(database, path, dry_run=True).activated == 3_000
    assert live(database) == {}
    assert take(database, path).activated == 3_000
    assert database.psql("-Atc", definitions).stdout == before
    assert live(database) == dict(sorted(table.items()))
    assert database.psql("-Atc", "SELECT sum(activated) FROM registry.contract_movement").stdout == "3000\n"


def test_a_first_load_is_checked_in_one_pass_and_not_a_line_against_every_other(database: TestDatabase) -> None:
    async def run() -> None:
        async with explaining(database, {}) as explained:
            await explained.connection.execute(
                "SELECT registry.make_import_staging(); INSERT INTO import_contract (msisdn, started_at, status, holder, end_user) "
                "SELECT 79160000000 + n, now(), 'active', 'individual', 'not_required' FROM generate_series(1, 3000) AS n"
            )
            await explained.connection.execute("SELECT registry.load_first(now())")
            assert (await explained.plans("FROM added AS a"))[-1].rows_touched() < 3_000 * 10

    asyncio.run(run())


def test_a_fast_first_load_is_for_an_empty_registry_and_its_own_staging_alone(database: TestDatabase, tmp_path: Path) -> None:
    own = "BEGIN; CREATE TEMP TABLE import_contract (LIKE registry.contract); SELECT registry.load_first(now())"
    refused = database.psql("-c", own, user="registryd_app")
    assert "was not made by registry.make_import_staging" in refused.stderr
    take(database, write(tmp_path / "billing.csv", billing(1)))
    refused = database.psql("-c", "BEGIN; SELECT registry.make_import_staging(); SELECT registry.load_first(now())", user="registryd_app")
    assert "registry.contract holds contracts already" in refused.stderr


@pytest.mark.parametrize("already", [0, 5, 7_000], ids=["first", "later", "known"])
def test_two_lines_on_one_number_are_refused_by_line(database: TestDatabase, tmp_path: Path, already: int) -> None:
    """Beside each other, or with bad lines and a block's end between them; on a number that has a contract, or has none yet."""
    path = tmp_path / "billing.csv"
    take(database, write(path, billing(already)))
    again = f"{FIRST + 5},individual,not_required,active,{STARTED}"
    far = [f"{FIRST + 6 + i},individual,not_required,active,{STARTED}" for i in range(6_000)]
    for more, lines in (([again, again], (8, 9)), ([BAD, again, *far], (9,)), ([*far, BAD, again], (6_009,))):
        for dry_run in (True, False):
            with pytest.raises(ImportRefused) as refused:
                take(database, write(path, billing(6), *more), dry_run=dry_run, rejects_max=1)
            assert str(refused.value) == "\n".join(f"line {line}: the same msisdn stands on an earlier line" for line in lines)
    assert live(database) == billing(already)


def test_what_the_registry_learned_after_the_snapshot_is_not_undone(database: TestDatabase, tmp_path: Path) -> None:
    table = billing(8)
    path = write(tmp_path / "billing.csv", table)
    take(database, path)
    as_of = datetime.now(UTC)
    gone, suspended, held, new, touched = (FIRST + 1, FIRST + 2, FIRST + 4, FIRST + 100, FIRST + 7)

    async def events() -> None:
        async with database.pool() as pool:
            feed = ContractFeed(pool, bytes(32))
            happened = [("terminated", gone), ("suspended", suspended), ("holder_changed", held), ("activated", new)]
            sent = [
                Event(event_id=str(number), type=kind, msisdn=Msisdn(number), occurred_at=datetime.now(UTC))  # type: ignore[arg-type]
                for kind, number in happened
            ]
            assert [result.outcome for result in await feed.apply(sent)] == ["applied"] * 4

    asyncio.run(events())
    database.psql("-c", f"UPDATE registry.contract SET status = 'suspended' WHERE msisdn = {touched}")
    after = everything(database)
    # The snapshot does not know of any of them, and lacks one that was not touched since.
    del table[FIRST + 5]
    found = take(database, write(path, table), as_of=as_of)
    assert counts(found) == Reconciled(7, 8, 0, 1, 0, 0, 5, 0, [])
    assert history(database, FIRST + 5)[0][3] == "terminated"
    assert len(set(after.splitlines()) - set(everything(database).splitlines())) == 1
    # A snapshot of later is believed again.
    table[new] = ("individual", "not_required", "active", STARTED)
    found = take(database, write(path, table))
    assert counts(found) == Reconciled(8, 7, 1, 0, 1, 2, 0, 0, [])


def test_what_changes_while_a_snapshot_is_compared_is_newer_too(database: TestDatabase, tmp_path: Path) -> None:
    """The comparison has been made, the lock of the feed not yet taken: a DBA ends, changes and starts contracts."""
    path = write(tmp_path / "billing.csv", billing(6))
    take(database, path)
    table = {number: (*facts[:2], "suspended", facts[3]) for number, facts in billing(6).items() if number != FIRST + 1}
    table[FIRST + 9] = ("individual", "not_required", "active", STARTED)

    def step(name: str) -> None:
        if name == "applying":
            done = database.psql(
                *("-c", f"UPDATE registry.contract SET ended_at = now() WHERE msisdn IN ({FIRST + 2}, {FIRST + 3})"),
                *("-c", f"UPDATE registry.contract SET status = 'suspended' WHERE msisdn = {FIRST + 1}"),
                *(
                    "-c",
                    f"INSERT INTO registry.contract VALUES ({FIRST + 9}, '{STARTED}', now(), 'active', 'individual', 'not_required', 1)",
                ),
            )
            assert done.returncode == 0, done.stderr

    # The first of the numbers was suspended from the beginning.
    assert counts(take(database, write(path, table), step=step)) == Reconciled(6, 6, 0, 0, 0, 2, 4, 0, [])
    assert [facts[2] for facts in live(database).values()] == ["suspended"] * 4 + ["active"]


def test_a_binding_that_is_being_recorded_is_waited_for_and_notified(database: TestDatabase, tmp_path: Path) -> None:
    path = write(tmp_path / "billing.csv", billing(2))
    take(database, path)
    (name,) = add_bindings(database, 0)
    write(path, billing(1))

    async def run() -> Reconciled:
        async with database.connect() as binding, database.connect() as looking:
            transaction = binding.transaction()
            await transaction.start()
            await binding.execute(
                "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) "
                "SELECT $1, 1, messenger_id, 'code' FROM registry.messenger",
                FIRST + 1,
            )
            dsn = database.dsn("registryd_app")
            importing = asyncio.create_task(snapshot.reconcile(dsn, None, FileImport(path), datetime.now(UTC), lambda live: live))
            find = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'registryd_app'"
            await waits(looking, await eventually(lambda: looking.fetchval(find)))
            await transaction.commit()
            return await importing

    assert asyncio.run(run()).owed == [Owed(name, 1, *UNPACED)]
    assert database.psql("-Atc", "SELECT count(*) FROM registry.notification").stdout == "1\n"


def test_a_number_that_had_holders_gets_its_next_generation_after_the_last_one_ended(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "billing.csv"
    take(database, write(path, billing(2)))
    take(database, write(path, {}))
    restored = {FIRST: ("individual", "not_required", "active", STARTED)}
    take(database, write(path, restored))
    take(
        database,
        write(path, {**restored, FIRST + 1: ("individual", "not_required", "active", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")}),
    )
    assert [[row[:4] for row in history(database, number)] for number in (FIRST, FIRST + 1)] == [
        [("1", "ended", "individual", "terminated"), ("2", "active", "individual", "")],
        [("1", "ended", "organisation", "terminated"), ("2", "active", "individual", "")],
    ]
    starts = (
        "SELECT bool_and(n.started_at >= l.ended_at) FROM registry.contract AS l "
        "JOIN registry.contract AS n ON (n.msisdn, n.generation) = (l.msisdn, l.generation + 1)"
    )
    assert database.psql("-Atc", starts).stdout == "t\n"


def test_a_snapshot_that_would_end_too_many_is_refused_and_says_how_to_go_on(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "billing.csv"
    take(database, write(path, billing(100)))
    before = everything(database)
    write(path, billing(98))
    for dry_run in (True, False):
        with pytest.raises(
            TooManyEnds, match=r"would end 2 of 100 live contracts \(2.00%\) and turn 1 absent, .*--max-terminations 2 --max-absent 1$"
        ) as refused:
            take(database, path, ends_max=lambda live: live // 100, dry_run=dry_run)
        assert refused.value.would.terminated == 2
        assert everything(database) == before
    assert take(database, path, ends_max=lambda _: 2).terminated == 2


def test_what_a_snapshot_wrote_is_as_old_as_the_snapshot_so_that_the_next_may_change_it(database: TestDatabase, tmp_path: Path) -> None:
    path, now = tmp_path / "billing.csv", datetime.now(UTC)
    first, second, third = (now - timedelta(days=days) for days in (3, 2, 1))
    one, two, three, four = (f"{(now - timedelta(days=days)):%Y-%m-%dT%H:%M:%SZ}" for days in (90, 80, 70, 60))
    active = ("individual", "not_required", "active")
    take(database, write(path, {FIRST: (*active, one), FIRST + 1: (*active, one), FIRST + 2: (*active, one)}), as_of=first)
    suspended = ("individual", "not_required", "suspended", one)
    changed = take(database, write(path, {FIRST: suspended, FIRST + 1: (*active, two), FIRST + 3: (*active, three)}), as_of=second)
    assert (changed.updated, changed.holder_changed, changed.activated, changed.terminated, changed.newer) == (1, 1, 1, 1, 0)
    stale = take(database, write(path, {FIRST: (*active, one)}), as_of=second - timedelta(hours=1))
    assert (stale.newer, stale.ends, stale.updated) == (3, 0, 0), "what a later snapshot said stands"
    changed = take(database, write(path, {FIRST: (*active, one), FIRST + 1: (*active, four)}), as_of=third)
    assert (changed.updated, changed.holder_changed, changed.terminated, changed.newer) == (1, 1, 1, 0)
    learned = "count(*) FILTER (WHERE ended_at IS NULL AND recorded_at IS NOT NULL), string_agg(DISTINCT recorded_at::text, ' ')"
    at = database.psql("-Atc", f"SET timezone = 'UTC'; SELECT {learned} FROM registry.contract").stdout.split("|")
    assert at[0] == "0"
    assert [datetime.fromisoformat(f"{text}:00") for text in re.findall(r"\S+ \S+", at[1])] == [second, third], (
        "ends are told as of the snapshot"
    )
    database.psql("-c", f"UPDATE registry.contract SET status = 'suspended' WHERE msisdn = {FIRST} AND ended_at IS NULL")
    assert take(database, path, as_of=third).newer == 1, "and what a DBA did since, too"


def test_two_snapshots_of_one_time_record_what_they_end_as_of_that_time(database: TestDatabase, tmp_path: Path) -> None:
    """The first updates a contract that an event began, so its time is the snapshot's already when the second ends it."""
    activated = Event(
        event_id="e1", type="activated", msisdn=Msisdn(FIRST), occurred_at=datetime(2020, 1, 1, tzinfo=UTC), holder="individual"
    )

    async def tell() -> None:
        async with database.pool() as pool:
            await ContractFeed(pool, bytes(32)).apply([activated])

    asyncio.run(tell())
    as_of = datetime.now(UTC)
    suspended = {FIRST: ("individual", "not_required", "suspended", STARTED)}
    assert take(database, write(tmp_path / "first.csv", suspended), as_of=as_of).updated == 1
    assert take(database, write(tmp_path / "second.csv", {}), as_of=as_of).terminated == 1
    told = database.psql("-Atc", f"SELECT ended_at = '{as_of}', recorded_at = '{as_of}' FROM registry.contract").stdout
    assert told == "t|t\n"


def test_how_long_delivery_takes_is_told_by_the_pushes_of_the_last_day_and_the_policy() -> None:
    def hours(*owed: Owed) -> float | None:
        return Reconciled(0, 0, 0, 0, 0, 0, 0, 0, [*owed]).delivery_hours(16)

    assert hours() == 0
    assert hours(Owed("a", 36_000, 1, 500.0, None)) == 36_000 / 32 / 3600
    assert hours(Owed("a", 36_000, 100, 500.0, None)) == 36_000 / 3_200 / 3600
    assert hours(Owed("a", 36_000, 100, 0.0, 100), Owed("b", 36_000, 100, 1.0, 100)) == 72_000 / 100 / 3600
    assert hours(Owed("a", 36_000, 1, 500.0, None), Owed("b", 1, 1, None, None)) is None
