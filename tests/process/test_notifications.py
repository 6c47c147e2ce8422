"""`notifications`, as an operator runs it: it tells what is owed, hands over, settles, delivers again and brakes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from registryd.delivery import signing
from tests.conftest import Site, client, daemon, eventually
from tests.delivery.conftest import FIRST_NUMBER, delivering, listening, looking
from tests.process.handing_over import HOUR, NOBODY_S, REPORT, process, refused, registryd, told


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
