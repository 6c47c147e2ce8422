"""The alerts: promtool runs their cases, each has one that fires and one that does not, and they name only what is exposed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from registryd import resources
from tests.watching.conftest import Exposed, check

PROMETHEUS = resources.path("systemd/prometheus/registryd.rules.yml").parent


def _read(name: str) -> Any:
    return yaml.load((PROMETHEUS / name).read_text(), yaml.CSafeLoader)


RULES = [rule for group in _read("registryd.rules.yml")["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
LOOKS = [look for test in _read("registryd.rules.test.yml")["tests"] for look in test["promql_expr_test"]]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def cases(alert: str) -> list[Any]:
    """What is expected each time the alert is looked for."""
    return [look["exp_samples"] for look in LOOKS if f'alertname="{alert}"' in look["expr"]]


def test_the_rules_are_valid_and_their_cases_hold(promtool: Path) -> None:
    check(promtool, "check", "rules", "registryd.rules.yml", cwd=PROMETHEUS)
    check(promtool, "test", "rules", "registryd.rules.test.yml", cwd=PROMETHEUS)


def test_promtool_sees_a_case_that_does_not_hold(promtool: Path, tmp_path: Path) -> None:
    (tmp_path / "registryd.rules.yml").write_text((PROMETHEUS / "registryd.rules.yml").read_text())
    late = """
rule_files: [registryd.rules.yml]
tests:
  - interval: 1m
    input_series: [{series: 'registryd_notifications_late_total{messenger="alpha"}', values: '0x4 3x20'}]
    promql_expr_test: [{expr: 'ALERTS{alertname="RegistrydNotificationLate"}', eval_time: 8m, exp_samples: []}]
"""
    (tmp_path / "case.yml").write_text(late)
    with pytest.raises(AssertionError, match="RegistrydNotificationLate"):
        check(promtool, "test", "rules", "case.yml", cwd=tmp_path)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    assert {bool(expected) for expected in cases(alert)} == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_urgent_it_is_and_what_to_do_first(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "warning", "ticket")
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert len(told["summary"]) <= 110
    assert told["runbook_url"].endswith(f"RUNBOOK.md#{alert.lower()}")


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert") or rule["record"] for rule in RULES])
def test_rules_name_only_what_the_processes_expose(rule: dict[str, Any], exposed: Exposed) -> None:
    assert exposed.faults(_without_recorded(rule["expr"])) == []
    told = " ".join(rule.get("annotations", {}).values())
    labels = set(re.findall(r"\$labels\.(\w+)", told))
    known = set().union({"job", "instance", "process", "role"}, *exposed.labels.values())
    assert labels <= known


def _without_recorded(expression: str) -> str:
    for name in RECORDED:
        expression = expression.replace(name, "vector(1)")
    return expression


def test_a_name_or_a_label_that_nobody_exposes_is_a_fault(exposed: Exposed) -> None:
    assert exposed.faults("registryd_notifications_late > 0") == ["registryd_notifications_late"]
    assert exposed.faults('registryd_lane_gated{messengers="a"}') == ["registryd_lane_gated{messengers}"]
    assert exposed.faults("sum by (job, role) (registryd_lane_gated)") == ["role"]
