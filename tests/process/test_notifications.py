"""`notifications` and `listen`, as an operator and a messenger's engineer run them: one hands over and settles, the other verifies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from standardwebhooks import Webhook

from registryd.cli import main
from registryd.delivery import signing
from tests.conftest import Site, TestMessenger, client, daemon, eventually
from tests.delivery.conftest import FIRST_NUMBER, delivering, listening, looking, send_digests

HOUR = timedelta(hours=1)
NOBODY_S = "01a20259-70ff-7558-b883-9a09fbfb0000"
REPORT = "SELECT owed, in_time, late, overdue, pending FROM report.notification_deadline"


def registryd(site: Site, *words: str, code: int = 0, secret: str = "") -> Result:
    """One command, in this process."""
    done = CliRunner().invoke(
        main,
        ["--config", str(site.path), *words],
        catch_exceptions=False,
        env={"COLUMNS": "250", "REGISTRYD_WEBHOOK_SECRET": secret},
    )
    assert done.exit_code == code, done.output
    return done


def process(site: Site, *words: str, secret: str = "") -> subprocess.CompletedProcess[str]:
    """One command, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "registryd", *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "REGISTRYD_CONFIG": str(site.path), "REGISTRYD_WEBHOOK_SECRET": secret},
    )


async def told(site: Site, *words: str) -> Any:
    return json.loads((await asyncio.to_thread(registryd, site, "notifications", *words, "--json")).stdout)


async def refused(site: Site, *words: str, code: int = 1) -> str:
    return (await asyncio.to_thread(registryd, site, "notifications", *words, code=code)).stderr


@contextmanager
def listener(messenger: TestMessenger, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`listen --json` and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "registryd", "listen", "--port", "0", "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "REGISTRYD_WEBHOOK_SECRET": signing.shown(messenger.secret)},
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline().split()[2].rstrip(";")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


async def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return dict(json.loads(await asyncio.to_thread(process.stdout.readline)))


def test_status_tells_each_backlog_and_whether_it_will_be_in_time(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            owing = await site.add_messenger("owing", "http://127.0.0.1:9/")
            await site.add_messenger("idle")
            await database.owe(owing, "late", first=1_000_001, deadline_in=-HOUR)
            await database.owe(owing, "b", "c", first=2_000_001, deadline_in=5 * HOUR)
            await database.run("UPDATE registry.notification SET recorded_at = now() - interval '7 hours'")
            await database.run(
                "UPDATE registry.lane SET gate_until = now(), failures = 4, last_error = 'timeout' WHERE messenger_id = $1", 1
            )
            first, second = await told(site, "status")
            assert {key: first[key] for key in ("messenger", "pending", "overdue", "etaSeconds", "tooSlow", "secondChannel")} == {
                "messenger": "owing",
                "pending": 3,
                "overdue": 1,
                "etaSeconds": None,
                "tooSlow": True,
                "secondChannel": True,
            }
            assert first["slackSeconds"] == pytest.approx(-3600, abs=60)
            assert (first["endpoint"], first["lastError"]) == ("gated", "timeout")
            assert (second["messenger"], second["pending"], second["slackSeconds"], second["tooSlow"]) == ("idle", 0, None, False)
            table = (await asyncio.to_thread(registryd, site, "notifications", "status")).stdout
            assert "never" in table
            assert "registryd notifications export owing" in table

    asyncio.run(run())


def test_explain_tells_the_whole_life_of_a_notification_without_its_number_or_code(site: Site) -> None:
    answers = iter((500, 204, 204))

    async def run() -> None:
        async with listening(lambda _: next(answers)) as endpoint, looking(site.database) as database:
            await site.add_messenger("zeta")
            messenger = await site.add_messenger("alpha", endpoint.url)
            await database.owe(messenger, "user-81f3", deadline_in=HOUR)
            notification_id = str(await database.id_of("user-81f3"))
            async with delivering(site):
                await eventually(lambda: len(endpoint.received) == 1)
                await eventually(lambda: database.value("SELECT attempts = 1 FROM registry.notification"))
                pending = await told(site, "explain", notification_id)
                await database.time_passes()
                await eventually(database.none_pending)
                delivered = await told(site, "explain", notification_id)
                await told(site, "replay", "alpha", "--id", notification_id)
                asked = await told(site, "explain", notification_id)
            assert (pending["state"], pending["verdict"], pending["deliveredAt"]) == ("pending", "owed", None)
            assert [event["what"].split(";")[0] for event in pending["life"] if "deadline" not in event["what"]][-1] == (
                "its next attempt is due"
            )
            assert (delivered["state"], delivered["via"], delivered["verdict"]) == ("delivered", "push", "in time")
            whats = [event["what"] for event in delivered["life"]]
            assert [what.split(" (")[0].split(",")[0] for what in whats] == [
                "the contract ended",
                "the registry wrote the notification",
                "push of 1: failed",
                "push of 1: acknowledged",
                "delivered by push",
                "the deadline",
            ]
            assert [event["at"] for event in delivered["life"]] == sorted(event["at"] for event in delivered["life"])
            assert any(event["what"] == "a replay was asked for" for event in asked["life"])
            assert (delivered["number"], delivered["identificationCode"]) == ("+7916*****01", "us*******")
            text = (await asyncio.to_thread(registryd, site, "notifications", "explain", notification_id)).stdout
            assert all(event["what"] in text for event in asked["life"]), "whatever happened at the same time"
            for secret in (str(FIRST_NUMBER), "user-81f3"):
                assert secret not in text + json.dumps([pending, delivered, asked])
            assert "neither owed" in await refused(site, "explain", NOBODY_S)
            await refused(site, "explain", "no-id", code=2)

    asyncio.run(run())


def test_replay_counts_and_then_delivers_again_through_the_daemon(site: Site, tmp_path: Path) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("alpha", endpoint.url)
            await database.owe(messenger, *(f"c{n}" for n in range(5)))
            with daemon(site, "deliver", "operate") as running:
                await eventually(database.none_pending)
                first = sorted(endpoint.ids)
                dry = await told(site, "replay", "alpha", "--since", "2020-01-01T00:00Z", "--dry-run", "--per-second", "2")
                assert dry == {"notifications": 5, "dryRun": True, "perSecond": 2, "takesSeconds": 2.5}
                assert await database.value("SELECT count(*) FROM registry.replay") == 0
                assert (await told(site, "replay", "alpha", "--since", "2020-01-01T00:00Z"))["notifications"] == 5
                await eventually(lambda: len(endpoint.ids) == 10)
                assert sorted(endpoint.ids) == sorted(first * 2)
                file = tmp_path / "ids.txt"
                file.write_text("\n".join(first[:2]) + "\n")
                assert (await told(site, "replay", "alpha", "--ids-file", str(file), "--id", first[2]))["notifications"] == 3
                await eventually(lambda: len(endpoint.ids) == 13)
                assert sorted(endpoint.ids[10:]) == first[:3]
                assert 'registryd_notifications_late_total{messenger="alpha"} 0.0' in running.metrics()
                assert running.stop() == 0
            until = ("--until", "2020-01-02T00:00+03:00")
            assert (await told(site, "replay", "alpha", "--since", "2020-01-01T00:00Z", *until))["notifications"] == 0
            await refused(site, "replay", "alpha", code=2)
            await refused(site, "replay", "alpha", "--since", "2020-01-01T00:00Z", "--id", first[0], code=2)
            await refused(site, "replay", "alpha", "--since", "the other day", code=2)
            await refused(site, "replay", "nobody", "--since", "2020-01-01T00:00Z")

    asyncio.run(run())


def test_what_is_owed_is_handed_over_in_a_signed_file_and_settled_under_the_channel_s_name(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "alpha.jsonl"

    async def run() -> None:
        async with looking(site.database) as database:
            messenger, other = await site.add_messenger("alpha"), await site.add_messenger("other")
            await database.bind(messenger, *(f"c{n}" for n in range(2500)))
            await database.bind(other, "x", first=FIRST_NUMBER + 5000)
            await database.run("UPDATE registry.contract SET ended_at = now()")
            done = await asyncio.to_thread(process, site, "notifications", "export", "alpha", str(file), "--json")
            exported = json.loads(done.stdout)
            assert exported["notifications"] == 2500
            assert exported["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
            assert file.stat().st_mode & 0o777 == 0o600
            assert await database.pending() == 2501, "what is written is owed still"
            await refused(site, "export", "alpha", str(file), code=2)
            await refused(site, "export", "alpha", str(tmp_path / "no" / "such"))

            lines = [json.loads(line) for line in file.read_text().splitlines()]
            assert len(lines) == 4
            webhook = Webhook(signing.shown(messenger.secret))
            for line in lines:  # a library's check, with the message's own time for its clock
                at = datetime.fromtimestamp(int(line["webhook-timestamp"]), UTC)
                signed = webhook.sign(line["webhook-id"], at, line["body"])
                assert signed in line["webhook-signature"].split(" ")
            bodies = [json.loads(line["body"]) for line in lines]
            codes = [n["identificationCode"] for body in bodies for n in body["data"].get("notifications", [])]
            assert sorted(codes) == sorted(f"c{n}" for n in range(2500))

            secret = signing.shown(messenger.secret)
            verified = await asyncio.to_thread(process, site, "listen", "--verify", str(file), "--json", secret=secret)
            assert [len(json.loads(line)["event"]["data"]["notifications"]) for line in verified.stdout.splitlines()] == [1000, 1000, 500]
            assert "2,500 notices, verified and complete" in verified.stderr

            words = ("notifications", "acknowledge", "alpha", "--channel", "courier", "--file", str(file))
            assert (await asyncio.to_thread(process, site, *words)).stdout.startswith("2,500 of 2,500 settled by courier")
            assert (await told(site, "acknowledge", "alpha", "--channel", "courier", "--file", str(file)))["settled"] == 0
            assert await database.pending() == 1
            assert await database.rows("SELECT via::text, count(*) FROM registry.notification_delivered GROUP BY 1") == [("hand", 2500)]
            kept = await database.rows("SELECT channel, notifications, encode(file_sha256, 'hex') FROM registry.handover")
            assert kept == [("courier", 2500, exported["sha256"])]
            assert await database.rows(REPORT + " WHERE messenger = 'alpha'") == [(2500, 2500, 0, 0, 0)]
            life = await told(site, "explain", str(await database.id_of("c7")))
            assert (life["via"], life["verdict"]) == ("courier", "in time")
            assert any(exported["sha256"] in event["what"] for event in life["life"])

    asyncio.run(run())


def test_a_receipt_or_single_ids_settle_too_and_another_messenger_s_are_ignored(site: Site, tmp_path: Path) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            messenger, other = await site.add_messenger("alpha"), await site.add_messenger("other")
            await database.owe(messenger, "a", "b", "c")
            await database.owe(other, "x", first=FIRST_NUMBER + 10)
            ids = {code: str(await database.id_of(code)) for code in "abcx"}
            receipt = tmp_path / "receipt.txt"
            receipt.write_bytes(f"\ufeffnotificationId\r\n{ids['a'].upper()}\r\n\r\n\"{ids['x']}\";\r\n'{ids['a']}',\r\n".encode())
            assert (await told(site, "acknowledge", "alpha", "--channel", "sftp", "--file", str(receipt)))["settled"] == 1
            settled = await told(site, "acknowledge", "alpha", "--channel", "telephone", "--id", ids["b"], "--id", ids["x"])
            assert settled == {"given": 2, "settled": 1, "channel": "telephone"}
            channels = await database.rows("SELECT channel, file_sha256 IS NULL FROM registry.handover ORDER BY handed_at")
            assert channels == [("sftp", False), ("telephone", True)]
            assert await database.pending() == 2
            for words in (["--channel", "Tele phone", "--id", ids["c"]], ["--channel", "sftp"], ["--id", ids["c"]]):
                await refused(site, "acknowledge", "alpha", *words, code=2)
            receipt.write_text(ids["c"], "utf-16")
            assert "UTF-16" in await refused(site, "acknowledge", "alpha", "--channel", "sftp", "--file", str(receipt), code=2)
            receipt.write_text("79161234567\n")
            said = await refused(site, "acknowledge", "alpha", "--channel", "sftp", "--file", str(receipt), code=2)
            assert "line 1" in said
            assert "79161234567" not in said

    asyncio.run(run())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda lines: [lines[0].replace("c0", "c9"), *lines[1:]], "line 1: no signature fits"),
        (lambda lines: [lines[0].replace('"v1,', '"v1,é'), *lines[1:]], "line 1: no signature fits"),
        (lambda lines: [lines[0].replace('timestamp":"', 'timestamp":"²'), *lines[1:]], "line 1: no signature fits"),
        (lambda lines: lines[:-1], "cut off"),
        (lambda lines: lines[1:], "lines are missing"),
        (lambda lines: [*lines, lines[0]], "line 3 follows"),
        (lambda lines: [lines[0], "{}", lines[1]], "line 2 is not a signed event"),
        (lambda lines: [lines[0][:-30], lines[1]], "line 1 is not a signed event"),
    ],
    ids=["changed", "signature beyond ASCII", "timestamp beyond ASCII", "cut off", "missing", "appended", "strange", "torn"],
)
def test_a_file_that_was_tampered_with_is_not_verified(site: Site, tmp_path: Path, spoil: Any, says: str) -> None:
    file = tmp_path / "alpha.jsonl"

    async def export() -> str:
        async with looking(site.database) as database:
            messenger = await site.add_messenger("alpha")
            await database.owe(messenger, "c0", "c1")
            await told(site, "export", "alpha", str(file))
        return signing.shown(messenger.secret)

    secret = asyncio.run(export())
    file.write_text("".join(f"{line}\n" for line in spoil(file.read_text().splitlines())))
    assert says in registryd(site, "listen", "--verify", str(file), secret=secret, code=1).stderr


def test_listen_simulates_failures_and_everything_still_arrives(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            messenger = await site.add_messenger("alpha")
            with listener(messenger, "--fail-every", "3", "--drop-every", "4", "--delay", "0.01") as (listening_process, url):
                await database.run("UPDATE registry.messenger SET endpoint_url = $1", url)
                await database.owe(messenger, *(f"c{n}" for n in range(6)))
                answered: list[int] = []
                received: set[str] = set()
                async with delivering(site, concurrency=1):
                    while len(received) < 6:
                        line = await next_line(listening_process)
                        answered.append(line["answered"])
                        if line["answered"] == 204:
                            received |= {n["identificationCode"] for n in line["event"]["data"]["notifications"]}
                        await database.time_passes()
                    await eventually(database.none_pending)
                assert received == {f"c{n}" for n in range(6)}
                expected = [0 if n % 4 == 0 else 503 if n % 3 == 0 else 204 for n in range(1, len(answered) + 1)]
                assert answered == expected

    asyncio.run(run())


def test_listen_checks_the_digest_against_what_it_received(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            messenger = await site.add_messenger("alpha")
            with listener(messenger) as (listening_process, url):
                await database.run("UPDATE registry.messenger SET endpoint_url = $1, created_at = '2020-01-01'", url)
                await send_digests(site)
                first = await next_line(listening_process)
                assert (first["event"]["type"], first["event"]["data"]["count"], first["complete"]) == ("notifications.digest", 0, True)
                # Of something that never came here.
                await database.run(
                    "UPDATE registry.digest SET notifications = 1, first_id = $1, last_id = $1, delivered_at = NULL, not_before = now()",
                    NOBODY_S,
                )
                await send_digests(site)
                second = await next_line(listening_process)
                assert (second["webhookId"], second["verified"], second["complete"]) == (first["webhookId"], True, False)

    asyncio.run(run())


def test_listen_wants_a_secret(site: Site) -> None:
    assert "no webhook secret is given" in registryd(site, "listen", "--port", "0", code=2).stderr


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        (f"v1,whsec_{'A' * 43}=", "leave out what stands before it"),
        (f"'whsec_{'A' * 43}='", "quotes"),
        (f'whsec_{"A" * 43}="', "quotes"),
        ("whsec_\u0430", "give it whole"),
        ("whsec_A", "give it whole"),
    ],
)
def test_listen_says_what_is_wrong_with_a_secret(site: Site, tmp_path: Path, secret: str, says: str) -> None:
    file = tmp_path / "secret"
    file.write_text(f"\ufeff{secret} \n")
    done = registryd(site, "listen", "--port", "0", "--secret-file", str(file), code=2)
    assert says in done.stderr
    assert "AAAA" not in done.stderr


def test_a_pulling_messenger_sees_what_was_not_settled_by_hand(site: Site) -> None:
    async def run() -> None:
        async with looking(site.database) as database:
            messenger = await site.add_messenger("alpha")
            await database.owe(messenger, "a", "b")
            with daemon(site) as running:
                await told(site, "acknowledge", "alpha", "--channel", "courier", "--id", str(await database.id_of("a")))
                async with client(running.api, messenger) as http, http.get("/v1/notifications") as answer:
                    assert [n["identificationCode"] for n in (await answer.json())["notifications"]] == ["b"]
                assert running.stop() == 0

    asyncio.run(run())


def test_an_operator_brakes_and_releases_by_command(site: Site) -> None:
    async def run() -> None:
        async with listening() as endpoint, looking(site.database) as database:
            messenger = await site.add_messenger("alpha", endpoint.url)
            await database.run("SELECT registry.change_policy('{\"ends_max\": 1, \"ends_max_share\": 0}', now(), 'a test')")
            await database.bind(messenger, "a", "b", "c")
            await database.run("UPDATE registry.contract SET ended_at = now()")
            assert (await told(site, "hold", "alpha", "--reason", "ticket 1"))["held"]
            assert "held already" in await refused(site, "hold", "alpha", "--reason", "ticket 2")
            assert "no hold of all messengers" in await refused(site, "release", "--reason", "none")
            assert "nobody" in await refused(site, "hold", "nobody", "--reason", "ticket 1")
            shown = await told(site, "waves")
            assert [(h["messenger"], h["reason"]) for h in shown["holds"]] == [("alpha", "ticket 1")]
            [wave] = shown["waves"]
            assert (wave["ends"], wave["held"], wave["endedBy"]) == (3, 3, "postgres")
            [status] = await told(site, "status")
            assert (status["pending"], status["held"], status["isHeld"]) == (3, 3, True)
            number = str(wave["wave"])
            assert (await told(site, "release", "--wave", number, "--reason", "right", "--dry-run"))["released"] == 0
            assert await database.pending() == 0
            assert (await told(site, "release", "--wave", number, "--reason", "right"))["released"] == 3
            assert "no wave" in await refused(site, "release", "--wave", number, "--reason", "right")
            assert (await told(site, "release", "alpha", "--reason", "over"))["released"]
            async with delivering(site):
                await eventually(database.none_pending)

    asyncio.run(run())
