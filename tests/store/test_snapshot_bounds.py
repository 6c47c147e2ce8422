"""A snapshot stops at one bound on ends and on absence, knows the same start in another dress, and says when the registry is whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registryd.domain.files import ImportRefused
from registryd.store.snapshots import TooManyEnds
from tests.conftest import TestDatabase
from tests.store.billing import FIRST, add_bindings, billing, everything, live, take, write


def sql(database: TestDatabase, statement: str, user: str = "postgres") -> str:
    done = database.psql("-AtF", ",", "-c", statement, user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bound(database: TestDatabase, ends: int) -> None:
    """As if the policy had always let so many contracts end in an hour."""
    sql(database, f"SET session_replication_role = replica; UPDATE registry.policy SET ends_max = {ends}, ends_max_share = 0")


def test_updates_that_turn_subscribers_absent_are_counted_and_stopped_at_the_bound(database: TestDatabase, tmp_path: Path) -> None:
    """A billing export that says `unregistered` of every organisation ends nobody, and would make each of their numbers absent."""
    path = tmp_path / "billing.csv"
    take(database, write(path, billing(300)))
    bound(database, 50)
    before = everything(database)
    wrong = {
        number: (holder, "unregistered" if end_user == "registered" else end_user, status, at)
        for number, (holder, end_user, status, at) in billing(300).items()
    }
    for dry_run in (True, False):
        with pytest.raises(TooManyEnds, match=r"would end 0 of 300 .* turn 100 absent, where 50 may end and 50 may turn absent") as refused:
            take(database, write(path, wrong), ends_max=None, dry_run=dry_run)
        assert (refused.value.would.updated, refused.value.would.absent) == (100, 100)
    assert everything(database) == before
    assert take(database, path, ends_max=None, absent_max=lambda _: 100).absent == 100
    assert live(database) == wrong
    assert take(database, write(path, billing(300)), ends_max=None).absent == 0, "who turns present is no danger"


def test_suspended_contracts_turn_absent_where_the_policy_says_so(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "billing.csv"
    people = {number: ("individual", "not_required", "active", facts[3]) for number, facts in billing(20).items()}
    take(database, write(path, people))
    suspended = {number: (*facts[:2], "suspended", facts[3]) for number, facts in people.items()}
    assert take(database, write(path, suspended), dry_run=True).absent == 0
    sql(database, "SET session_replication_role = replica; UPDATE registry.policy SET suspended_is_present = false")
    assert take(database, path, dry_run=True).absent == 20


def test_the_policys_bound_is_the_default_and_a_persons_bound_writes_its_own_allowance(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "billing.csv"
    people = {number: ("individual", "not_required", "active", facts[3]) for number, facts in billing(40).items()}
    take(database, write(path, people))
    add_bindings(database, 40)
    bound(database, 5)
    less = {number: facts for number, facts in people.items() if number >= FIRST + 10}
    with pytest.raises(TooManyEnds, match=r"would end 10 of 40 .*where 5 may end"):
        take(database, write(path, less), ends_max=None)
    sql(database, "INSERT INTO registry.wave_allowance (ends, until_at, reason) VALUES (5, now() + interval '1 hour', 'known')")
    assert take(database, path, ends_max=None, dry_run=True).ends == 10, "an allowance in force counts"
    sql(database, "DELETE FROM registry.wave_allowance")
    assert take(database, path, ends_max=lambda _: 10, dry_run=True).absent == 10
    assert sql(database, "SELECT count(*) FROM registry.wave_allowance") == "0"
    assert take(database, path, ends_max=lambda _: 10).ends == 10
    assert sql(database, "SELECT count(*) FROM registry.notification") == "10", "whom a person let end is notified, not held"
    assert sql(database, "SELECT count(*) FROM registry.wave") == "0"
    allowance = "SELECT ends, used, until_at > made_at, until_at <= made_at + interval '1 second' FROM registry.wave_allowance"
    assert sql(database, allowance) == "10,10,t,t", "it counts for this import alone"


@pytest.mark.parametrize(
    ("told", "billed"),
    [
        ("2026-03-02 12:14:00+00", "2026-03-02T12:14:00.25Z"),
        ("2026-03-01 21:30:00+00", "2026-03-02T00:00:00Z"),
        ("2026-03-01 12:30:00+00", "2026-03-02T00:00:00+00:00"),
        ("2026-03-02 12:14:00+00", "2026-03-02T12:14:00-03:00"),
        ("2026-03-02 12:14:00+00", "2026-03-03T12:13:59.999999Z"),
        ("2026-03-02 12:14:00+00", "2026-03-01T00:00:00Z"),
    ],
    ids=["fraction", "local day with Z", "Kamchatka's day with Z", "another offset", "just below a day", "earlier"],
)
def test_a_start_that_an_event_told_and_billing_dresses_otherwise_is_the_same_holders(
    database: TestDatabase, tmp_path: Path, told: str, billed: str
) -> None:
    path = tmp_path / "billing.csv"
    take(database, write(path, billing(3)))
    facts = f"{FIRST + 9}, 1, 'active', 'individual', 'not_required', '{told}', '{told}'"
    columns = "msisdn, generation, status, holder, end_user, started_at, recorded_at"
    sql(database, f"INSERT INTO registry.contract ({columns}) VALUES ({facts})")
    table = {**billing(3), FIRST + 9: ("individual", "not_required", "active", billed)}
    found = take(database, write(path, table))
    assert (found.ends, found.activated, found.updated) == (0, 0, 0)
    # It stays told by an event when a snapshot changes something else of it.
    table[FIRST + 9] = ("individual", "not_required", "suspended", billed)
    assert take(database, write(path, table))[2:6] == (0, 0, 0, 1)
    assert take(database, write(path, table))[2:6] == (0, 0, 0, 0)
    # A day later is the next holder.
    after = datetime.fromisoformat(told) + timedelta(days=1)
    table[FIRST + 9] = ("individual", "not_required", "suspended", f"{after:%Y-%m-%dT%H:%M:%SZ}")
    assert take(database, write(path, table))[2:6] == (0, 0, 1, 0)


def test_a_later_start_than_a_snapshot_told_is_the_next_holders_and_those_of_one_day_are_told_apart(
    database: TestDatabase, tmp_path: Path
) -> None:
    path = tmp_path / "billing.csv"
    take(database, write(path, billing(4)))
    dress = {number: (*facts[:3], "2020-01-01T00:00:00.5Z") for number, facts in billing(3).items()}
    dress[FIRST + 3] = (*billing(4)[FIRST + 3][:3], "2021-01-01T00:00:00Z")
    found = take(database, write(path, dress), dry_run=True)
    assert (found.holder_changed, found.near) == (4, 3)
    with pytest.raises(TooManyEnds, match="3 of them would pass to the next holder within a day of their start"):
        take(database, path, ends_max=lambda _: 3)


def test_no_contract_of_a_snapshot_ends_before_1970(database: TestDatabase, tmp_path: Path) -> None:
    """A landline's start is corrected: nobody had to be told then, so it is no other holder."""
    path = tmp_path / "billing.csv"
    old = ("individual", "not_required", "active")
    take(database, write(path, {FIRST: (*old, "1920-01-01T00:00:00Z")}))
    assert take(database, write(path, {FIRST: (*old, "1969-12-31T23:59:59Z")})).ends == 0
    other = ("organisation", "registered", "active", "1960-01-01T00:00:00Z")
    assert take(database, write(path, {FIRST: other})).holder_changed == 1
    assert sql(database, "SELECT min(ended_at) > now() - interval '1 hour' FROM registry.contract") == "t"
    assert take(database, write(path, {FIRST: (*other[:3], "1900-01-01T00:00:00+15:59")})).updated == 0, "1900 is 1900 in every zone"
    assert take(database, write(path, {FIRST: other, FIRST + 1: (*old, "1900-01-01 00:00:00+03")})).activated == 1
    with pytest.raises(ImportRefused, match="line 2: started_at"):
        take(database, write(path, {FIRST: (*old, "1899-12-31T00:00:00Z")}))
    for started in ("-infinity", "infinity", "1800-01-01"):
        columns, facts = "msisdn, generation, status, holder, end_user, started_at", "'active', 'individual', 'not_required'"
        statement = f"INSERT INTO registry.contract ({columns}) VALUES (79160000099, 1, {facts}, '{started}')"
        assert "contracts_are_of_our_time" in database.psql("-c", statement).stderr
    refused = database.psql("-c", "UPDATE registry.contract SET started_at = '1950-01-01', ended_at = '1960-01-01' WHERE ended_at IS NULL")
    assert "contracts_are_of_our_time" in refused.stderr


def test_a_whole_snapshot_declares_the_registry_complete(database: TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "billing.csv"
    sql(database, "DELETE FROM registry.feed_state")
    assert not take(database, write(path, {})).is_complete, "an empty table is nobody's"
    assert not take(database, write(path, billing(3)), dry_run=True).is_complete
    write(path, billing(3), "79160000009,individual,not_required,gone,2020-01-01T00:00:00Z")
    assert not take(database, path, rejects_max=1).is_complete, "whom the bad line is of is not known"
    assert sql(database, "SELECT registry.is_complete()") == "f"
    write(path, billing(3))
    assert not take(database, path, as_of=datetime.now(UTC) - timedelta(days=1)).is_complete, "a newer one was applied before"
    assert sql(database, "SELECT registry.is_complete()") == "f"
    assert take(database, path).is_complete
    assert sql(database, "SELECT source, registry.is_complete() FROM registry.feed_state") == "snapshot,t"
