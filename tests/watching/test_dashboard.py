"""Grafana's dashboard and the scrape example: valid, and without a name that nobody exposes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from registryd import config, resources
from tests.conftest import Site, TestDatabase
from tests.watching.conftest import Exposed, check

DASHBOARD = json.loads(resources.path("systemd/grafana/registryd.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SCRAPE = resources.path("systemd/prometheus/scrape.example.yml")
IDS = [panel["title"] for panel in PANELS]


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"] if "expr" in target]


def plain(expression: str) -> str:
    """PromQL as Grafana sends it."""
    return re.sub(r"\$(job|instance|messenger)", "x", expression.replace("$__rate_interval", "1m"))


@pytest.mark.parametrize("panel", PANELS, ids=IDS)
def test_every_panel_names_only_what_the_processes_expose(panel: dict[str, Any], exposed: Exposed) -> None:
    for expression in expressions(panel):
        assert exposed.faults(expression) == []
        assert 'job="$job"' in expression, "a dashboard of one registry must not add up two"
    used = " ".join(expressions(panel))
    legends = " ".join(target.get("legendFormat", "") for target in panel["targets"])
    assert all(label in used for label in re.findall(r"\{\{(\w+)\}\}", legends) if label != "instance")


@pytest.mark.parametrize("panel", PANELS, ids=IDS)
def test_every_panel_has_a_unit(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_no_two_panels_share_an_id_or_a_place() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken = [cell for panel in every for cell in cells(panel["gridPos"])]
    assert len(set(taken)) == len(taken)


def cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    return ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"]))


def test_the_rows_are_what_a_person_asks_first() -> None:
    rows = [panel["title"].split()[0] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Duty", "Queries", "Delivery", "Feed", "Database", "Evidence", "Processes", "From"]


def test_every_variable_that_a_panel_uses_is_there(exposed: Exposed) -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)\}?", json.dumps(DASHBOARD["panels"])))
    assert used == set(variables)
    for name in ("job", "instance", "messenger"):
        assert exposed.faults(variables[name]["definition"]) == []


def test_every_expression_is_promql(promtool: Path, tmp_path: Path) -> None:
    found = [plain(expression) for panel in PANELS for expression in expressions(panel)]
    assert len(found) > 60
    rules = [{"record": f"one:{number}:x", "expr": expression} for number, expression in enumerate(found)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    check(promtool, "check", "rules", str(tmp_path / "rules.yml"))


def test_every_statement_runs_as_the_report_role(database: TestDatabase) -> None:
    statements = [target["rawSql"] for panel in PANELS for target in panel["targets"] if "rawSql" in target]
    assert len(statements) >= 3

    async def run() -> None:
        async with database.connect("registryd_report") as connection:
            for statement in statements:
                filtered = re.sub(r"\$__timeFilter\(([^)]*)\)", r"\1 BETWEEN now() - interval '1 day' AND now()", statement)
                await connection.execute(filtered)

    asyncio.run(run())


def test_the_scrape_example_is_valid_and_names_the_ports_of_three_roles(promtool: Path, site: Site) -> None:
    check(promtool, "check", "config", SCRAPE.name, cwd=SCRAPE.parent)
    [scraped] = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    targets = [target.split(":") for group in scraped["static_configs"] for target in group["targets"]]
    site.write_config(observe='listen = "127.0.0.1:8090"')
    roles = (("answer", 1), ("answer", 2), ("deliver", 1), ("operate", 1))
    ports = [config.health_address(site.settings, role, instance).rpartition(":")[2] for role, instance in roles]
    assert targets == [[f"registry{machine}.example", port] for machine in (1, 2) for port in ports]
