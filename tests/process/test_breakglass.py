"""Two persons undo a mistaken end and withdraw a notification from the shell, and no number stands where another user could read it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registryd.cli import main
from tests.conftest import Site
from tests.process.commands import told

FIRST = 79_010_800_002
AsPerson = Callable[..., Result]


@pytest.fixture
def as_person(site: Site) -> Iterator[AsPerson]:
    """Runs `breakglass` as anna, who asks, or boris, who approves: with no configuration and no secret."""
    names = {name: f"{name}_{os.getpid()}" for name in ("anna", "boris")}
    grants = "CREATE ROLE {anna} LOGIN IN ROLE registryd_breakglass; CREATE ROLE {boris} LOGIN IN ROLE registryd_approver"
    site.database.psql("-c", grants.format(**names))

    def run(person: str, *words: str, stdin: str = "") -> Result:
        arguments = ["breakglass", *words, "--dsn", site.database.dsn(names[person])]
        return CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)

    yield run
    site.database.psql("-c", "DROP ROLE {anna}, {boris}".format(**names))


def bound(site: Site, count: int) -> str:
    """Contracts from FIRST on with a binding each; returns the messenger's name."""
    asyncio.run(site.add_contracts(*range(FIRST, FIRST + count)))
    messenger = asyncio.run(site.add_messenger())
    site.database.psql(
        "-c",
        "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) "
        f"SELECT msisdn, generation, {messenger.messenger_id}, 'u-' || msisdn % 100 FROM registry.contract",
    )
    return messenger.name


def end(site: Site, ended_at: str = "now()") -> list[str]:
    """Ends every contract; returns the ids of the notifications that are owed."""
    site.database.psql("-c", f"UPDATE registry.contract SET ended_at = {ended_at} WHERE ended_at IS NULL")
    return site.database.psql("-Atc", "SELECT notification_id FROM registry.notification ORDER BY msisdn").stdout.split()


def test_two_persons_undo_the_ends_of_the_numbers_in_a_file(site: Site, as_person: AsPerson, tmp_path: Path) -> None:
    bound(site, 2)
    ids = end(site)
    asyncio.run(site.add_contracts(FIRST + 1, generation="2"))
    why = ("request", "--kind", "reinstate", "--reason", "the wrong list of numbers")
    assert as_person("anna", *why).exit_code == 1
    assert as_person("anna", *why, "--messenger", "m").exit_code == 2
    bad = as_person("anna", *why, "--numbers-file", "-", stdin=f"{FIRST}\n+8 901\n")
    assert (bad.exit_code, "the 2. number" in bad.stderr, "901" in bad.stderr) == (2, True, False)
    asked = as_person("anna", *why, "--numbers-file", "-", "--json", stdin=f"\ufeff+{FIRST}\n\n{FIRST + 1}\r\n")
    assert json.loads(asked.stdout) == {"request": 1, "kind": "reinstate"}
    listed = as_person("boris", "list")
    assert ("numbers 2" in listed.stdout, str(FIRST)[:7] in listed.stdout) == (True, False)
    assert as_person("boris", "approve", "1").exit_code == 0
    counted = json.loads(as_person("anna", "reinstate", "1", "--dry-run", "--json").stdout)
    assert counted["dryRun"]
    left = tmp_path / "left.csv"
    done = as_person("anna", "reinstate", "1", "--list", str(left), "--json")
    assert json.loads(done.stdout)["outcomes"] == counted["outcomes"]
    assert str(FIRST)[:7] not in done.output
    assert left.stat().st_mode & 0o777 == 0o600
    assert left.read_text().splitlines() == [
        "what,outcome,messenger,msisdn,generation,identification_code",
        f"contract,moved_on,,{FIRST + 1},1,",
        f"binding,moved_on,messenger,{FIRST + 1},1,u-3",
    ]
    assert as_person("anna", "reinstate", "1", "--list", str(left)).exit_code == 2, "a file that is there is kept"
    again = as_person("anna", "reinstate", "1", "--list", str(tmp_path / "none"))
    assert (again.exit_code, "used already" in again.stderr, (tmp_path / "none").exists()) == (1, True, False)
    life = told(site, "notifications", "explain", ids[0])
    assert (life["state"], life["verdict"]) == ("withdrawn", "withdrawn")
    assert any("by request 1: the wrong list of numbers" in event["what"] for event in life["life"])
    event = site.database.psql("-Atc", "SELECT notification_id FROM registry.notification WHERE undoes IS NOT NULL").stdout.strip()
    assert life["undoneBy"] == event
    undoing = told(site, "notifications", "explain", event)
    assert (undoing["type"], undoing["state"], "reinstatedAt" in undoing) == ("binding.reinstated", "pending", True)
    assert any(ids[0] in event["what"] for event in undoing["life"])


def test_two_persons_withdraw_what_a_messenger_refuses(site: Site, as_person: AsPerson) -> None:
    name = bound(site, 2)
    ids = end(site, "now() - interval '3 days'")
    site.database.psql("-c", "UPDATE registry.notification SET attempts = 40, last_error = 'status 422'")
    why = ("request", "--kind", "withdraw", "--reason", "codes that it cannot read", "--messenger", name)
    assert as_person("anna", *why, "--from", "2026-01-01T00:00Z").exit_code == 2
    assert as_person("anna", *why, "--ids-file", "-", stdin=f"{ids[0]}\n").exit_code == 0
    assert as_person("boris", "approve", "1").exit_code == 0
    done = as_person("anna", "withdraw", "1", "--json")
    assert json.loads(done.stdout)["outcomes"] == [{"outcome": "withdrawn", "messenger": name, "notifications": 1}]
    assert told(site, "notifications", "explain", ids[0])["state"] == "withdrawn"
    assert told(site, "notifications", "explain", ids[1])["verdict"] == "overdue"


def test_a_held_notification_is_explained(site: Site) -> None:
    bound(site, 2)
    site.database.psql("-c", """SELECT registry.change_policy('{"ends_max": 0, "ends_max_share": 0}', now(), 'a test')""")
    assert end(site) == []
    held = site.database.psql("-Atc", "SELECT notification_id FROM registry.notification_held ORDER BY msisdn").stdout.split()
    life = told(site, "notifications", "explain", held[0])
    assert (life["state"], life["verdict"]) == ("held", "owed")
    assert any("held in wave 1" in event["what"] for event in life["life"])
