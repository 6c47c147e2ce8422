"""A command whose connection is lost under a statement says so in one line: a primary was lost, or a DBA ended its session."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from registryd.cli.running import Exit
from tests.conftest import Site, eventually

END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (("secrets", "rewrap"), "messenger_secret"),
        (("audit", "head"), "seal"),
        (("breakglass", "list", "--dsn", "DSN"), "breakglass_event"),
    ],
)
def test_a_command_whose_session_is_ended_says_that_the_database_is_away(site: Site, words: tuple[str, ...], table: str) -> None:
    command = [sys.executable, "-m", "registryd", "--config", str(site.path)]
    command += [site.database.dsn() if word == "DSN" else word for word in words]

    async def story() -> subprocess.CompletedProcess[str]:
        async with site.database.connect() as dba, site.database.connect() as other, dba.transaction():
            await dba.execute(f"LOCK TABLE registry.{table} IN ACCESS EXCLUSIVE MODE")
            running = asyncio.create_task(asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False))
            await eventually(lambda: other.fetch(END))
            return await running

    done = asyncio.run(story())
    assert done.returncode == Exit.DATABASE_AWAY, done.stderr
    assert "the database is away" in done.stderr
    assert "Traceback" not in done.stderr
