"""Debian's PgBouncer with nothing but its pool_mode set. What other poolers do is in test_session.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from registryd.demo.embedded.account import Account
from registryd.domain.errors import Unavailable
from registryd.store.failures import explain
from tests import programs
from tests.conftest import Site, TestDatabase, daemon, wait_for
from tests.http.conftest import ask
from tests.process.commands import told
from tests.servers import workplace
from tests.store.test_session import in_force, settings_of

pytestmark = pytest.mark.campaign
NUMBER = 79_160_000_001


class Bounced(TestDatabase):
    """A database behind a pooler, as the daemon reaches it."""

    def __init__(self, database: TestDatabase, port: int) -> None:
        super().__init__(database.server, database.name)
        self.port = port

    def dsn(self, user: str = "postgres") -> str:
        return super().dsn(user) if user == "postgres" else f"postgresql://{user}@127.0.0.1:{self.port}/{self.name}"


@contextlib.contextmanager
def bounced(database: TestDatabase, pool_mode: str) -> Iterator[Bounced]:
    try:
        program, environment = programs.program("pgbouncer"), programs.environment("pgbouncer")
    except programs.NotThere as error:
        pytest.skip(str(error))
    server, account = database.server, Account.choose()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with workplace() as place:
        (place / "users").write_text('"registryd_app" ""\n')
        (place / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.socket_directory} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {place / 'users'}\npool_mode = {pool_mode}\n"
        )
        process = account.spawn([program, place / "pgbouncer.ini"], environment, subprocess.DEVNULL)
        try:
            wait_for(lambda: _listens(port) or process.poll() is not None)
            yield Bounced(database, port)
        finally:
            process.kill()
            process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


def test_sessions_are_pooled_with_every_setting_of_ours_in_force(site: Site) -> None:
    asyncio.run(site.add_contracts(NUMBER))
    asyncio.run(site.slow_nobody())
    messenger = asyncio.run(site.add_messenger())
    with bounced(site.database, "session") as database:

        async def read() -> dict[str, str]:
            async with database.pool() as db:
                return await settings_of(db)

        assert in_force(asyncio.run(read()))
        site.database = database
        site.write_config()
        assert {finding["check"] for finding in told(site, "check") if finding["state"] != "ok"} == {"policy"}
        with daemon(site) as running:
            answer = ask(running.api, "POST", "/v1/presence", {"phoneNumber": f"+{NUMBER}"}, headers=messenger.headers)
            assert (answer.status, answer.body["present"]) == (200, True)


def test_a_pool_of_transactions_is_refused_with_what_to_set(site: Site) -> None:
    with bounced(site.database, "transaction") as database:

        async def use() -> None:
            async with database.pool() as db:
                await settings_of(db)

        with pytest.raises(Unavailable) as refused:
            asyncio.run(use())
        assert "pool_mode = session" in explain(refused.value)
        site.database = database
        site.write_config()
        with daemon(site, until="database_away") as waiting:
            assert "pool_mode = session" in waiting.log()[0]["reason"]
