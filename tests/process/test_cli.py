"""The commands, as operators and messengers' engineers run them."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registryd import resources
from registryd.cli import main
from registryd.delivery import signing
from registryd.demo import embedded, population
from registryd.domain.identifiers import MessengerId
from registryd.domain.secret import SigningSecret
from registryd.store.messengers import signing_secrets
from registryd.store.secretbox import signing_box
from tests.conftest import Site, client, cloned, daemon, eventually, receiving, wait_for
from tests.store.conftest import bind

CONTRACTS = (
    "msisdn,generation,status,holder,end_user,started_at,ended_at,end_reason\n"
    "79010800002,1,active,individual,not_required,2020-01-01T00:00:00Z,,\n"
    "79010800003,1,ended,individual,not_required,2020-01-01T00:00:00Z,2021-01-01T00:00:00Z,terminated\n"
    "79010800003,2,active,organisation,registered,2021-06-01T00:00:00+03:00,,\n"
)


def run(site: Site, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(site.path), *words], catch_exceptions=False)


def told(site: Site, *words: str) -> Any:
    result = run(site, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_messenger_lives_through_all_its_commands(site: Site) -> None:
    added = told(site, "messenger", "add", "alpha", "--daily-quota", "1000", "--batch-max", "50", "--agreement", "7 of 2026-01-02")
    assert added["apiKey"].startswith("rk_")
    assert added["webhookSecret"].startswith("whsec_")
    assert run(site, "messenger", "add", "alpha").exit_code == 1
    assert run(site, "messenger", "add", "Not A Name").exit_code == 2
    assert run(site, "messenger", "add", "beta", "--endpoint", "ftp://x").exit_code == 2
    assert run(site, "messenger", "set", "alpha", "--endpoint", "http://127.0.0.1:9/x", "--phone-number").exit_code == 0
    assert run(site, "messenger", "set", "alpha").exit_code == 2
    assert run(site, "messenger", "set", "alpha", "--certificate", "zz").exit_code == 2
    assert run(site, "messenger", "set", "alpha", "--certificate", "AB:" * 31 + "AB").exit_code == 0
    assert run(site, "messenger", "suspend", "alpha").exit_code == 0
    (listed,) = told(site, "messenger", "list")
    assert listed == {
        "messengerId": added["messengerId"],
        "name": "alpha",
        "state": "suspended",
        "endpoint": "http://127.0.0.1:9/x",
        "batchMax": 50,
        "includesPhoneNumber": True,
        "dailyQuota": 1000,
        "certificates": ["ab" * 32],
    }
    assert run(site, "messenger", "resume", "alpha").exit_code == 0
    rotated = told(site, "messenger", "rotate-key", "alpha")
    assert rotated["apiKey"] != added["apiKey"]
    third = run(site, "messenger", "rotate-key", "alpha")
    assert third.exit_code == 1
    assert "revoke-key" in third.stderr
    first_key_id = added["apiKey"].split("_")[1]
    assert run(site, "messenger", "revoke-key", "alpha", first_key_id).exit_code == 0
    assert run(site, "messenger", "revoke-key", "alpha", first_key_id).exit_code == 1
    assert told(site, "messenger", "rotate-secret", "alpha")["webhookSecret"].startswith("whsec_")
    assert told(site, "messenger", "rotate-secret", "alpha", "--ed25519")["webhookSecret"].startswith("whpk_")
    shown = told(site, "messenger", "show", "alpha")
    assert shown["state"] == "active"
    assert len(shown["keys"]) == 2
    for secret in (added["apiKey"].split("_", 2)[2], added["webhookSecret"]):
        assert secret not in run(site, "messenger", "show", "alpha").output
    assert run(site, "messenger", "show", "nobody").exit_code == 1
    assert "alpha" in run(site, "messenger", "list").output


def test_messenger_test_pushes_a_signed_event(site: Site) -> None:
    async def story() -> None:
        messenger = await site.add_messenger("alpha")
        async with receiving(messenger.secret) as (receiver, inbox):
            await asyncio.to_thread(run, site, "messenger", "set", "alpha", "--endpoint", receiver.url)
            done = await asyncio.to_thread(told, site, "messenger", "test", "alpha")
            assert done["delivered"] is True
            assert [(receipt.kind, receipt.verified) for receipt in inbox.receipts] == [("endpoint.test", True)]
            receiver.status = 500
            assert (await asyncio.to_thread(run, site, "messenger", "test", "alpha")).exit_code == 1

    asyncio.run(story())


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


def test_ranges_that_are_somebody_elses_are_counted_and_refused_by_command(site: Site, tmp_path: Path) -> None:
    asyncio.run(site.add_contracts(*range(79010800002, 79010800102)))
    ranges = tmp_path / "ranges.csv"
    ranges.write_text("first_msisdn,last_msisdn,region,note\n79010800000,79010800099,RU,\n")
    refused = run(site, "ranges", "import", str(ranges))
    assert refused.exit_code == 1
    assert "2 of 100 live contracts would turn absent" in refused.stdout
    assert "import again with --max-absent 2" in refused.stderr
    refused = run(site, "ranges", "import", str(ranges), "--dry-run", "--json")
    told_so = {"ranges": 1, "numbers": 100, "kept": 0, "live": 100, "turnedAbsent": 2, "dryRun": True}
    assert (refused.exit_code, json.loads(refused.stdout)) == (1, told_so)
    assert told(site, "ranges", "import", str(ranges), "--max-absent", "2%") == told_so | {"dryRun": False}
    assert "0 of 100 live contracts turned absent" in run(site, "ranges", "import", str(ranges)).stdout


SNAPSHOT = "msisdn,holder,end_user,status,started_at\n79010800002,individual,not_required,active,2020-01-01T00:00:00Z\n"


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
    many = run(site, *words, "--max-rejects", "1", "--dry-run")
    assert many.exit_code == 1
    assert "would end 98 of 100 live contracts (98.00%)" in many.stderr
    assert "98 notifications to alpha" in many.stdout
    wanted = (*words, "--max-rejects", "1", "--max-terminations")
    would = told(site, *wanted, "98", "--dry-run")
    done = told(site, *wanted, "98%")
    assert {**done, "seconds": 0} == {**would, "dryRun": False, "seconds": 0}
    assert {key: done[key] for key in ("live", "terminated", "unread", "notifications", "deliveryHours")} == {
        "live": 100,
        "terminated": 98,
        "unread": 1,
        "notifications": {"alpha": 98},
        "deliveryHours": None,
    }
    for wrong in (("--max-terminations", "half"), ("--as-of", "yesterday"), ("--rejects", str(tmp_path / "nowhere" / "x"))):
        assert run(site, *words, *wrong).exit_code == 2


def test_events_come_from_a_file_and_refused_ones_are_an_error(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text(
        "event_id,type,msisdn,occurred_at,holder,end_user\n"
        "e1,activated,79010800002,2024-01-01T00:00:00Z,,\n"
        "e2,terminated,79010800003,2024-01-01T00:00:00Z,,\n"
    )
    words = ("contracts", "import", str(file), "--delta")
    refused = run(site, *words)
    assert (refused.exit_code, "1 events applied, 0 were applied before, 1 refused" in refused.stdout) == (1, True)
    assert Path(f"{file}.rejects.csv").read_text() == "line,reason\n3,the number has no live contract: send activated first\n"
    done = told(site, *words, "--max-rejects", "1")
    assert (done["applied"], done["duplicates"], done["refused"]) == (0, 1, 1)
    for wrong in (("--dry-run",), ("--as-of", "2026-01-02T00:00:00Z")):
        assert run(site, *words, *wrong).exit_code == 2


def test_a_delta_that_stops_tells_what_was_done_before(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text(
        "event_id,type,msisdn,occurred_at,holder,end_user\n"
        "e1,activated,79010800002,2024-01-01T00:00:00Z,,\n"
        "e2,terminated,79010800003,2024-01-01T00:00:00Z,,\n"
        "e3,terminated,79010800002,yesterday,,\n"
    )
    stopped = run(site, "contracts", "import", str(file), "--delta")
    assert (stopped.exit_code, "1 events applied, 0 were applied before, 1 refused" in stopped.stdout) == (1, True)
    assert "line 4: occurred_at: " in stopped.stderr
    assert [row.split(",")[0] for row in Path(f"{file}.rejects.csv").read_text().splitlines()] == ["line", "3", "4"]
    again = run(site, "contracts", "import", str(file), "--delta", "--json")
    facts = json.loads(again.stdout)
    assert (again.exit_code, facts["applied"], facts["duplicates"], facts["refused"]) == (1, 0, 1, 1)
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


def test_check_tells_what_serve_would_meet(site: Site) -> None:
    assert {finding["state"] for finding in told(site, "check")} == {"ok"}
    (site.directory / "credentials" / "feed-key").chmod(0o644)
    exposed = run(site, "check")
    assert exposed.exit_code == 3
    assert "chmod 0600" in exposed.output
    (site.directory / "credentials" / "feed-key").write_text("short")
    assert run(site, "check").exit_code == 3


def failed(site: Site) -> dict[str, str]:
    findings = json.loads(run(site, "check", "--json").stdout)
    return {finding["check"]: finding["detail"] for finding in findings if finding["state"] == "failed"}


def test_check_names_each_function_table_and_setting_that_the_role_lacks(site: Site) -> None:
    site.database.psql(
        *("-c", "REVOKE EXECUTE ON FUNCTION registry.seal_pages FROM registryd_app"),
        *("-c", "REVOKE UPDATE (gate_until) ON registry.lane FROM registryd_app"),
    )
    lacking = failed(site)["permissions"]
    assert "function registry.seal_pages(" in lacking
    assert "table lane" in lacking
    site.database.psql(
        *("-c", "GRANT EXECUTE ON FUNCTION registry.seal_pages TO registryd_app"),
        *("-c", "GRANT UPDATE (gate_until) ON registry.lane TO registryd_app"),
        *("-c", f"ALTER ROLE registryd_app IN DATABASE \"{site.database.name}\" SET log_min_error_statement = 'error'"),
    )
    assert failed(site) == {"settings": "log_min_error_statement is error, not panic: connect as registryd_app, or run sql/roles.sql again"}


def test_check_names_whose_secrets_a_key_does_not_open(site: Site) -> None:
    asyncio.run(site.add_messenger("alpha"))
    asyncio.run(site.digest_key())
    secrets_key, journal_key = (site.directory / "credentials" / name for name in ("secrets-key", "journal-key"))
    right, wrong = secrets_key.read_text(), "ab" * 32
    secrets_key.write_text(wrong)
    assert "signing secrets of alpha" in failed(site)["secrets"]
    secrets_key.write_text(right)
    journal_key.write_text(wrong)
    assert "digest keys of " in failed(site)["secrets"]
    assert run(site, "check").exit_code == 3


def test_the_secrets_key_is_rotated_while_everything_works(site: Site) -> None:
    credentials = site.directory / "credentials"
    messenger = asyncio.run(site.add_messenger("alpha"))
    (credentials / "secrets-key").rename(credentials / "secrets-key-previous")
    (credentials / "secrets-key").write_text("cd" * 32)
    (credentials / "secrets-key").chmod(0o600)
    assert failed(site) == {}
    assert "1 signing secrets" in run(site, "secrets", "rewrap").stdout
    assert "0 signing secrets" in run(site, "secrets", "rewrap").stdout
    (credentials / "secrets-key-previous").unlink()
    assert failed(site) == {}

    async def read() -> list[SigningSecret]:
        async with site.database.pool() as db:
            return await signing_secrets(db, signing_box(site.settings.credentials), MessengerId(messenger.messenger_id))

    assert asyncio.run(read()) == [messenger.secret]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[api]\nlisten = '127.0.0.1:1'\nlisen = 1\n", 3, "api.lisen: unknown key; did you mean 'listen'?"),
        ("[apy]\n", 1, "apy: unknown key; did you mean 'api'?"),
        ("\n[database]\npool_size = 'many'\n", 3, "database.pool_size: expected"),
        ("[presence]\ngroup_max = 0\n", 2, "presence.group_max: expected"),
        ("[api]\nlisten = '0.0.0.0:8080'\n", 2, "needs TLS"),
        ("[api]\nlisten = 'localhost'\n", 2, "names no IP address"),
        ("[delivery]\nallow_networks = ['10.0.0.1/8']\n", 2, "delivery.allow_networks"),
        ("[database]\ndsn = 'postgresql://app:hunter2@db/registryd'\n", 2, "database.dsn: a password does not belong here"),
        ("[database]\ndsn = 'postgresql://app@/registryd?host=a,b,c&port=1,2'\n", 2, "database.dsn: 3 hosts and 2 ports"),
        ("[api\n", 1, "not TOML"),
    ],
)
def test_a_bad_key_is_named_with_its_line_and_mend(site: Site, text: str, line: int, says: str) -> None:
    site.path.write_text(text)
    result = run(site, "check")
    assert result.exit_code == 3
    assert says in result.stderr
    assert "hunter2" not in result.output
    assert f"{site.path}:{line}" in result.stderr or "line 1" in result.stderr


def test_exit_codes_say_what_was_wrong(site: Site, tmp_path: Path) -> None:
    def code(*words: str) -> int:
        done = subprocess.run(
            [sys.executable, "-m", "registryd", *words],
            capture_output=True,
            check=False,
            env={**os.environ, "REGISTRYD_CONFIG": str(site.path)},
        )
        assert b"Traceback" not in done.stderr
        return done.returncode

    assert code("messenger", "list") == 0
    assert code("no-such-command") == 2
    assert code("--config", str(tmp_path / "none.toml"), "serve") == 3
    site.write_config()
    site.path.write_text(site.path.read_text().replace("host=/", "host=/nowhere/"))
    assert code("serve") == 4
    site.write_config()
    site.database.psql("-c", "UPDATE registry.schema_migration SET version = 0, compatible_from = 0")
    assert code("serve") == 5


def test_a_role_that_is_not_let_in_or_lacks_a_grant_is_told_so(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "contracts.csv"
    file.write_text(CONTRACTS)
    nobody = f"nobody_{os.getpid()}"
    assert site.database.psql("-f", str(resources.path("sql/roles.sql"))).returncode == 0, "a clone has no grants of its own"
    site.database.psql("-c", f"CREATE ROLE {nobody} LOGIN")
    own = site.database.dsn("registryd_app")

    def as_role(role: str, *words: str) -> tuple[int, str]:
        site.write_config()
        site.path.write_text(site.path.read_text().replace(own, site.database.dsn(role)))
        done = run(site, *words)
        return done.exit_code, done.output

    def says(words: str, told: tuple[int, str]) -> int:
        assert words in told[1], told
        return told[0]

    listed = ("breakglass", "list", "--dsn", site.database.dsn(nobody))
    try:
        assert says("permission denied for database", as_role("registryd_app", *listed)) == 1
        assert says("permission denied for database", as_role(nobody, "messenger", "list")) == 1
        assert says("permission denied for database", as_role(nobody, "check")) == 1
        site.database.psql("-c", f'GRANT CONNECT ON DATABASE "{site.database.name}" TO {nobody}')
        assert says("a DBA grants you registryd_breakglass", as_role("registryd_app", *listed)) == 1
        assert says("lacks a grant", as_role(nobody, "messenger", "list")) == 1
        assert says("connect as registryd_app", as_role(nobody, "contracts", "import", str(file))) == 5
    finally:
        site.database.psql("-c", f"DROP OWNED BY {nobody}", "-c", f"DROP ROLE {nobody}")
    assert says("the role may only read", as_role("registryd_report", "contracts", "import", str(file))) == 4
    assert says("the role may only read", as_role("registryd_report", "report")) == 4
    assert says('role "nobody_ever" does not exist', as_role("nobody_ever", "check")) == 4
    assert says("pg_ident.conf", as_role("nobody_ever", "messenger", "list")) == 4


def test_a_database_without_the_schema_is_told_so(server: embedded.Server, site: Site, tmp_path: Path) -> None:
    file, snapshot, ranges, events = (tmp_path / f"{name}.csv" for name in ("contracts", "snapshot", "ranges", "events"))
    file.write_text(CONTRACTS)
    snapshot.write_text(SNAPSHOT)
    ranges.write_text("first_msisdn,last_msisdn,region,note\n79010800000,79010899999,RU,test\n")
    events.write_text("event_id,type,msisdn,occurred_at,holder,end_user\ne1,activated,79010800002,2024-01-01T00:00:00Z,,\n")
    with cloned(server, None) as bare:
        assert bare.psql("-f", str(resources.path("sql/roles.sql"))).returncode == 0
        site.path.write_text(site.path.read_text().replace(site.database.name, bare.name))
        for words in (
            ("contracts", "import", str(file)),
            ("contracts", "import", str(snapshot), "--snapshot"),
            ("contracts", "import", str(events), "--delta"),
            ("ranges", "import", str(ranges)),
            ("audit", "head"),
            ("audit", "verify"),
            ("messenger", "list"),
            ("report",),
            ("breakglass", "list", "--dsn", bare.dsn()),
        ):
            done = run(site, *words)
            assert (done.exit_code, "registryd migrate" in done.stderr) == (5, True), (words, done.output)


def test_peer_authentication_is_followed_by_a_map(server: embedded.Server, site: Site) -> None:
    user, directory = pwd.getpwuid(os.getuid()).pw_name, Path(site.database.psql("-Atc", "SHOW data_directory").stdout.strip())
    hba, ident = directory / "pg_hba.conf", directory / "pg_ident.conf"
    before = hba.read_text()
    try:
        hba.write_text(f"local {site.database.name} registryd_app peer map=registryd\n{before}")
        site.database.psql("-c", "SELECT pg_reload_conf()")
        wait_for(lambda: run(site, "check").exit_code == 4)
        refused = run(site, "check")
        assert "Peer authentication failed" in refused.stdout
        assert "map this system user to the role in pg_ident.conf" in refused.stdout
        ident.write_text(f"registryd {user} registryd_app\n")
        site.database.psql("-c", "SELECT pg_reload_conf()")
        wait_for(lambda: run(site, "check").exit_code == 0)
    finally:
        hba.write_text(before)
        site.database.psql("-c", "SELECT pg_reload_conf()")


def test_report_shows_every_view_three_ways(site: Site) -> None:
    async def fill() -> None:
        await site.add_messenger("alpha")
        await site.add_contracts(79010800002)

    asyncio.run(fill())
    names = [line.split()[0] for line in run(site, "report").output.splitlines() if line[:1].isalpha() and "_" in line.split()[0]]
    assert len(names) == 11
    for name in names:
        rows = told(site, "report", name)
        header, *lines = run(site, "report", name, "--csv").stdout.splitlines()
        assert len(lines) == len(rows)
        assert all(",".join(row) == header for row in rows)
        assert run(site, "report", name).exit_code == 0
    assert run(site, "report", "nothing").exit_code == 2


def test_what_a_report_shows_goes_back_into_sql(site: Site, tmp_path: Path) -> None:
    async def fill() -> None:
        await site.add_messenger("alpha")
        await site.add_contracts(79010800002)

    asyncio.run(fill())
    (policy,) = told(site, "report", "policy")
    assert policy["journal_kept"] == "3 years"
    assert policy["alarm_slack"] == ["22:00:00", "12:00:00", "01:00:00", "00:00:00"]
    assert (policy["honest_absent_ratio"], policy["in_force"]) == ("0.03", True), "numerics are strings, so that no reader rounds them"
    kept = tmp_path / "report"
    for name in ("policy", "contract_daily", "quota_today", "notification_backlog", "endpoint_health"):
        for words, taken in (
            ("--csv", f"CREATE TEMP TABLE taken (LIKE report.{name}); \\copy taken FROM '{kept}' (FORMAT csv, HEADER)"),
            ("--json", f"\\set taken `cat {kept}`\nSELECT * INTO TEMP taken FROM json_populate_recordset(NULL::report.{name}, :'taken')"),
        ):
            kept.write_text(run(site, "report", name, words).stdout)
            counted = f"SELECT count(*), (SELECT count(*) FROM taken) FROM (TABLE taken INTERSECT TABLE report.{name}) AS same"
            done = site.database.psql("-At", stdin=f"{taken}\n;{counted};")
            same, of = done.stdout.split("|")
            assert int(same) == int(of) > 0, (name, words, done)


def test_listen_verifies_what_the_daemon_pushes(site: Site) -> None:
    async def story() -> None:
        messenger = await site.add_messenger("alpha")
        await site.add_contracts(79010800002)
        listener = subprocess.Popen(
            [sys.executable, "-m", "registryd", "listen", "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "REGISTRYD_WEBHOOK_SECRET": signing.shown(messenger.secret)},
        )
        try:
            assert listener.stderr is not None
            assert listener.stdout is not None
            url = listener.stderr.readline().split()[2].rstrip(";")
            changed = await asyncio.to_thread(run, site, "messenger", "set", "alpha", "--endpoint", url)
            assert changed.exit_code == 0
            with daemon(site) as running:
                async with client(running.api, messenger) as http, client(running.operator) as operator:
                    body = {"phoneNumber": "+79010800002", "identificationCode": "u-1"}
                    async with http.post("/v1/bindings", json=body) as answer:
                        assert answer.status == 201
                    event = {"eventId": "e-1", "type": "ported_out", "phoneNumber": "+79010800002", "occurredAt": "2026-01-02T03:04:05Z"}
                    async with operator.post(
                        "/operator/v1/contract-events", json={"events": [event]}, headers=site.operator_headers
                    ) as answer:
                        assert answer.status == 200
                received = json.loads(await asyncio.to_thread(listener.stdout.readline))
            assert received["verified"] is True
            assert received["event"]["data"]["notifications"][0]["identificationCode"] == "u-1"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(urllib.request.Request(url, b"{}", {"webhook-id": "x"}))
        finally:
            listener.send_signal(signal.SIGINT)
            listener.communicate(timeout=60)

    asyncio.run(story())


def test_sighup_reloads_and_keeps_serving_what_cannot_be_read(site: Site) -> None:
    site.write_config(log='level = "info"')

    async def story() -> None:
        with daemon(site) as running:
            site.write_config(log='level = "warning"')
            running.process.send_signal(signal.SIGHUP)
            await eventually(lambda: any(line["event"] == "reloaded" for line in running.log()))
            site.path.write_text("[nonsense]\n")
            running.process.send_signal(signal.SIGHUP)
            await eventually(lambda: any(line["event"] == "background_failed" for line in running.log()))
            assert "registryd_ready 1.0" in running.metrics()
            assert running.stop() == 0
            # Those of the end are below the level that was set.
            assert [line["event"] for line in running.log() if line["level"] == "info"] == ["started", "reloaded"]

    asyncio.run(story())


def test_population_file_is_one_the_import_takes(site: Site, tmp_path: Path) -> None:
    ranges = population.read_ranges(resources.path("tests/data/numbering_ranges.csv"))
    file = tmp_path / "contracts.csv"
    population.write_csv(file, population.generate(ranges, 5_000))
    assert told(site, "contracts", "import", str(file)) | {"seconds": 0} == {"lines": 5000, "inserted": 5000, "dryRun": False, "seconds": 0}


def test_evidence_is_verified_against_a_head_that_was_kept(site: Site, tmp_path: Path) -> None:
    messenger = asyncio.run(site.add_messenger())

    async def query(api: str) -> None:
        async with client(api, messenger) as session:
            answer = await session.post("/v1/presence", json={"phoneNumber": "+79010800002"})
            assert answer.status == 200

    with daemon(site) as running:
        asyncio.run(query(running.api))
        assert running.stop() == 0
    verdict = told(site, "audit", "verify")
    assert (verdict["pages"], verdict["pagesDroppedBefore"], verdict["findings"]) == (1, None, [])
    kept = tmp_path / "head.json"
    kept.write_text(run(site, "audit", "head").stdout)
    (site.directory / "credentials" / "head-key").unlink()  # whoever verifies has no secret of the service
    public = ("--public-key", json.loads(kept.read_text())["publicKey"])
    assert run(site, "audit", "verify", "--head", str(kept)).exit_code == 2
    shown = run(site, "audit", "verify", "--head", str(kept), *public)
    assert (shown.exit_code, "as it was written" in shown.stdout) == (0, True)
    site.database.psql("-c", "DELETE FROM registry.journal_page; DELETE FROM registry.seal WHERE sequence > 1")
    assert run(site, "audit", "verify").exit_code == 0
    cut = run(site, "audit", "verify", "--head", str(kept), *public, "--json")
    assert (cut.exit_code, [finding["fault"] for finding in json.loads(cut.stdout)["findings"]]) == (1, ["head_missing"])
    kept.write_text(kept.read_text().replace('"sequence":2', '"sequence":1'))
    forged = run(site, "audit", "verify", "--head", str(kept), *public)
    assert (forged.exit_code, "signed" in forged.stderr) == (1, True)


def test_two_persons_look_at_one_number(site: Site) -> None:
    anna, boris = f"anna_{os.getpid()}", f"boris_{os.getpid()}"
    asyncio.run(site.add_contracts(79010800002))
    site.database.psql("-c", f"CREATE ROLE {anna} LOGIN IN ROLE registryd_breakglass; CREATE ROLE {boris} LOGIN IN ROLE registryd_approver")
    try:

        def as_person(person: str, *words: str, number: str = "") -> Result:
            arguments = ["breakglass", *words, "--dsn", site.database.dsn(person)]  # no configuration and no secret
            return CliRunner().invoke(main, arguments, input=number, catch_exceptions=False)

        messenger = asyncio.run(site.add_messenger())

        async def query(api: str) -> None:
            async with client(api, messenger) as session:
                answer = await session.post("/v1/presence", json={"phoneNumber": "+79010800002", "identificationCode": "u-1"})
                assert answer.status == 200

        assert as_person(anna, "request", "--reason", "complaint 17", number="8 901").exit_code == 2
        asked = as_person(anna, "request", "--reason", "complaint 17", number="+79010800002\n")
        assert (asked.exit_code, "approve 1" in asked.stdout) == (0, True)
        assert "not prepared yet" in as_person(boris, "list").stdout
        with daemon(site) as running:
            asyncio.run(query(running.api))
            wait_for(lambda: json.loads(as_person(boris, "list", "--json").stdout)[0]["is_prepared"])
        refused = as_person(anna, "look", "1")
        assert (refused.exit_code, "nobody has approved" in refused.stderr) == (1, True)
        assert as_person(anna, "approve", "1").exit_code == 1
        (waiting,) = json.loads(as_person(boris, "list", "--json").stdout)
        assert (waiting["number"], waiting["reason"]) == ("79010****02", "complaint 17")
        assert "79010****02" in as_person(boris, "list").stdout
        assert as_person(boris, "approve", "1").exit_code == 0
        seen = json.loads(as_person(anna, "look", "1", "--json").stdout)
        assert [(row["kind"], row["messenger"], row["outcome"]) for row in seen] == [
            ("contract", None, "active"),
            ("binding", messenger.name, "live"),
            ("query", messenger.name, "present"),
        ]
        assert as_person(anna, "look", "1").exit_code == 1
    finally:
        site.database.psql("-c", f"DROP ROLE {anna}, {boris}")


def test_a_daemon_with_another_journal_key_does_not_start(site: Site) -> None:
    asyncio.run(site.digest_key())
    (site.directory / "credentials" / "journal-key").write_text("ab" * 32)
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "serve"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "journal-key" in done.stderr) == (3, True)
