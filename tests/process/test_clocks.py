"""A process whose clock is off: events, keys and months are what the database's clock says, and every end is done."""

from __future__ import annotations

import asyncio
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

skew, real, Real = float(os.environ["SKEW_S"]), time.time, datetime.datetime
time.time = lambda: real() + skew


class Any(type):
    def __instancecheck__(cls, made):
        return isinstance(made, Real)


class Skewed(Real, metaclass=Any):
    def __new__(cls, *parts, **named):
        return Real(*parts, **named)

    @classmethod
    def now(cls, tz=None):
        return Real.fromtimestamp(time.time(), tz)


datetime.datetime = Skewed
"""


def send(site: Site, operating: Daemon, kind: str, event_id: str, at: datetime) -> Any:
    """The outcome of one event, by an operate process."""
    event = {"eventId": event_id, "type": kind, "phoneNumber": f"+{FIRST}", "occurredAt": at.isoformat()}
    answer = ask(operating.operator, "POST", "/operator/v1/contract-events", {"events": [event]}, headers=site.operator_headers)
    assert answer.status == 200, answer.body
    return answer.body["results"][0]["outcome"]


def skewed(tmp_path: Path, skew: timedelta) -> dict[str, str]:
    """The environment of a process whose clock is off."""
    (tmp_path / "sitecustomize.py").write_text(SKEWED)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH') or Path.cwd()}"
    return {"PYTHONPATH": path, "SKEW_S": str(skew.total_seconds())}


@pytest.mark.parametrize("days", [40, -40])
def test_a_process_whose_clock_is_off_takes_keys_and_months_as_the_database_has_them(site: Site, tmp_path: Path, days: int) -> None:
    """A key that still works is taken, and what is journaled today outlives no month but this one's key."""
    messenger = asyncio.run(site.add_messenger())
    former = (
        "INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256, expires_at) "
        "SELECT 'former22', messenger_id, secret_sha256, now() - interval '1 minute' FROM registry.messenger_key"
    )
    ends = "UPDATE registry.messenger_key SET expires_at = now() + interval '1 hour' WHERE expires_at IS NULL"
    assert site.database.psql("-c", former, "-c", ends).returncode == 0
    with daemon(site, "answer", environment=skewed(tmp_path, timedelta(days=days))) as answering:
        answer = ask(answering.api, "POST", "/v1/presence", {"phoneNumber": f"+{FIRST}"}, headers=messenger.headers)
        assert answer.status == 200
        assert ask(answering.api, "POST", "/v1/account/keys", headers=messenger.headers).status == 200, "one key is live, not two"
    used = "SELECT DISTINCT k.month FROM registry.journal_page AS p JOIN registry.digest_key AS k ON k.key_id = p.digest_key"
    assert site.database.psql("-At", "-c", used).stdout.strip() == datetime.now(UTC).strftime("%Y-%m-01")


@pytest.mark.parametrize("hours", [1, -1])
def test_a_process_whose_clock_is_off_judges_events_as_any_other(site: Site, tmp_path: Path, hours: int) -> None:
    now = datetime.now(UTC)
    with daemon(site, "operate", environment=skewed(tmp_path, timedelta(hours=hours))) as operating:
        told_at = datetime.fromisoformat(operating.log()[0]["timestamp"])
        assert abs(told_at - now - timedelta(hours=hours)) < timedelta(minutes=5), "its clock is off"
        assert send(site, operating, "activated", "begin", now - timedelta(days=1)) == "applied"
        assert send(site, operating, "terminated", "soon", now + timedelta(minutes=30)) == "not_yet"
        assert send(site, operating, "suspended", "late", now - timedelta(minutes=30)) == "applied"
        assert send(site, operating, "terminated", "end", now) == "applied"
        assert send(site, operating, "terminated", "soon", now - timedelta(minutes=1)) == "refused", "corrected under its id: it has ended"
