"""What a command tells where something that it needs is not so: configuration, keys, rights, schema."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from registryd import resources
from registryd.cli.running import Exit
from registryd.demo import embedded
from tests.conftest import Site, cloned, wait_for
from tests.process.commands import CONTRACTS, SNAPSHOT, run


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[api]\nlisten = '127.0.0.1:1'\nlisen = 1\n", 3, "api.lisen: unknown key; did you mean 'listen'?"),
        ("[apy]\n", 1, "apy: unknown key; did you mean 'api'?"),
        ("\n[database]\npool_size = 'many'\n", 3, "database.pool_size: expected"),
        ("[presence]\ngroup_max = 0\n", 2, "presence.group_max: expected"),
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
    assert result.exit_code == Exit.CONFIG
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
    assert code("--config", str(tmp_path / "none.toml"), "serve") == Exit.CONFIG
    site.write_config()
    site.path.write_text(site.path.read_text().replace("host=/", "host=/nowhere/"))
    assert code("messenger", "list") == Exit.DATABASE_AWAY
    site.write_config()
    site.database.psql("-c", "UPDATE registry.schema_migration SET version = 0, compatible_from = 0")
    assert code("answer") == code("serve") == Exit.SCHEMA


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
        assert says("connect as registryd_app", as_role(nobody, "contracts", "import", str(file))) == Exit.SCHEMA
    finally:
        site.database.psql("-c", f"DROP OWNED BY {nobody}", "-c", f"DROP ROLE {nobody}")
    assert says("the role may only read", as_role("registryd_report", "contracts", "import", str(file))) == Exit.DATABASE_AWAY
    assert says("the role may only read", as_role("registryd_report", "report")) == Exit.DATABASE_AWAY
    assert says('role "nobody_ever" does not exist', as_role("nobody_ever", "check")) == Exit.DATABASE_AWAY
    assert says("pg_ident.conf", as_role("nobody_ever", "messenger", "list")) == Exit.DATABASE_AWAY


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
            assert (done.exit_code, "registryd migrate" in done.stderr) == (Exit.SCHEMA, True), (words, done.output)


def test_peer_authentication_is_followed_by_a_map(server: embedded.Server, site: Site) -> None:
    user, directory = pwd.getpwuid(os.getuid()).pw_name, Path(site.database.psql("-Atc", "SHOW data_directory").stdout.strip())
    hba, ident = directory / "pg_hba.conf", directory / "pg_ident.conf"
    before = hba.read_text()
    try:
        hba.write_text(f"local {site.database.name} registryd_app peer map=registryd\n{before}")
        site.database.psql("-c", "SELECT pg_reload_conf()")
        wait_for(lambda: run(site, "check").exit_code == Exit.DATABASE_AWAY)
        refused = run(site, "check")
        assert "Peer authentication failed" in refused.stdout
        assert "map this system user to the role in pg_ident.conf" in refused.stdout
        ident.write_text(f"registryd {user} registryd_app\n")
        site.database.psql("-c", "SELECT pg_reload_conf()")
        wait_for(lambda: run(site, "check").exit_code == 0)
    finally:
        hba.write_text(before)
        site.database.psql("-c", "SELECT pg_reload_conf()")


def test_a_daemon_with_another_journal_key_does_not_start(site: Site) -> None:
    asyncio.run(site.digest_key())
    (site.directory / "credentials" / "journal-key").write_text("ab" * 32)
    command = [sys.executable, "-m", "registryd", "--config", str(site.path), "serve"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "journal-key" in done.stderr) == (Exit.CONFIG, True)
