"""No number and no identification code of the daemon's statements reaches the server's log, whatever the server is told to log."""

from __future__ import annotations

import asyncio
import re

import asyncpg
import pytest

from tests.conftest import prepare_database
from tests.servers import private_server
from tests.store.conftest import FIRST, Connection, add_contracts, add_messengers

CHATTY = {
    "logging_collector": "on",
    "log_rotation_size": "0",
    "log_destination": "stderr,csvlog,jsonlog",  # terse binds the first alone
    "log_min_messages": "info",
    "log_error_verbosity": "verbose",
    "log_min_error_statement": "info",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_parameter_max_length_on_error": "-1",
}
BIND = "INSERT INTO registry.binding (msisdn, generation, messenger_id, identification_code) VALUES ($1, 1, $2, $3)"
FORMATS = {".log", ".csv", ".json"}


async def collide(connection: Connection, messenger_id: int, number: int, code: str) -> None:
    """A binding that succeeds and one that its unique index refuses; PostgreSQL's DETAIL quotes the number."""
    await connection.execute(BIND, number, messenger_id, code)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(BIND, number, messenger_id, code + "-again")


def test_the_daemons_numbers_and_codes_stay_out_of_every_form_of_the_log() -> None:
    async def run(dsn: str, app_dsn: str) -> None:
        dba, app = await asyncpg.connect(dsn), await asyncpg.connect(app_dsn)
        (messenger_id,) = await add_messengers(dba, 1)
        await add_contracts(dba, 2, FIRST + 1_000_000)
        await collide(dba, messenger_id, FIRST + 1_000_000, "code-of-the-dba")
        await collide(app, messenger_id, FIRST + 1_000_001, "code-of-the-daemon")
        await dba.close()
        await app.close()

    with private_server(options=CHATTY) as server:
        dsn = asyncio.run(prepare_database(server, "chatty"))
        asyncio.run(run(dsn, server.dsn("chatty", "registryd_app")))
        server.stop()  # and with it the collector, which then has written all
        logs = {path.suffix: path.read_text() for path in (server.directory / "data/log").iterdir()}
    assert set(logs) == FORMATS
    for text in logs.values():
        assert {"code-of-the-dba-again", str(FIRST + 1_000_000)} <= set(re.findall(r"[\w-]+", text)), "the server does log what it can"
        assert str(FIRST + 1_000_001) not in text
        assert "code-of-the-daemon" not in text
