"""`registryd feed`: the state of billing's feed, the registry's completeness, and known waves of ends."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registryd.domain.contract import Event
from registryd.domain.identifiers import Msisdn
from registryd.feed.events import ContractFeed
from tests.conftest import Site
from tests.process.commands import SNAPSHOT, run, told
from tests.store.conftest import FIRST, change_policy

NOW = datetime.now(UTC)


def send(site: Site, kind: str, count: int) -> list[str]:
    """The outcomes of a call of that many events."""

    async def call() -> list[str]:
        async with site.database.pool(1) as pool:
            events = [
                Event(event_id=f"{kind}{n}", type=kind, msisdn=Msisdn(FIRST + n), occurred_at=NOW - timedelta(minutes=3))  # type: ignore[arg-type]
                for n in range(count)
            ]
            return [result.outcome for result in await ContractFeed(pool, bytes(32)).apply(events)]

    return asyncio.run(call())


def test_the_state_of_the_feed_is_told(site: Site, tmp_path: Path) -> None:
    before = told(site, "feed", "status")
    assert (before["complete"], before["waiting"], before["lastEventAt"], before["lastSnapshotAt"]) == (True, 0, None, None)
    asyncio.run(site.add_contracts(FIRST, FIRST + 1))
    assert send(site, "suspended", 3) == ["applied", "applied", "not_yet"]
    file = tmp_path / "billing.csv"
    file.write_text(SNAPSHOT)
    after = told(site, "feed", "status")
    assert [(row["type"], row["outcome"], row["events"]) for row in after["lag"]] == [("suspended", "applied", 2)]
    assert after["waiting"] == 1
    [waits] = after["eventsWaiting"]
    assert (waits["eventId"], waits["type"], waits["reason"], waits["calls"]) == ("suspended2", "suspended", "no_contract_yet", 1)
    shown = run(site, "feed", "status")
    assert shown.exit_code == 0
    for words in (
        "complete since",
        "last event",
        "last snapshot taken never",
        "events that wait: 1, the oldest came",
        "suspended2",
        "ended in the last hour",
    ):
        assert words in shown.stdout


def test_a_person_says_whether_the_registry_is_complete(site: Site) -> None:
    assert "NOT COMPLETE" in run(site, "feed", "incomplete", "--reason", "restored to Tuesday").stdout
    state = told(site, "feed", "status")
    assert (state["complete"], state["reason"]) == (False, "restored to Tuesday")
    assert "complete since" in run(site, "feed", "complete", "--reason", "loaded by hand").stdout
    state = told(site, "feed", "status")
    assert (state["complete"], state["source"], state["reason"]) == (True, "person", "loaded by hand")
    site.database.psql("-c", "UPDATE registry.feed_state SET system_identifier = 1, server_started_at = '2020-01-01'")
    assert "NOT COMPLETE: that was said in another database cluster" in run(site, "feed", "status").stdout
    for words in (("feed", "complete"), ("feed", "incomplete", "--reason", " ")):
        assert run(site, *words).exit_code == 2


def test_ends_beyond_the_bound_of_an_hour_wait_until_a_person_lets_the_wave_through(site: Site) -> None:
    async def policy() -> None:
        await site.add_contracts(*range(FIRST, FIRST + 5))
        async with site.database.connect() as dba:
            await change_policy(dba, ends_max="2", ends_max_share="0")

    asyncio.run(policy())
    assert send(site, "terminated", 5) == ["applied"] * 2 + ["not_yet"] * 3
    waits = told(site, "feed", "status")["eventsWaiting"]
    assert {row["reason"] for row in waits} == {"too_many_ends"}
    allow = ("feed", "allow-ends", "2", "--reason", "tariff Zero is closed", "--until")
    made = told(site, *allow, (NOW + timedelta(hours=1)).isoformat())
    assert (made["ends"], made["used"]) == (2, 0)
    assert send(site, "terminated", 5) == ["duplicate"] * 2 + ["applied"] * 2 + ["not_yet"]
    state = told(site, "feed", "status")
    assert [(row["reason"], row["used"]) for row in state["allowances"]] == [("tariff Zero is closed", 2)]
    assert (state["endsLastHour"], state["endsBound"], state["endsLeft"], state["waiting"]) == (2, 2, 0, 1)


@pytest.mark.parametrize("until", [timedelta(minutes=-1), timedelta(days=8)])
def test_an_allowance_ends_soon(site: Site, until: timedelta) -> None:
    refused = run(site, "feed", "allow-ends", "2", "--reason", "x", "--until", (NOW + until).isoformat())
    assert refused.exit_code == 1
    assert "--until lies in the past by the database's clock, or more than a week ahead" in refused.stderr
    for words in (("0", "--until", "2099-01-01T00:00:00Z", "--reason", "x"), ("5", "--until", "2099-01-01", "--reason", "x")):
        assert run(site, "feed", "allow-ends", *words).exit_code == 2
