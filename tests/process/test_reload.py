"""A reload does what it can, and says what it could not do."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import asyncpg
import pytest

from tests.certificates import make_pair
from tests.conftest import Site, daemon, wait_for


def test_a_reload_says_which_keys_need_a_restart_and_does_the_rest(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)

        def status() -> str:
            while not (said := manager.recv(4096).decode()).startswith("READY=1"):
                pass
            return said.partition("STATUS=")[2]

        with daemon(site, "operate", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as running:
            assert status() == "serving"
            site.write_config(presence="group_max = 7", log='level = "error"', database="pool_size = 5")
            running.process.send_signal(signal.SIGHUP)
            [told] = wait_for(lambda: [line for line in running.log() if line["event"] == "reloaded"])
            assert (told["level"], told["needs_restart"]) == ("warning", ["database.pool_size", "presence.group_max"])
            assert status() == "serving; until a restart the former value holds of database.pool_size, presence.group_max"
            site.path.write_text("[nonsense]\n")
            running.process.send_signal(signal.SIGHUP)
            assert status().startswith("serving; the last reload failed: ")
            site.write_config()
            running.process.send_signal(signal.SIGHUP)
            assert status() == "serving"


def test_a_reload_that_fails_says_that_it_is_over(site: Site, tmp_path: Path) -> None:
    """systemd waits for READY=1 after RELOADING=1, whatever became of the reload: here the role lacks a grant meanwhile."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        with daemon(site, "answer", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as running:
            site.database.psql("-c", "REVOKE SELECT ON registry.messenger FROM registryd_app")
            running.process.send_signal(signal.SIGHUP)
            while not manager.recv(4096).startswith(b"RELOADING=1"):
                pass
            while not manager.recv(4096).startswith(b"READY=1"):
                pass
            wait_for(lambda: [line for line in running.log() if line["event"] == "reload_failed"])


def test_a_reload_that_is_asked_for_during_another_comes_after_it(site: Site, tmp_path: Path) -> None:
    """Two at once would tell systemd that both are over when the first is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))

        def told() -> str:
            return manager.recv(4096).decode().partition("=")[0]

        with daemon(site, "answer", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as running:
            manager.settimeout(60)
            assert told() == "READY"
            with asyncio.Runner() as runner:
                dba = runner.run(asyncpg.connect(site.database.dsn()))
                runner.run(dba.execute("BEGIN; LOCK TABLE registry.messenger"))
                running.process.send_signal(signal.SIGHUP)
                assert told() == "RELOADING"
                running.process.send_signal(signal.SIGHUP)
                manager.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    told()
                runner.run(dba.close())
            manager.settimeout(60)
            assert [told() for _ in range(3)] == ["READY", "RELOADING", "READY"]


def test_a_reload_says_which_credentials_it_does_not_read_again(site: Site) -> None:
    """Only the certificate that a process serves is read again. What it cannot read is another role's, and no matter."""
    (site.directory / "credentials" / "secrets-key-previous").mkdir()
    client_ca = site.directory / "credentials" / "client-ca"
    first, second = make_pair("a CA").certificate, make_pair("another").certificate
    client_ca.write_bytes(first)
    with daemon(site, "answer") as running:
        for count, (written, needs) in enumerate([(second, ["client-ca"]), (first, [])], 1):
            client_ca.write_bytes(written)
            running.process.send_signal(signal.SIGHUP)
            told = wait_for(lambda count=count: [line for line in running.log() if line["event"] == "reloaded"][count - 1 :])  # type: ignore[misc] # their types are the tuple's
            assert [line["needs_restart"] for line in told] == [needs]
