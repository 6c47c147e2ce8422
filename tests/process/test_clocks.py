"""A process whose clock is an hour off: billing's events are told what the database's clock says, and every end is done."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, Site, daemon
from tests.http.conftest import ask
from tests.store.conftest import FIRST

SKEWED = """
import datetime, os, time

skew, real = float(os.environ["SKEW_S"]), time.time
time.time = lambda: real() + skew


class Skewed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(time.time(), tz)


datetime.datetime = Skewed
"""


def send(site: Site, operating: Daemon, kind: str, event_id: str, at: datetime) -> Any:
    """The outcome of one event, by an operate process."""
    event = {"eventId": event_id, "type": kind, "phoneNumber": f"+{FIRST}", "occurredAt": at.isoformat()}
    answer = ask(operating.operator, "POST", "/operator/v1/contract-events", {"events": [event]}, headers=site.operator_headers)
    assert answer.status == 200, answer.body
    return answer.body["results"][0]["outcome"]


@pytest.mark.parametrize("hours", [1, -1])
def test_a_process_whose_clock_is_off_judges_events_as_any_other(site: Site, tmp_path: Path, hours: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(SKEWED)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH') or Path.cwd()}", "SKEW_S": str(hours * 3600)}
    now = datetime.now(UTC)
    with daemon(site, "operate", environment=environment) as operating:
        told_at = datetime.fromisoformat(operating.log()[0]["timestamp"])
        assert abs(told_at - now - timedelta(hours=hours)) < timedelta(minutes=5), "its clock is off"
        assert send(site, operating, "activated", "begin", now - timedelta(days=1)) == "applied"
        assert send(site, operating, "terminated", "soon", now + timedelta(minutes=30)) == "not_yet"
        assert send(site, operating, "suspended", "late", now - timedelta(minutes=30)) == "applied"
        assert send(site, operating, "terminated", "end", now) == "applied"
        assert send(site, operating, "terminated", "soon", now - timedelta(minutes=1)) == "refused", "corrected under its id: it has ended"
