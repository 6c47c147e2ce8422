"""`contracts import` and `ranges import`: whole or not at all, counted before, and bad lines told by number."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from registryd import resources
from registryd.demo import population
from tests.conftest import Site
from tests.process.commands import CONTRACTS, SNAPSHOT, run, told
from tests.store.conftest import bind


def test_contracts_and_ranges_are_imported_whole_or_not_at_all(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "contracts.csv"
    file.write_text(CONTRACTS)
    assert told(site, "contracts", "import", str(file), "--dry-run")["inserted"] == 3
    assert told(site, "contracts", "import", str(file))["inserted"] == 3
    assert told(site, "contracts", "import", str(file))["inserted"] == 0
    assert "3 there already" in run(site, "contracts", "import", str(file)).output
    file.write_text(
        CONTRACTS + "12,1,active,individual,not_required,2020-01-01T00:00:00Z,,\n79010800009,1,gone,individual,not_required,x,,\n"
    )
    refused = run(site, "contracts", "import", str(file))
    assert refused.exit_code == 1
    assert "line 5: msisdn" in refused.stderr
    assert "line 6: status" in refused.stderr
    assert "79010800009" not in refused.output
    ranges = tmp_path / "ranges.csv"
    ranges.write_text("first_msisdn,last_msisdn,region,note\n79010800000,79010899999,RU,test\n")
    assert run(site, "ranges", "import", str(ranges)).exit_code == 0
    ranges.write_text("first_msisdn,last_msisdn,region,note\n79010800000,79010899999,RU,\n79010850000,79010899999,RU,\n")
    assert "overlap" in run(site, "ranges", "import", str(ranges)).stderr
    ranges.write_text("first,last\n1,2\n")
    assert "line 1" in run(site, "ranges", "import", str(ranges)).stderr


def test_a_snapshot_is_counted_refused_and_applied_by_command(site: Site, tmp_path: Path) -> None:
    async def bound() -> None:
        await site.add_contracts(*range(79010800002, 79010800102))
        messenger = await site.add_messenger("alpha")
        async with site.database.connect() as connection:
            await bind(connection, messenger.messenger_id, 100, 79010800002)

    asyncio.run(bound())
    file, rejects = tmp_path / "billing.csv", tmp_path / "billing.csv.rejects.csv"
    rejects.touch(mode=0o644)
    file.write_text(SNAPSHOT + "79010800003,individual,not_required,gone,2020-01-01T00:00:00Z\n")
    words = ("contracts", "import", str(file), "--snapshot")
    bad = run(site, *words)
    assert (bad.exit_code, "line 3: status: active or suspended" in bad.stderr) == (1, True)
    assert rejects.read_text() == "line,reason\n3,status: active or suspended\n"
    assert rejects.stat().st_mode & 0o777 == 0o600
    many = run(site, *words, "--max-rejects", "1", "--dry-run", "--max-terminations", "1%")
    assert many.exit_code == 1
    assert "would end 98 of 100 live contracts (98.00%) and turn 98 absent" in many.stderr
    assert "98 notifications to alpha" in many.stdout
    wanted = (*words, "--max-rejects", "1", "--max-terminations")
    would = told(site, *wanted, "98", "--dry-run")
    done = told(site, *wanted, "98%")
    assert {**done, "seconds": 0} == {**would, "dryRun": False, "seconds": 0, "outside": 0}
    assert {key: done[key] for key in ("live", "terminated", "unread", "notifications", "deliverySeconds")} == {
        "live": 100,
        "terminated": 98,
        "unread": 1,
        "notifications": [{"messenger": "alpha", "notifications": 98}],
        "deliverySeconds": None,
    }
    for wrong in (("--max-terminations", "half"), ("--as-of", "yesterday"), ("--rejects", str(tmp_path / "nowhere" / "x"))):
        assert run(site, *words, *wrong).exit_code == 2


def test_events_come_from_a_file_and_what_was_not_applied_is_an_error(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text(
        "event_id,type,msisdn,occurred_at,holder,end_user\n"
        "e1,activated,79010800002,2024-01-01T00:00:00.123456789+03:00,,\n"
        "e2,activated,79010800003,1964-01-01T00:00:00Z,,\n"
        "e3,terminated,79010800003,2024-01-01T00:00:00Z,,\n"
    )
    words = ("contracts", "import", str(file), "--delta")
    refused = run(site, *words)
    assert (refused.exit_code, "1 events applied, 0 were applied before, 1 refused, 1 not yet" in refused.stdout) == (1, True)
    rows = Path(f"{file}.rejects.csv").read_text().splitlines()
    assert [row.split(":")[0] for row in rows] == ["line,reason", "3,occurredAt lies before 1970", '4,"no_contract_yet']
    waits = run(site, *words, "--max-rejects", "1", "--json")
    assert waits.exit_code == 1, "what waits is no bad line that one could do without"
    facts = json.loads(waits.stdout)
    assert (facts["applied"], facts["duplicates"], facts["refused"], facts["notYet"]) == (0, 1, 1, 1)
    file.write_text(file.read_text().replace("\ne3,", "\ne4,activated,79010800003,2023-01-01T00:00:00Z,,\ne3,"))
    done = told(site, *words, "--max-rejects", "1")
    assert (done["applied"], done["duplicates"], done["refused"], done["notYet"]) == (2, 1, 1, 0)
    facts = told(site, *words, "--max-rejects", "1", "--dry-run")
    assert (facts["applied"], facts["duplicates"], facts["dryRun"]) == (0, 3, True)
    assert run(site, *words, "--as-of", "2026-01-02T00:00:00Z").exit_code == 2


def test_a_delta_that_stops_tells_what_was_done_before(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text(
        "event_id,type,msisdn,occurred_at,holder,end_user\n"
        "e1,activated,79010800002,2024-01-01T00:00:00Z,,\n"
        "e2,terminated,79010800003,2024-01-01T00:00:00Z,,\n"
        "e3,terminated,79010800002,yesterday,,\n"
    )
    stopped = run(site, "contracts", "import", str(file), "--delta")
    assert (stopped.exit_code, "1 events applied, 0 were applied before, 0 refused, 1 not yet" in stopped.stdout) == (1, True)
    assert "line 4: occurred_at: " in stopped.stderr
    assert [row.split(",")[0] for row in Path(f"{file}.rejects.csv").read_text().splitlines()] == ["line", "3", "4"]
    again = run(site, "contracts", "import", str(file), "--delta", "--json")
    facts = json.loads(again.stdout)
    assert (again.exit_code, facts["applied"], facts["duplicates"], facts["notYet"]) == (1, 0, 1, 1)
    assert facts["stopped"].startswith("line 4: occurred_at: ")


def test_a_pipes_bad_lines_are_kept_in_the_current_directory(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = CONTRACTS + "12,1,active,individual,not_required,2020-01-01T00:00:00Z,,\n"
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "contracts.rejects.csv"

    def imported(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "contracts", "import", *words, "--json"]
        return subprocess.run(command, input=text.encode(), capture_output=True, check=False)

    nowhere = imported("/dev/stdin", "--max-rejects", "1", "--rejects", str(tmp_path / "nowhere" / "x"))
    assert (nowhere.returncode, b"--rejects" in nowhere.stderr) == (2, True)
    for pipe, inserted in (("/dev/stdin", 3), ("-", 0)):
        done = imported(pipe, "--max-rejects", "1")
        assert (done.returncode, json.loads(done.stdout)["inserted"]) == (0, inserted), done.stderr
        assert kept.read_text().startswith('line,reason\n5,"msisdn: ')
        kept.unlink()
    text = CONTRACTS
    assert (imported("-").returncode, kept.exists()) == (0, False)


def test_population_file_is_one_the_import_takes(site: Site, tmp_path: Path) -> None:
    ranges = population.read_ranges(resources.path("tests/data/numbering_ranges.csv"))
    file = tmp_path / "contracts.csv"
    population.write_csv(file, population.generate(ranges, 5_000))
    assert told(site, "contracts", "import", str(file)) | {"seconds": 0} == {
        "lines": 5000,
        "inserted": 5000,
        "complete": False,
        "outside": 0,
        "dryRun": False,
        "seconds": 0,
    }
