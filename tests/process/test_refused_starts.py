"""A process that cannot work does not start: it tells journald why, and does no harm to those that work."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

from registryd.cli.running import Exit
from tests.conftest import Site, daemon


def test_why_a_process_ended_is_an_error_to_journald(site: Site) -> None:
    """`journalctl -p warning` shows it."""
    site.path.write_text("[log]\nlevel = 'infoo'\n")
    with (site.directory / "journal").open("wb") as journal:
        inode = os.fstat(journal.fileno())
        environment = os.environ | {"JOURNAL_STREAM": f"{inode.st_dev}:{inode.st_ino}"}
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "answer"]
        assert subprocess.run(command, stderr=journal, env=environment, check=False).returncode == Exit.CONFIG
    lines = Path(journal.name).read_text().splitlines()
    assert "log.level" in lines[0]
    assert {line[:3] for line in lines} == {"<3>"}


def test_a_process_that_ends_by_a_fault_of_ours_tells_where_and_quotes_nothing(site: Site) -> None:
    number = 79_160_000_001
    raises = f"CREATE FUNCTION public.odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{number}'; END $$"
    site.database.psql("-c", raises)
    site.database.psql("-c", "CREATE TRIGGER odd BEFORE INSERT ON registry.sealing_key FOR EACH ROW EXECUTE FUNCTION public.odd()")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (site.directory / "journal").open("wb") as journal:
        manager.bind(str(site.directory / "notify"))
        manager.settimeout(60)
        inode = os.fstat(journal.fileno())
        environment = {"JOURNAL_STREAM": f"{inode.st_dev}:{inode.st_ino}", "NOTIFY_SOCKET": str(site.directory / "notify")}
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "deliver"]
        assert subprocess.run(command, stderr=journal, env=os.environ | environment, check=False).returncode == 1
        assert manager.recv(4096) == b"STATUS=ended by a fault of registryd's own: RaiseError"
    text = Path(journal.name).read_text()
    assert str(number) not in text
    assert "roles/deliver.py" in text
    assert text.splitlines()[-1] == "<3>RaiseError"
    assert {line[0] for line in text.splitlines()} == {"<"}


def test_a_deliver_process_with_another_secrets_key_does_not_start_and_shuts_no_lane(site: Site) -> None:
    """On a second machine it would take lanes from those who can sign, and gate them. One secret that is broken is no reason."""

    def start() -> tuple[int, str]:
        command = [sys.executable, "-m", "registryd", "--config", str(site.path), "deliver"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    asyncio.run(site.add_messenger("alpha", "http://127.0.0.1:9/"))
    key = site.directory / "credentials" / "secrets-key"
    right = key.read_text()
    key.write_text("ab" * 32)
    code, told = start()
    assert (code, "secrets-key" in told) == (Exit.CONFIG, True)
    assert site.database.psql("-Atc", "SELECT count(*) FROM registry.sealing_key").stdout.strip() == "0", "nor does it publish its own half"
    key.write_text(right)
    asyncio.run(site.add_messenger("beta"))
    site.database.psql("-c", "UPDATE registry.messenger_secret SET ciphertext = '\\x00' || ciphertext WHERE messenger_id = 1")
    with daemon(site, "deliver"):
        pass
