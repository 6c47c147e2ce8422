"""The commands, as operators and messengers' engineers run them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from registryd.domain.wire import camel
from tests.conftest import Site, client, daemon, eventually, receiving
from tests.process.commands import run, told
from tests.process.handing_over import listener, next_line


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
        "keysExpireAt": None,
        "lastUsedAt": None,
    }
    assert run(site, "messenger", "resume", "alpha").stdout == "state: suspended → active\n"
    assert told(site, "messenger", "probe", "alpha") == {"messenger": "alpha", "wasFailing": False, "madeDue": 0}
    rotated = told(site, "messenger", "rotate-key", "alpha")
    assert rotated["apiKey"] != added["apiKey"]
    third = run(site, "messenger", "rotate-key", "alpha")
    assert third.exit_code == 1
    assert "revoke-key" in third.stderr
    first_key_id = added["apiKey"].split("_")[1]
    assert run(site, "messenger", "revoke-key", "alpha", first_key_id).exit_code == 0
    assert run(site, "messenger", "revoke-key", "alpha", first_key_id).exit_code == 1
    assert told(site, "messenger", "rotate-secret", "alpha")["webhookSecret"].startswith("whsec_")
    pair = run(site, "messenger", "rotate-secret", "alpha", "--ed25519", "--json")
    assert json.loads(pair.stdout)["webhookSecret"].startswith("whpk_")
    assert "verify v1 alone" in pair.stderr
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
            with daemon(site, "deliver") as running:
                done = await asyncio.to_thread(told, site, "messenger", "test", "alpha")
                assert done["delivered"] is True
                assert [(receipt.kind, receipt.verified) for receipt in inbox.receipts] == [("endpoint.test", True)]
                receiver.status = 500
                assert (await asyncio.to_thread(run, site, "messenger", "test", "alpha")).exit_code == 1
                assert running.stop() == 0

    asyncio.run(story())


def test_report_shows_every_view_three_ways(site: Site) -> None:
    async def fill() -> None:
        await site.add_messenger("alpha")
        await site.add_contracts(79010800002)

    asyncio.run(fill())
    names = [view["name"] for view in told(site, "report")]
    assert [line.split()[0] for line in run(site, "report").stdout.splitlines()[1:]] == names
    for name in names:
        columns, rows = [column["name"] for column in told(site, "report", name, "--columns")], told(site, "report", name)
        header, *lines = run(site, "report", name, "--csv").stdout.splitlines()
        assert (len(lines), header) == (len(rows), ",".join(columns))
        assert all(list(row) == list(map(camel, columns)) for row in rows)
        assert len(run(site, "report", name).stdout.splitlines()) == 1 + len(rows)
    assert run(site, "report", "nothing").exit_code == 2


def test_what_a_report_shows_goes_back_into_sql(site: Site, tmp_path: Path) -> None:
    async def fill() -> None:
        await site.add_messenger("alpha")
        await site.add_contracts(79010800002)

    asyncio.run(fill())
    (policy,) = told(site, "report", "policy")
    assert policy["journalKept"] == "3 years"
    assert policy["alarmSlack"] == ["22:00:00", "12:00:00", "01:00:00", "00:00:00"]
    assert (policy["honestAbsentRatio"], policy["inForce"]) == ("0.03", True), "numerics are strings, so that no reader rounds them"
    kept = tmp_path / "report"
    for name in ("policy", "contract_daily", "quota_today", "notification_backlog", "endpoint_health"):
        kept.write_text(run(site, "report", name, "--csv").stdout)
        taken = f"CREATE TEMP TABLE taken (LIKE report.{name}); \\copy taken FROM '{kept}' (FORMAT csv, HEADER)"
        counted = f"SELECT count(*), (SELECT count(*) FROM taken) FROM (TABLE taken INTERSECT TABLE report.{name}) AS same"
        done = site.database.psql("-At", stdin=f"{taken}\n;{counted};")
        same, of = done.stdout.split("|")
        assert int(same) == int(of) > 0, (name, done)


def test_listen_verifies_what_the_daemon_pushes(site: Site) -> None:
    async def story() -> None:
        messenger = await site.add_messenger("alpha")
        await site.add_contracts(79010800002)
        with listener(messenger) as (heard, url):
            changed = await asyncio.to_thread(run, site, "messenger", "set", "alpha", "--endpoint", url)
            assert changed.exit_code == 0
            with daemon(site, "answer", "operate", "deliver") as running:
                async with client(running.api, messenger) as http, client(running.operator) as operator:
                    body = {"phoneNumber": "+79010800002", "identificationCode": "u-1"}
                    async with http.post("/v1/bindings", json=body) as answer:
                        assert answer.status == 201
                    event = {"eventId": "e-1", "type": "ported_out", "phoneNumber": "+79010800002", "occurredAt": "2026-01-02T03:04:05Z"}
                    async with operator.post(
                        "/operator/v1/contract-events", json={"events": [event]}, headers=site.operator_headers
                    ) as answer:
                        assert answer.status == 200
                received = await next_line(heard)
            assert received["verified"] is True
            assert received["event"]["data"]["notifications"][0]["identificationCode"] == "u-1"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(urllib.request.Request(url, b"{}", {"webhook-id": "x"}))

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
            await eventually(lambda: any(line["event"] == "reload_failed" for line in running.log()))
            assert "registryd_ready 1.0" in running.metrics()
            assert running.stop() == 0
            # Those of the end are below the level that was set.
            assert [line["event"] for line in running.log() if line["level"] == "info"] == ["started", "reloaded"]

    asyncio.run(story())


# -- endpoints


@pytest.mark.parametrize("pasted", [" https://m.example/h", "https://m.example/h ", "HTTPS://M.example/h", "https://m.example/h\n"])
def test_a_pasted_endpoint_is_kept_as_it_will_be_sent(site: Site, pasted: str) -> None:
    assert run(site, "messenger", "add", "alpha", "--endpoint", pasted).exit_code == 0
    assert run(site, "messenger", "set", "alpha", "--endpoint", pasted).exit_code == 0
    assert told(site, "messenger", "list")[0]["endpoint"] == "https://m.example/h"


@pytest.mark.parametrize(
    "url", ["https://m.example/h\u00a0", "https://m.example/?", "https://m.example/" + "x" * 2_100, " ", "https://m.example/a b"]
)
def test_an_endpoint_that_cannot_be_sent_as_it_is_written_is_refused_by_command_and_table(site: Site, url: str) -> None:
    asyncio.run(site.add_messenger("alpha"))
    refused = run(site, "messenger", "set", "alpha", "--endpoint", url)
    assert (refused.exit_code, "endpoint" in refused.stderr, "Traceback" in refused.output) == (2, True, False)
    by_hand = site.database.psql("-v", f"url={url}", stdin="UPDATE registry.messenger SET endpoint_url = :'url'")
    assert "check constraint" in by_hand.stderr


def test_of_two_commands_that_make_a_key_of_one_new_name_the_second_is_refused(site: Site) -> None:
    async def story() -> None:
        async with site.database.connect() as first, site.database.connect() as watcher:
            async with first.transaction():
                await first.execute(
                    "INSERT INTO registry.operator_key (key_id, name, scopes, secret_sha256) VALUES ('aaaaaaaa', 'b', '{read}', sha256(''))"
                )
                second = asyncio.create_task(asyncio.to_thread(run, site, "operator", "add", "b", "--scope", "act"))
                waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                await eventually(lambda: watcher.fetchval(waiting))
            done = await second
            assert (done.exit_code, "b has a live key already" in done.stderr) == (1, True), done.output

    asyncio.run(story())


# -- output that nobody takes


@pytest.mark.parametrize("stdout", ["closed pipe", "/dev/full"])
@pytest.mark.parametrize("shape", [[], ["--json"]])
@pytest.mark.parametrize(
    "words", ["messenger rotate-key alpha", "messenger rotate-secret alpha", "messenger add beta", "operator add b --scope feed"]
)
def test_a_key_that_nobody_has_seen_does_not_count(site: Site, words: str, shape: list[str], stdout: str) -> None:
    asyncio.run(site.add_messenger("alpha"))
    counts = (f"(SELECT count(*) FROM registry.{table})" for table in ("messenger_key", "messenger_secret", "operator_key"))
    kept = f"SELECT {', '.join(counts)}"
    before = site.database.psql("-Atc", kept).stdout
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), *words.split(), *shape]
    if stdout == "closed pipe":
        reading, output = os.pipe()
        os.close(reading)
    else:
        output = os.open(stdout, os.O_WRONLY)
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    os.close(output)
    assert (done.returncode, "nobody took the output" in done.stderr, "database" in done.stderr) == (1, True, False), done.stderr
    assert site.database.psql("-Atc", kept).stdout == before


@pytest.mark.parametrize(
    "words",
    [
        "check --json",
        "check",
        "messenger list --json",
        "messenger list",
        "report feed_lag",
        "policy show",
        "operator list --json",
    ],
)
def test_a_closed_pipe_is_a_closed_pipe_and_no_database_that_is_away(site: Site, words: str) -> None:
    reading, output = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), *words.split()]
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    os.close(output)
    assert done.returncode == 1, done.stderr
    assert not [word for word in ("Traceback", "database", "Exception ignored") if word in done.stderr], done.stderr


@pytest.mark.parametrize("until", ["infinity", "10000-01-01"])
def test_a_key_that_never_expires_can_be_rotated(site: Site, until: str) -> None:
    asyncio.run(site.add_messenger("alpha"))
    site.database.psql("-c", f"UPDATE registry.messenger_key SET expires_at = '{until}'")
    assert run(site, "messenger", "show", "alpha").exit_code == 0
    assert run(site, "messenger", "rotate-key", "alpha").exit_code == 0
    lives = [key["expiresAt"][:4] for key in told(site, "messenger", "show", "alpha")["keys"] if key["expiresAt"]]
    assert lives == [site.database.psql("-Atc", "SELECT extract(year FROM now() + interval '24 h')").stdout.strip()]


def test_infinity_in_a_table_stops_no_command(site: Site) -> None:
    """Nor does a year that no calendar of ours has: what lasts for ever is told as lasting to the end of it."""
    asyncio.run(site.add_messenger("alpha", endpoint="https://m.example/"))
    for statement in (
        "UPDATE registry.messenger_key SET expires_at = 'infinity', last_used_at = '-infinity', created_at = '-infinity'",
        "UPDATE registry.messenger_secret SET expires_at = 'infinity', created_at = '-infinity'",
        "UPDATE registry.lane SET gate_until = 'infinity', failures = 1",
        "INSERT INTO registry.enumeration_alarm (messenger_id, kind, ends_at) SELECT messenger_id, 'absent', 'infinity' FROM registry.lane",
        "INSERT INTO registry.wave_allowance (ends, until_at, reason) VALUES (1, '10001-01-01', 'test')",
    ):
        done = site.database.psql("-c", statement)
        assert done.returncode == 0, done.stderr
    for words in ("check", "messenger list", "messenger show alpha", "policy show", "feed status", "notifications status", "report policy"):
        for shape in ([], ["--json"]):
            told_of = run(site, *words.split(), *shape)
            assert told_of.exit_code == 0, (words, told_of.output)
    assert run(site, "messenger", "rotate-key", "alpha").exit_code == 0
    dateless = site.database.psql("-c", "SET session_replication_role = 'replica'; UPDATE registry.policy SET lapses_at = 'infinity'")
    assert "policies_have_dates" in dateless.stderr
    with daemon(site, "answer", "operate", "deliver") as running:
        assert not [line for line in running.log() if line["event"] in ("background_failed", "request_failed")]
