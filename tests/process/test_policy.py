"""The law as data: in force in every worker within five seconds, deadlines by the law of the time, a history that nobody rewrites."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from registryd import observe
from registryd.cli import main
from registryd.cli.running import Exit
from registryd.keep.law import LawWatch
from tests.conftest import Site, TestDatabase, client, daemon, eventually
from tests.store.conftest import FIRST, bind, change_policy

SOON = "2099-03-01T00:00:00+03:00"


def run(site: Site, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(site.path), *words], catch_exceptions=False)


def policies(site: Site) -> list[dict[str, Any]]:
    return list(json.loads(run(site, "report", "policy", "--json").stdout))


def test_a_change_is_in_force_in_every_worker_soon_and_in_the_report(site: Site) -> None:
    async def story() -> None:
        await site.add_contracts(FIRST, FIRST + 1)
        await site.add_contracts(FIRST + 2, status="suspended")
        messenger = await site.add_messenger()
        async with site.database.connect() as dba:
            for number in (FIRST, FIRST + 1):
                await bind(dba, messenger.messenger_id, 1, number)
            with daemon(site) as one, daemon(site) as two:
                async with client(one.api, messenger) as first, client(two.api, messenger) as second:

                    async def answers() -> list[tuple[bool, timedelta]]:
                        found = []
                        for session in (first, second):
                            async with session.post("/v1/presence", json={"phoneNumber": f"+{FIRST + 2}"}) as response:
                                body = await response.json()
                            times = (datetime.fromisoformat(body[name]) for name in ("receivedAt", "deadlineAt"))
                            received_at, deadline_at = times
                            found.append((body["present"], deadline_at - received_at))
                        return found

                    assert await answers() == [(True, timedelta(minutes=20))] * 2
                    before = await dba.fetchval("SELECT now()")
                    changes = ("suspended_is_present=false", "answer_within=5 minutes", "notice_within=1 hour")
                    done = await asyncio.to_thread(run, site, "policy", "set", *changes, "--note", "a stricter law")
                    assert done.exit_code == 0, done.output

                    async def both_follow() -> bool:
                        return await answers() == [(False, timedelta(minutes=5))] * 2

                    await eventually(both_follow)
            end = "UPDATE registry.contract SET ended_at = $2 WHERE msisdn = $1"
            await dba.execute(end, FIRST, before)
            await dba.execute(end, FIRST + 1, await dba.fetchval("SELECT now()"))
            given = await dba.fetch("SELECT date_trunc('second', deadline_at - terminated_at) FROM registry.notification ORDER BY msisdn")
            assert [row[0] for row in given] in (
                [timedelta(hours=24), timedelta(hours=1)],
                [timedelta(hours=24) - timedelta(seconds=1), timedelta(hours=1) - timedelta(seconds=1)],  # cut to the millisecond
                [timedelta(hours=24) - timedelta(seconds=1), timedelta(hours=1)],
                [timedelta(hours=24), timedelta(hours=1) - timedelta(seconds=1)],
            )
        old, new = await asyncio.to_thread(policies, site)
        assert (old["inForce"], new["inForce"], new["supersededAt"]) == (False, True, None)
        assert old["supersededAt"] == new["effectiveFrom"]
        assert (new["note"], new["recordedBy"], new["suspendedIsPresent"]) == ("a stricter law", "postgres", False)
        assert {k: v for k, v in new.items() if k in ("organisationRule", "journalKept", "honestDensity")} == {
            k: v for k, v in old.items() if k in ("organisationRule", "journalKept", "honestDensity")
        }

    asyncio.run(story())


def test_policy_set_shows_what_it_does_and_a_dry_run_does_nothing(site: Site) -> None:
    words = ("policy", "set", "notice_within=12 hours", "organisation_rule=subscriber", "--from", SOON, "--note", "Decree of 2099")
    dry = run(site, *words, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "notice_within: 1 d → 12 h" in dry.stdout
    assert "organisation_rule: verified_end_user → subscriber" in dry.stdout
    assert "would be in force from 2099-02-28 21:00:00Z" in dry.stdout
    assert len(policies(site)) == 1
    assert json.loads(run(site, *words, "--json").stdout)["noticeWithin"] == "12:00:00"
    earlier = run(site, "policy", "set", "answer_within=1 minute", "--note", "now")
    assert "until 2099-02-28 21:00:00Z" in earlier.stdout, "a planned one takes its place"
    shown = json.loads(run(site, "policy", "show", "--json").stdout)
    assert [(row["note"], row["inForce"], row["answerWithin"]) for row in shown] == [
        ("now", True, "00:01:00"),
        ("Decree of 2099", False, "00:20:00"),
    ]
    assert "Decree of 2099" in run(site, "policy", "show").stdout


def test_nothing_is_null_and_intervals_are_written_in_each_way(site: Site) -> None:
    slack = "alarm_slack={22:00, 12 hours,PT1H,0}"
    done = run(site, "policy", "set", "echo_per_s=", "notice_within=1 day 12:00", "journal_kept=P3Y", slack, "--note", "n")
    assert done.exit_code == 0, done.output
    assert "echo_per_s: 5000 → none" in done.stdout
    (_, now) = policies(site)
    assert (now["echoPerS"], now["noticeWithin"], now["journalKept"]) == (None, "1 day 12:00:00", "3 years")
    assert now["alarmSlack"] == ["22:00:00", "12:00:00", "01:00:00", "00:00:00"]
    bounded = run(site, "policy", "set", "echo_per_s=1000", "notice_within=36 hours", "--note", "n")
    assert "echo_per_s: none → 1000" in bounded.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nonsense=1", "--note", "n"], 2, "the policy has no nonsense. It has lapses_at, answer_within, notice_within"),
        (["note=x", "--note", "n"], 2, "the policy has no note"),
        (["effective_from=now", "--note", "n"], 2, "the policy has no effective_from"),
        (["recorded_by=me", "--note", "n"], 2, "the policy has no recorded_by"),
        (["answer_within=soon", "--note", "n"], 1, "invalid input syntax for type interval"),
        (["notice_within=12", "--note", "n"], 1, "notice_within: an interval says its unit, as in '12 hours'"),
        (["notice_within=1 day 12", "--note", "n"], 1, "notice_within: an interval says its unit"),
        (["answer_within=.5", "--note", "n"], 1, "answer_within: an interval says its unit"),
        (["alarm_slack={22 hours,12}", "--note", "n"], 1, "alarm_slack: an interval says its unit"),
        (["notice_within=", "--note", "n"], 1, 'null value in column "notice_within"'),
        (["answer_within=-1 hour", "--note", "n"], 1, "policy_answer_within_check"),
        (["honest_absent_ratio=0.5", "--note", "n"], 1, "scans_miss_more_than_honest_messengers"),
        (["organisation_rule=whoever", "--note", "n"], 1, "organisation_rule"),
        (["answer_within=1 hour", "--note", ""], 1, "policy_note_check"),
        (["answer_within=1 hour", "--note", "n", "--from", "2025-01-01T00:00:00Z"], 1, "never in the past"),
        (["answer_within=1 hour", "--note", "n", "--from", "1999-01-01T00:00:00Z"], 1, "no policy is in force then"),
        (["answer_within=1 hour", "--note", "n", "--from", "2099-01-01"], 2, "offset"),
        (["answer_within=1 hour", "--note", "n", "--from", "tomorrow"], 2, "offset"),
        (["answer_within", "--note", "n"], 2, "KEY=VALUE"),
        (["answer_within=1 hour"], 2, "--note"),
        (["--note", "n"], 2, "KEY=VALUE"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_its_reason(site: Site, words: list[str], code: int, said: str) -> None:
    done = run(site, "policy", "set", *words)
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert len(policies(site)) == 1


@pytest.mark.parametrize("column", ["journal_kept", "notification_kept", "ended_kept"])
def test_a_policy_that_keeps_less_begins_in_a_day_so_that_a_slip_can_be_taken_back(site: Site, column: str) -> None:
    """3 days for 3 years: what retention has deleted until somebody sees it does not come back."""
    slip = ("policy", "set", f"{column}=3 days", "--note", "n")
    for when in ((), ("--dry-run",), ("--from", (datetime.now(UTC) + timedelta(hours=23)).isoformat())):
        refused = run(site, *slip, *when)
        assert (refused.exit_code, "keeps something for less time begins in a day" in refused.output) == (1, True), refused.output
        assert "--from" in refused.output, "it says what to do"
    assert run(site, "policy", "set", f"{column}=4 years", "--note", "n").exit_code == 0, "to keep more does no harm"
    assert run(site, "policy", "set", f"{column}=1461 days", "answer_within=1 hour", "--note", "n").exit_code == 0, "4 years in days"
    assert run(site, *slip, "--from", (datetime.now(UTC) + timedelta(hours=25)).isoformat()).exit_code == 0
    warned = [p["severity"] for p in json.loads(run(site, "status", "--json").stdout)["problems"] if p["code"] == "keeps_less"]
    assert warned == ["warning"], "somebody else may see the slip in time"
    site.database.psql("-c", "DELETE FROM registry.policy WHERE effective_from > now()")
    assert len(policies(site)) == 3
    assert "keeps_less" not in run(site, "status", "--json").stdout


def test_the_daemons_role_cannot_change_the_law(site: Site) -> None:
    done = run(site, "policy", "set", "answer_within=1 hour", "--note", "n", "--dsn", site.database.dsn("registryd_app"))
    assert done.exit_code == Exit.SCHEMA
    assert "SET ROLE registryd_owner" in done.stderr


REWRITES = {
    "changing": "UPDATE registry.policy SET answer_within = '1 hour'",
    "moving away": "UPDATE registry.policy SET effective_from = now() + interval '1 day'",
    "deleting": "DELETE FROM registry.policy",
    "truncating": "TRUNCATE registry.policy",
    "preceding": "SELECT registry.change_policy('{}', effective_from + interval '1 day', 'x') FROM registry.policy",
    "naming less than the whole law": "INSERT INTO registry.policy SELECT now(), lapses_at, answer_within, notice_within, "
    "organisation_rule, suspended_is_present, journal_kept, notification_kept, 'x' FROM registry.policy",
    "by hand": 'INSERT INTO registry.policy SELECT (jsonb_populate_record(p, \'{"effective_from": "2098-01-01"}\')).* '
    "FROM registry.policy_in_force(now()) AS p",
    "changing a planned one": "UPDATE registry.policy SET answer_within = '1 hour' WHERE effective_from > now()",
    "a planned one into the past": "UPDATE registry.policy SET effective_from = now() - interval '1 second' WHERE effective_from > now()",
    "a date that clashes": "SELECT registry.change_policy('{}', '2099-01-01', 'x')",
}


SUSPENDED, UNREGISTERED, PLAIN = 40, 30, 30


def test_a_rule_that_turns_many_absent_is_counted_and_stopped(site: Site) -> None:
    async def fill() -> None:
        await site.add_contracts(*range(FIRST, FIRST + SUSPENDED), status="suspended")
        await site.add_contracts(*range(FIRST + 100, FIRST + 100 + UNREGISTERED), holder="organisation", end_user="unregistered")
        await site.add_contracts(*range(FIRST + 200, FIRST + 200 + PLAIN))
        await site.add_contracts(FIRST + 300, status="suspended", holder="organisation", end_user="unregistered")

    asyncio.run(fill())
    words = ("policy", "set", "suspended_is_present=false", "organisation_rule=subscriber", "--note", "n")
    dry = json.loads(run(site, *words, "--from", SOON, "--dry-run", "--json").stdout)
    assert (dry["turnsAbsent"], dry["turnsPresent"]) == (SUSPENDED, UNREGISTERED)
    told = run(site, *words, "--dry-run", "--max-absent", str(SUSPENDED - 1))
    assert (told.exit_code, f"that stops it, for {SUSPENDED - 1} may turn absent now" in told.stdout) == (0, True)
    stopped = run(site, *words, "--max-absent", str(SUSPENDED - 1))
    assert stopped.exit_code == 1
    assert f"turns {SUSPENDED} of 101 live contracts absent" in stopped.output
    assert f"--max-absent {SUSPENDED}" in stopped.output
    assert len(policies(site)) == 1
    done = run(site, *words, "--max-absent", str(SUSPENDED))
    assert done.exit_code == 0, done.output
    assert f"turns {SUSPENDED} live contracts absent and {UNREGISTERED} present" in done.stdout
    back = run(site, "policy", "set", "answer_within=10 minutes", "--note", "n", "--max-absent", "0")
    assert "turns 0 live contracts absent and 0 present" in back.stdout


def test_the_hours_bound_on_ends_bounds_a_rule_too(site: Site) -> None:
    asyncio.run(site.add_contracts(FIRST, FIRST + 1, status="suspended"))
    assert run(site, "policy", "set", "ends_max=1", "ends_max_share=0", "--note", "n").exit_code == 0
    assert run(site, "policy", "set", "suspended_is_present=false", "--note", "n").exit_code == 1
    assert run(site, "policy", "set", "suspended_is_present=false", "--note", "n", "--max-absent", "2").exit_code == 0


def test_a_law_that_lapses_is_told_daily_from_half_a_year_ahead_until_a_successor_is_planned(site: Site) -> None:
    async def story() -> None:
        async with site.database.pool() as db, site.database.connect() as dba:
            now = [0.0]
            watch = LawWatch(db, lambda: now[0])

            async def told() -> list[int]:
                with capture_logs() as logs:
                    await watch.look()
                return [line["days"] for line in logs if line["event"] == "policy_lapses"]

            lapses = (datetime.now(UTC) + timedelta(days=180, hours=1)).isoformat()
            await change_policy(dba, lapses_at=lapses)
            assert await told() == []
            lapses = (datetime.now(UTC) + timedelta(days=179, hours=1)).isoformat()
            await change_policy(dba, lapses_at=lapses)
            assert (await told(), await told()) == ([179], [])
            assert observe.policy_lapses._value.get() == pytest.approx(179 * 86_400 + 3_600, abs=600)
            now[0] += 86_400
            assert await told() == [179]
            await dba.execute("SELECT registry.change_policy('{\"lapses_at\": null}', $1, 'its successor')", datetime.fromisoformat(lapses))
            now[0] += 86_400
            assert await told() == []

    asyncio.run(story())


@pytest.mark.parametrize("user", ["postgres", "registryd_owner"])
def test_nobody_rewrites_the_history_and_rows_come_through_change_policy_alone(database: TestDatabase, user: str) -> None:
    async def story() -> None:
        async with database.connect() as connection:
            await connection.execute(f"SET ROLE {user}; SELECT registry.change_policy('{{}}', '2099-01-01', 'planned')")
            allowed = []
            for name, statement in REWRITES.items():
                try:
                    await connection.execute(statement)
                    allowed.append(name)
                except asyncpg.IntegrityConstraintViolationError:
                    pass
            assert allowed == []
            planned = await connection.fetchrow("SELECT * FROM registry.policy WHERE note = 'planned'")
            assert planned is not None
            assert planned["recorded_by"] == "postgres", "whoever it was is known"
            assert abs(planned["recorded_at"] - datetime.now(UTC)) < timedelta(hours=1)
            await connection.execute("DELETE FROM registry.policy WHERE note = 'planned'")
            assert await connection.fetchval("SELECT count(*) FROM registry.policy") == 1

    asyncio.run(story())
