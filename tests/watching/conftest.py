"""Real processes of the three roles, and what they expose after a little of everything: what rules, dashboard and documents may name."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from registryd.demo import embedded
from tests.certificates import make_pair
from tests.conftest import Daemon, Site, cloned, daemon, make_site, wait_for
from tests.programs import NotThere, program

ROLES = ("answer", "deliver", "operate")
TARGET_LABELS = {"job", "instance", "process"}
"""What Prometheus and `registryd serve` add."""
NUMBER = 79_160_000_001


@pytest.fixture(scope="package")
def site(server: embedded.Server, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with cloned(server, template) as database:
        made = make_site(database, tmp_path_factory.mktemp("site"))
        (made.directory / "credentials" / "endpoint-ca-alpha").write_bytes(make_pair("ca").certificate)
        yield made


@pytest.fixture(scope="package")
def processes(site: Site) -> Iterator[Daemon]:
    messenger = asyncio.run(site.add_messenger("alpha", "http://127.0.0.1:9/notices"))
    asyncio.run(site.add_messenger("beta"))
    asyncio.run(site.add_contracts(NUMBER))
    site.database.psql("-c", "UPDATE registry.messenger_key SET expires_at = now() + interval '1 day'")
    with daemon(site, *ROLES) as started:
        asyncio.run(use(started, site, messenger.headers))
        seen = (
            "breakglass_steps{",
            "slack_seconds{",
            "policy_info{",
            "contract_events_total{",
            "ended_purged_total{",
            "registryd_connections{",
        )
        wait_for(lambda: all(part in started.metrics("operate") for part in seen))
        wait_for(lambda: "registryd_push_seconds_count{" in started.metrics("deliver"))
        yield started


async def use(started: Daemon, site: Site, headers: dict[str, str]) -> None:
    """A query, and an event that ends its contract, so that a push fails."""
    query = {"phoneNumber": f"+{NUMBER}", "identificationCode": "user-1"}
    end = {"eventId": "e1", "type": "terminated", "phoneNumber": f"+{NUMBER}", "occurredAt": "2026-01-01T00:00:00Z"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{started.api}/v1/presence", json=query, headers=headers) as answer:
            assert answer.status == 200
        url = f"{started.operator}/operator/v1/contract-events"
        async with session.post(url, json={"events": [end]}, headers=site.operator_headers) as answer:
            assert (answer.status, (await answer.json())["results"][0]["outcome"]) == (200, "applied")


def series(text: str) -> dict[str, float]:
    """Each series of an exposition, as it is written there, with its value."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@dataclass
class Exposed:
    """The labels of each series' name, as the processes expose them together."""

    labels: dict[str, set[str]]

    def faults(self, expression: str) -> list[str]:
        """The metrics and labels of a PromQL expression that nobody exposes."""
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
        used = re.findall(r"\b((?:registryd|process)_\w+)(?:\{([^}]*)\})?", bare)
        faults = [name for name, _ in used if name not in self.labels]
        known = set().union(TARGET_LABELS, *(self.labels.get(name, set()) for name, _ in used))
        for name, matchers in used:
            of_name = TARGET_LABELS | self.labels.get(name, set())
            faults += [f"{name}{{{label}}}" for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers) if label not in of_name]
        for grouping in re.findall(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)", bare):
            faults += [label for label in re.findall(r"\w+", grouping) if label not in known]
        return faults


@pytest.fixture(scope="package")
def exposed(processes: Daemon) -> Exposed:
    labels: dict[str, set[str]] = {}
    for role in ROLES:
        for family in text_string_to_metric_families(processes.metrics(role)):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    return Exposed(labels)


@pytest.fixture(scope="session")
def promtool() -> Path:
    if found := shutil.which("promtool"):
        return Path(found)
    try:
        return program("promtool")
    except NotThere as error:
        pytest.skip(f"promtool cannot be had: {error}")


def check(promtool: Path, *arguments: str, stdin: str | None = None, cwd: Path | None = None) -> None:
    """Runs promtool, and fails with what it finds."""
    options: dict[str, Any] = {"input": stdin} if stdin is not None else {}
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False, cwd=cwd, **options)
    assert done.returncode == 0, done.stdout + done.stderr
