"""What each process exposes: what its role knows, and counters that are there before there is anything to count."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from registryd import exposition, observe
from registryd.roles import supervisor
from registryd.store import failures, migrations
from tests.conftest import Daemon
from tests.watching.conftest import ROLES, check, series


@pytest.mark.parametrize(
    ("role", "counter"),
    [
        ("answer", 'registryd_enumeration_alarms_total{kind="absent",messenger="beta"}'),
        ("answer", 'registryd_enumeration_alarms_total{kind="canary",messenger="beta"}'),
        ("answer", 'registryd_requests_refused_total{messenger="beta",reason="quota"}'),
        ("answer", 'registryd_requests_total{api="messenger",route="presence",status="503"}'),
        ("answer", "registryd_answers_late_total"),
        ("deliver", 'registryd_notifications_late_total{messenger="beta"}'),
        ("deliver", 'registryd_lane_gates_total{messenger="beta"}'),
        ("operate", 'registryd_contract_events_total{outcome="refused",type="terminated"}'),
        ("operate", 'registryd_database_errors_total{kind="away"}'),
        ("operate", 'registryd_faults_total{event="request_failed"}'),
    ],
)
def test_a_counter_that_an_alert_reads_is_there_before_it_counts(processes: Daemon, role: str, counter: str) -> None:
    """Prometheus sees no increase in a series' first value: the first late notice would wake nobody."""
    found = {name: value for name, value in series(processes.metrics(role)).items() if _same(name, counter)}
    assert list(found.values()) == [0]


def _same(one: str, other: str) -> bool:
    return sorted(one.replace("{", ",").strip("}").split(",")) == sorted(other.replace("{", ",").strip("}").split(","))


@pytest.mark.parametrize("role", ROLES)
def test_a_process_shows_nothing_that_another_role_alone_knows(processes: Daemon, role: str) -> None:
    """An `ends_left` of 0 that nobody has measured would be an alarm."""
    shown = {family.name for family in text_string_to_metric_families(processes.metrics(role))}
    others = {
        described.name for other, metrics in exposition.ONLY.items() if other != role for each in metrics for described in each.describe()
    }
    assert len(others) > 10
    assert shown & others == set()
    assert {described.name for each in exposition.ONLY[role] for described in each.describe()} <= shown


@pytest.mark.parametrize("role", ROLES)
def test_a_process_tells_what_it_runs_and_that_it_has_its_database(processes: Daemon, role: str) -> None:
    families = {family.name: family for family in text_string_to_metric_families(processes.metrics(role))}
    [build] = families["registryd_build_info"].samples
    schema = f"{migrations.migrations()[-1].version:04}"
    assert build.labels == {"role": role, "version": version("registryd"), "python": platform.python_version(), "schema": schema}
    assert [sample.value for sample in families["registryd_database_up"].samples] == [1]
    assert [sample.value for sample in families["registryd_database_primary_info"].samples] == [1]
    assert not [family for family in families if family.endswith("_created")]


@pytest.mark.parametrize("role", ROLES)
def test_promtool_finds_no_fault_in_what_a_process_exposes(processes: Daemon, promtool: Path, role: str) -> None:
    check(promtool, "check", "metrics", stdin=processes.metrics(role))


def test_promtool_finds_no_fault_in_what_serve_joins(processes: Daemon, promtool: Path) -> None:
    joined = supervisor.merged({f"{role}@1": processes.metrics(role) for role in ROLES})
    check(promtool, "check", "metrics", stdin=joined.decode())


@pytest.mark.parametrize("role", ROLES)
def test_a_process_says_in_its_log_who_it_is_and_what_it_runs(processes: Daemon, role: str) -> None:
    lines = [json.loads(line) for line in processes.logs[role].read_text().splitlines() if line.startswith("{")]
    assert {line["process"] for line in lines} == {f"{role}@1"}
    [started] = [line for line in lines if line["event"] == "started"]
    assert (started["role"], started["instance"], started["version"]) == (role, 1, version("registryd"))


def test_what_stands_in_tables_is_shown(processes: Daemon) -> None:
    shown = series(processes.metrics("operate"))
    assert shown["registryd_evidence_verified_timestamp_seconds"] == 0
    assert 6 * 86_400 < shown["registryd_partitions_ahead_seconds"] < 70 * 86_400
    assert shown['registryd_breakglass_steps{step="looked"}'] == 0
    assert 'registryd_keys_end_timestamp_seconds{caller="alpha"}' in shown
    assert not any("operator/" in name for name in shown), "a key without an end is told by nothing"
    assert shown["registryd_policy_notice_within_seconds"] == 86_400


def test_a_messengers_series_go_with_it_and_begin_at_0_when_one_of_its_name_comes() -> None:
    known = exposition.Known("deliver")
    known.keep(["gone", "stays"])
    observe.child(observe.notifications_late, "gone").inc(3)
    observe.pushes.labels("gone", "failed").inc()
    known.keep(["stays"])
    assert [late("gone"), late("stays")] == [None, 0]
    assert observe.METRICS.get_sample_value("registryd_pushes_total", {"messenger": "gone", "outcome": "failed"}) is None
    known.keep(["gone", "stays"])
    observe.child(observe.notifications_late, "gone").inc()
    assert late("gone") == 1
    known.keep([])


def late(messenger: str) -> float | None:
    return observe.METRICS.get_sample_value("registryd_notifications_late_total", {"messenger": messenger})


@pytest.mark.parametrize("error", failures.TRANSIENT, ids=[error.__name__ for error in failures.TRANSIENT])
def test_every_failure_of_the_database_is_of_a_kind_that_is_there_from_the_start(error: type[Exception]) -> None:
    assert failures.kind(error()) in observe.DATABASE_ERRORS


def test_what_a_person_mends_apart_is_a_kind_apart() -> None:
    found = [
        failures.kind(error)
        for error in (ConnectionRefusedError(), TimeoutError(), asyncpg.DiskFullError(), asyncpg.InvalidPasswordError())
    ]
    assert found == ["away", "timeout", "broken", "login"]
