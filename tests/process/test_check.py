"""`check`: what it finds of this machine, of the units, of the database and of what stands in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registryd.cli.checks import database, machine, units
from registryd.cli.checks.machine import link_local_resolvers
from registryd.cli.running import Exit
from registryd.config import ConfigError
from tests.certificates import make_pair
from tests.conftest import Site, TestDatabase, TestMessenger, daemon, make_site, prepare_database, receiving
from tests.process.commands import run, told
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
