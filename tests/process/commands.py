"""Commands run as operators and messengers' engineers run them."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from registryd.cli import main
from tests.conftest import Site

CONTRACTS = (
    "msisdn,generation,status,holder,end_user,started_at,ended_at,end_reason\n"
    "79010800002,1,active,individual,not_required,2020-01-01T00:00:00Z,,\n"
    "79010800003,1,ended,individual,not_required,2020-01-01T00:00:00Z,2021-01-01T00:00:00Z,terminated\n"
    "79010800003,2,active,organisation,registered,2021-06-01T00:00:00+03:00,,\n"
)

SNAPSHOT = "msisdn,holder,end_user,status,started_at\n79010800002,individual,not_required,active,2020-01-01T00:00:00Z\n"


def run(site: Site, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(site.path), *words], catch_exceptions=False)


def told(site: Site, *words: str) -> Any:
    result = run(site, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
