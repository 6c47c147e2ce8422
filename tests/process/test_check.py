"""`check`, and what a command tells where something that it needs is not so: configuration, keys, rights, schema."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import secrets
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registryd import resources
from registryd.cli.checks import database, machine, units
from registryd.cli.checks.machine import link_local_resolvers
from registryd.cli.running import Exit
from registryd.config import ConfigError
from registryd.demo import embedded
from tests.certificates import make_pair
from tests.conftest import Site, TestDatabase, TestMessenger, cloned, daemon, make_site, prepare_database, receiving, wait_for
from tests.process.commands import CONTRACTS, SNAPSHOT, run, told
from tests.servers import private_server


def test_check_tells_what_serve_would_meet(site: Site) -> None:
    assert [finding["check"] for finding in told(site, "check") if finding["state"] != "ok"] == ["policy"]
    (site.directory / "credentials" / "feed-key").chmod(0o644)
    exposed = run(site, "check")
    assert exposed.exit_code == Exit.CONFIG
    assert "chmod 0600" in exposed.output
    (site.directory / "credentials" / "feed-key").write_text("short")
    assert run(site, "check").exit_code == Exit.CONFIG


@pytest.mark.parametrize("section", ["api", "operator"])
def test_check_refuses_an_api_in_the_clear_that_other_machines_reach(site: Site, section: str) -> None:
    site.write_config(**{section: 'listen = "0.0.0.0:8080"'})
    assert "needs TLS" in failed(site)["TLS"]
    site.write_config(**{section: 'listen = "[::1]:8080"'})
    assert "TLS" not in failed(site)


@pytest.mark.parametrize(
    ("dsn", "is_refused"),
    [
        ("postgresql://registryd_app@db.example/registryd", True),
        ("postgresql://registryd_app@db.example/registryd?sslmode=require", True),
        ("postgresql://registryd_app@/registryd?host=/run/postgresql,192.0.2.1", True),
        ("postgresql://registryd_app@db.example/registryd?sslmode=verify-full", False),
        ("postgresql://registryd_app@127.0.0.1:5432,localhost:5433,[::1]:5434/registryd", False),
        ("postgresql://registryd_app@/registryd?host=/run/postgresql", False),
    ],
)
def test_check_refuses_a_link_to_the_database_that_others_may_read(site: Site, dsn: str, is_refused: bool) -> None:
    lines = [f'owner_dsn = "{dsn}"' if line.startswith("owner_dsn") else line for line in site.path.read_text().splitlines()]
    site.path.write_text("\n".join(lines))
    assert ("database link" in failed(site)) is is_refused


def finding(site: Site, name: str) -> tuple[str, str]:
    [found] = [finding for finding in told(site, "check") if finding["check"] == name]
    return found["state"], found["detail"]


@pytest.mark.parametrize(("days", "state"), [(-1, "failed"), (20, "warning"), (90, "ok")])
def test_check_tells_when_certificates_end(site: Site, days: int, state: str) -> None:
    ca = make_pair("a CA")
    server, endpoint = make_pair("registry", ca), make_pair("us", ca, days)
    written = {"tls-certificate": server.certificate, "tls-key": server.key, "endpoint-certificate-alpha": endpoint.certificate}
    for name, text in written.items():
        (site.directory / "credentials" / name).write_bytes(text)
        (site.directory / "credentials" / name).chmod(0o600)
    findings = {each["check"]: each for each in json.loads(run(site, "check", "--json").stdout)}
    assert findings["TLS"]["state"] == "ok"
    assert (findings["certificates"]["state"], "endpoint-certificate-alpha" in findings["certificates"]["detail"]) == (state, True)


@pytest.mark.parametrize(("written", "state"), [("false", "ok"), ("true", "ok"), ('"demo"', "warning")])
def test_check_warns_of_test_numbers_that_only_the_demo_has(site: Site, written: str, state: str) -> None:
    site.write_config(api=f'listen = "127.0.0.1:0"\ntest_numbers = {written}')
    assert finding(site, "test numbers")[0] == state


def test_check_warns_of_a_clock_that_is_not_the_database_s(site: Site) -> None:
    async def state(offset_s: float) -> str:
        async with site.database.pool() as db, db.connection() as connection:
            return (await database.clock(connection, lambda: datetime.now(UTC) + timedelta(seconds=offset_s))).state

    assert [asyncio.run(state(offset_s)) for offset_s in (-10, 0, 10)] == ["warning", "ok", "warning"]


def test_check_names_the_persons_whose_look_ups_the_server_would_log(site: Site) -> None:
    person = f"anna_{secrets.token_hex(4)}"
    site.database.psql("-c", f"CREATE ROLE {person} LOGIN IN ROLE registryd_breakglass")
    try:
        state, detail = finding(site, "server log")
        assert (state, f"ALTER ROLE {person} SET log_min_messages = 'panic'" in detail) == ("warning", True)
        site.database.psql("-c", f"ALTER ROLE {person} SET log_min_messages = 'panic'")
        assert finding(site, "server log")[0] == "ok"
        site.database.psql("-c", f"ALTER ROLE {person} IN DATABASE \"{site.database.name}\" SET log_min_messages = 'error'")
        assert finding(site, "server log")[0] == "warning"
        site.database.psql("-c", f"ALTER ROLE registryd_app IN DATABASE \"{site.database.name}\" SET log_min_messages = 'error'")
        findings = {each["check"]: each["detail"] for each in json.loads(run(site, "check", "--json").stdout)}
        assert f"statements of registryd_app, {person} may stand in it, by " in findings["server log"]
        assert "log_parameter_max_length = -1" in findings["server log"]
    finally:
        site.database.psql("-c", f"DROP ROLE {person}")


def test_check_warns_where_a_dump_would_run_out_of_locks_and_where_look_ups_read_the_disk(tmp_path: Path) -> None:
    options = {"max_locks_per_transaction": "10", "max_connections": "20", "shared_buffers": "1MB"}
    with private_server(options=options) as server:
        asyncio.run(prepare_database(server, "few"))
        site = make_site(TestDatabase(server, "few"), tmp_path)
        state, detail = finding(site, "locks")
        assert (state, "max_locks_per_transaction 10 leaves 200 places" in detail) == ("warning", True)
        assert finding(site, "memory")[0] == "ok"
        site.database.psql(
            "-c",
            "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at) "
            "SELECT 79000000000 + n, 1, 'active', 'individual', 'not_required', '2020-01-01' FROM generate_series(1, 60000) AS n",
        )
        state, detail = finding(site, "memory")
        assert (state, "shared_buffers 1 MB, primary key of contracts 1 MB: look-ups read the disk" in detail) == ("warning", True)


def install(root: Path, name: str, text: str) -> None:
    path = root / "etc/systemd/system" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_check_looks_at_the_units_that_are_installed(tmp_path: Path) -> None:
    assert "none of registryd's" in units.look(tmp_path)
    install(tmp_path, "registryd-answer@.service", "[Service]\nUser=nobody\nExecStart=/bin/sh -c true\n")
    assert "registryd-answer@.service" in units.look(tmp_path)
    install(tmp_path, "registryd-answer@.service.d/user.conf", "[Service]\nUser=nobody-at-all\n")
    with pytest.raises(ConfigError, match=r"no user nobody-at-all.*217/USER"):
        units.look(tmp_path)
    install(tmp_path, "registryd-answer@.service.d/user.conf", "[Service]\n")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    install(tmp_path, "registryd-.service.d/exec.conf", f"[Service]\nExecStart=\nExecStart={closed}/registryd answer\n")
    with pytest.raises(ConfigError, match="203/EXEC"):
        units.look(tmp_path)
    # Its owner may pass, whatever others may not.
    (closed / "registryd").touch(0o755)
    install(tmp_path, "registryd-answer@.service.d/user.conf", f"[Service]\nUser={pwd.getpwuid(os.getuid()).pw_name}\n")
    assert "registryd-answer@.service" in units.look(tmp_path)
    install(tmp_path, "registryd-.service.d/exec.conf", "[Service]\nExecStart=\n")
    with pytest.raises(ConfigError, match="no ExecStart="):
        units.look(tmp_path)


def test_check_judges_tls_by_where_systemd_listens(site: Site, tmp_path: Path) -> None:
    """The socket unit's address counts, and not the file's."""
    install(tmp_path, "registryd-answer.socket", "[Socket]\nListenStream=8443\n")
    listens = units.listens(tmp_path)
    assert listens == {"api": ["[::]:8443"]}
    with pytest.raises(ConfigError, match=r"registryd-answer.socket: ListenStream: other machines reach \[::\]:8443"):
        machine.tls(site.settings, listens)
    install(
        tmp_path, "registryd-answer.socket.d/narrow.conf", "[Socket]\nListenStream=\nListenStream=127.0.0.1:8443\nListenStream=/run/x\n"
    )
    assert units.listens(tmp_path) == {"api": ["127.0.0.1:8443", "unix:/run/x"]}
    assert machine.tls(site.settings, units.listens(tmp_path)).startswith("off")
    site.write_config(api='listen = "0.0.0.0:0"')
    assert machine.tls(site.settings, units.listens(tmp_path)).startswith("off")


def test_a_reload_s_check_looks_at_the_file_alone(site: Site) -> None:
    for path in (site.directory / "credentials").iterdir():
        path.unlink()
    assert run(site, "check", "--config-only").exit_code == 0
    site.path.write_text("[log]\nlevel = 'infoo'\n")
    refused = run(site, "check", "--config-only")
    assert (refused.exit_code, "log.level" in refused.stderr) == (Exit.CONFIG, True)


def test_check_warns_of_a_registry_that_is_not_complete_and_says_what_to_do(site: Site) -> None:
    """A process must start all the same, so that billing's events reach it."""
    site.database.psql("-c", "SELECT registry.declare_incomplete('restored to Tuesday')")
    [found] = [finding for finding in told(site, "check") if finding["check"] == "completeness"]
    assert found["state"] == "warning"
    assert "restored to Tuesday" in found["detail"]
    assert "contracts import FILE --snapshot" in found["detail"]


def test_check_names_the_rule_for_organisations_until_somebody_chose_it(site: Site) -> None:
    def policy() -> tuple[str, str]:
        [found] = [finding for finding in told(site, "check") if finding["check"] == "policy"]
        return found["state"], found["detail"]

    state, detail = policy()
    assert (state, "verified_end_user" in detail, "2028-02-29" in detail) == ("warning", True, True)
    assert "registryd policy set organisation_rule=" in detail
    assert run(site, "policy", "set", "organisation_rule=verified_end_user", "--note", "decided by the lawyers").exit_code == 0
    assert policy()[0] == "ok"
    lapses = "SELECT registry.change_policy(jsonb_build_object('lapses_at', now() + interval '179 days'), now(), 'n')"
    assert site.database.psql("-c", lapses).returncode == 0
    assert policy()[0] == "warning"


def failed(site: Site) -> dict[str, str]:
    findings = json.loads(run(site, "check", "--json").stdout)
    return {finding["check"]: finding["detail"] for finding in findings if finding["state"] == "failed"}


def test_check_names_each_function_table_and_setting_that_the_role_lacks(site: Site) -> None:
    site.database.psql(
        *("-c", "REVOKE EXECUTE ON FUNCTION registry.seal_window, registry.new_page_id FROM registryd_app"),
        *("-c", "REVOKE UPDATE (gate_until) ON registry.lane FROM registryd_app"),
    )
    lacking = failed(site)["permissions"]
    assert "function registry.seal_window(" in lacking
    assert "function registry.new_page_id(" in lacking
    assert "table lane" in lacking
    site.database.psql(
        *("-c", "GRANT EXECUTE ON FUNCTION registry.seal_window, registry.new_page_id TO registryd_app"),
        *("-c", "GRANT UPDATE (gate_until) ON registry.lane TO registryd_app"),
        *("-c", f"ALTER ROLE registryd_app IN DATABASE \"{site.database.name}\" SET log_min_messages = 'error'"),
    )
    assert failed(site) == {"settings": "log_min_messages is error, not panic: connect as registryd_app, or run sql/roles.sql again"}


def test_a_rule_that_a_dba_has_switched_off_is_told_by_check_and_to_who_is_on_duty(site: Site) -> None:
    """Ends that nobody is told of would else be found by nobody. An index that is being made anew is no rule that is off."""
    for statement in (
        "ALTER TABLE registry.contract DISABLE TRIGGER notify_messengers_of_ends",
        "ALTER TABLE registry.binding ENABLE REPLICA TRIGGER guard_new_bindings",
        "CREATE UNIQUE INDEX contract_pkey_ccnew ON registry.contract (msisdn, generation)",
        "UPDATE pg_index SET indisvalid = false "
        "WHERE indexrelid::regclass::text IN ('registry.contract_pkey_ccnew', 'registry.contract_live')",
    ):
        assert site.database.psql("-c", statement).returncode == 0
    rules = (
        "index registry.contract_live is not valid; trigger guard_new_bindings of registry.binding is disabled; "
        "trigger notify_messengers_of_ends of registry.contract is disabled"
    )
    assert failed(site)["rules"].startswith(f"{rules}: ")
    problems = json.loads(run(site, "status", "--json").stdout)["problems"]
    assert [p["severity"] for p in problems if p["code"] == "rules_off" and rules in p["sentence"]] == ["page"]


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
    assert run(site, "check").exit_code == Exit.CONFIG


def test_the_secrets_key_is_rotated_while_pushes_go_on(site: Site) -> None:
    """Both keys open what they sealed until everything is sealed under the new one; then the old one is of no use."""
    credentials = site.directory / "credentials"
    by_name: dict[str, TestMessenger] = {}

    async def test_pushes(*names: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for name in names:
                receiver, _ = await stack.enter_async_context(receiving(by_name[name].secret))
                site.database.psql("-c", f"UPDATE registry.messenger SET endpoint_url = '{receiver.url}' WHERE name = '{name}'")
            with daemon(site, "deliver"):
                for name in names:
                    assert (await asyncio.to_thread(run, site, "messenger", "test", name)).exit_code == 0, name

    by_name["alpha"] = asyncio.run(site.add_messenger("alpha"))
    (credentials / "secrets-key").rename(credentials / "secrets-key-previous")
    (credentials / "secrets-key").write_text("cd" * 32)
    (credentials / "secrets-key").chmod(0o600)
    site.secrets_key = bytes.fromhex("cd" * 32)
    by_name["beta"] = asyncio.run(site.add_messenger("beta"))
    assert failed(site) == {}
    asyncio.run(test_pushes("alpha", "beta"))
    assert "1 signing secrets" in run(site, "secrets", "rewrap").stdout
    assert "0 signing secrets" in run(site, "secrets", "rewrap").stdout
    (credentials / "secrets-key-previous").unlink()
    assert failed(site) == {}
    asyncio.run(test_pushes("alpha", "beta"))


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


@pytest.mark.parametrize(
    ("text", "barred"),
    [
        ("nameserver 169.254.169.254\nnameserver 8.8.8.8\n", ["169.254.169.254"]),
        ("# nameserver 169.254.169.254\nsearch example\n nameserver\tfe80::1\n", ["fe80::1"]),
        ("nameserver 127.0.0.53\noptions edns0\nnameserver 10.0.0.2\nnameserver x\n", []),
    ],
)
def test_check_knows_the_resolvers_that_the_unit_of_deliver_bars(tmp_path: Path, text: str, barred: list[str]) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(text)
    assert link_local_resolvers(file) == barred
    assert link_local_resolvers(tmp_path / "none") == []
