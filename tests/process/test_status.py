"""`registryd status`: what needs a person, on one screen, with an exit code for monitoring."""

from __future__ import annotations

import asyncio
import json

from tests.conftest import Site, daemon, wait_for
from tests.process.commands import run


def sql(site: Site, statement: str) -> None:
    done = site.database.psql("-c", statement)
    assert done.returncode == 0, done.stderr


def everybody_is_up(site: Site) -> None:
    sql(
        site,
        "INSERT INTO registry.process (host, role, instance, pid, version, schema) "
        "SELECT 'here', r.role, 1, 1, '0', 1 FROM unnest('{answer,deliver,operate}'::text[]) AS r(role)",
    )


def test_where_no_process_is_up_it_says_so_and_ends_with_1(site: Site) -> None:
    seen = run(site, "status")
    assert seen.exit_code == 1
    for role in ("answer", "deliver", "operate"):
        assert f"No {role} process is up" in seen.stdout
    assert "answer 0, deliver 0, operate 0" in seen.stdout


def test_where_all_is_well_it_is_one_line_a_subject_and_ends_with_0(site: Site) -> None:
    everybody_is_up(site)
    seen = run(site, "status")
    assert seen.exit_code == 0
    lines = seen.stdout.splitlines()
    assert lines[0] == "nothing needs a person"
    assert [line.split()[0] for line in lines if line][1:] == ["answers", "notifications", "lanes", "alarms", "feed", "processes", "law"]


def test_a_warning_is_shown_and_does_not_wake_anybody(site: Site) -> None:
    everybody_is_up(site)
    asyncio.run(site.add_messenger("alpha", "https://example.net/"))
    sql(site, "UPDATE registry.lane SET failures = 1, last_error = 'timeout', gate_until = now() + interval '20 seconds'")
    seen = run(site, "status")
    assert seen.exit_code == 0
    assert "The endpoint of alpha fails: timeout." in seen.stdout


def test_json_is_the_duty_as_the_operator_api_has_it_and_has_the_same_exit_code(site: Site) -> None:
    seen = run(site, "status", "--json")
    assert seen.exit_code == 1
    told = json.loads(seen.stdout)
    assert [p["code"] for p in told["problems"]] == ["role_missing"] * 3
    assert told["registryComplete"] is True


def test_a_hundred_problems_are_still_one_screen(site: Site) -> None:
    everybody_is_up(site)
    sql(
        site,
        "INSERT INTO registry.messenger (name, endpoint_url) SELECT 'm' || i, 'https://a.net/' FROM generate_series(1, 100) AS i",
    )
    sql(site, "UPDATE registry.lane SET failures = 1, last_error = 'timeout', gate_until = now() + interval '20 seconds'")
    seen = run(site, "status")
    assert len(seen.stdout.splitlines()) < 40
    assert "and 85 more" in seen.stdout


def test_while_the_database_is_away_or_older_it_ends_as_every_command_does(site: Site) -> None:
    sql(site, "DELETE FROM registry.schema_migration")
    assert run(site, "status").exit_code == 76
    site.path.write_text(site.path.read_text().replace(site.database.name, "nowhere"))
    assert run(site, "status").exit_code == 69


def test_a_daemon_that_serves_is_up(site: Site) -> None:
    with daemon(site, "operate"):
        wait_for(lambda: "operate 1" in run(site, "status").stdout)
