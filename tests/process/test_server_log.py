"""A server that logs all it can, in every format, while everything is done: no number, code or key is in any of its files."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from registryd.cli import main
from tests.conftest import Daemon, Site, TestDatabase, TestMessenger, client, daemon, eventually, make_site, prepare_database, receiving
from tests.process.commands import run
from tests.servers import private_server
from tests.store.test_server_log import BIND, CHATTY, FORMATS

LOGS_ALL = CHATTY | {
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_parameter_max_length": "-1",
    "log_lock_waits": "on",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_temp_files": "0",
    "log_autovacuum_min_duration": "0",
    "log_duration": "on",
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_parameter_max_length": "-1",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_level": "warning",
}
NUMBERS = range(79_558_000_000, 79_558_000_020)
CONTROL = 79_160_000_001
"""A number that the DBA writes, to show that the server does log numbers."""
TRACES = re.compile(r"(?<![0-9a-f])79558\d{6}(?!\d)|zebra-|rk_[a-z2-7]{8}|ok_[a-z2-7]{8}|whsec_")


def files(directory: Path) -> dict[str, Path]:
    """What billing sends."""
    row = "individual,not_required"
    texts = {
        "snapshot": "msisdn,holder,end_user,status,started_at\n" + "".join(f"{n},{row},active,2020-01-01T00:00:00Z\n" for n in NUMBERS),
        "contracts": "msisdn,generation,status,holder,end_user,started_at,ended_at,end_reason\n"
        + f"{NUMBERS[0]},1,active,{row},2020-01-01T00:00:00Z,,\n{NUMBERS[-1] + 1},1,active,{row},2020-01-01T00:00:00Z,,\n",
        "events": "event_id,type,msisdn,occurred_at,holder,end_user\n" + f"zebra-e,suspended,{NUMBERS[1]},2024-01-01T00:00:00Z,,\n",
        "ranges": "first_msisdn,last_msisdn,region,note\n" + f"{NUMBERS[0]},{NUMBERS[-1]},RU,zebra-range\n",
        "wrong": NUMBERS[0].__str__() + ",zebra-nonsense\n",
    }
    made = {name: directory / f"{name}.csv" for name in texts}
    for name, path in made.items():
        path.write_text(texts[name])
    return made


async def call(base: str, headers: dict[str, str], path: str, body: object) -> dict[str, Any]:
    async with client(base) as session, session.post(path, json=body, headers=headers) as response:
        return {"status": response.status, **await response.json(content_type=None)}


async def serve(site: Site, running: Daemon, messenger: TestMessenger) -> None:
    """Queries, bindings, conflicts, ends and deliveries."""
    asks: Callable[[str, object], Awaitable[dict[str, Any]]] = lambda path, body: call(running.api, messenger.headers, path, body)  # noqa: E731
    both = [{"phoneNumber": f"+{number}", "identificationCode": f"zebra-{number % 100}"} for number in NUMBERS]
    assert (await asks("/v1/presence", both[0]))["present"] is True
    assert (await asks("/v1/presence/batch", {"queries": both}))["status"] == 200
    assert (await asks("/v1/bindings", both[1] | {"identificationCode": "zebra-0"}))["status"] == 409
    await asyncio.gather(*(asks("/v1/presence", {"phoneNumber": f"+{n}", "identificationCode": "zebra-race"}) for n in NUMBERS))
    assert (await asks("/v1/bindings/retrieve", {"identificationCode": "zebra-2"}))["status"] == 200
    assert (await asks("/v1/bindings/remove", {"identificationCode": "zebra-2"}))["status"] == 200
    assert (await asks("/v1/presence", {"phoneNumber": f"+{NUMBERS[3]}x", "identificationCode": "zebra-\0"}))["status"] == 400
    ends = [
        {"eventId": f"zebra-{n}", "type": "terminated", "phoneNumber": f"+{n}", "occurredAt": "2026-01-01T00:00:00Z"} for n in NUMBERS[10:]
    ]
    told = await call(running.operator, site.operator_headers, "/operator/v1/contract-events", {"events": ends})
    assert told["status"] == 200


async def fail_in_the_database(dba: asyncpg.Connection[asyncpg.Record], app: asyncpg.Connection[asyncpg.Record]) -> None:
    """What a bug, a timeout or an impatient DBA brings about under the daemon's role."""
    number = NUMBERS[5]
    for sql, *arguments in (
        (BIND, number, 1, "zebra-5"),
        (
            "INSERT INTO registry.contract (msisdn, generation, status, holder, end_user) VALUES ($1, 1, 'active', 'individual', 'x')",
            number,
        ),
        (f"SELECT '{number}'::bigint / 0",),
        ("SELECT $1::text::date", f"zebra-{number}"),
    ):
        with pytest.raises(asyncpg.PostgresError):
            await app.execute(sql, *arguments)
    asleep = asyncio.ensure_future(app.fetch("SELECT pg_sleep(60), $1::bigint", number))
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'registryd_app' AND wait_event = 'PgSleep'"
    await eventually(lambda: cancelled(dba, cancel))
    with pytest.raises(asyncpg.QueryCanceledError):
        await asleep
    await app.execute("SET lock_timeout = '50ms'")
    async with dba.transaction():
        await dba.execute("LOCK TABLE registry.contract IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await app.execute("UPDATE registry.contract SET status = 'suspended' WHERE msisdn = $1", number)


async def cancelled(dba: asyncpg.Connection[asyncpg.Record], cancel: str) -> bool:
    return bool(await dba.fetch(cancel))


async def look_at_a_number(site: Site) -> None:
    """By two persons, with the roles that sql/README.md gives them."""
    async with site.database.connect() as dba:
        await dba.execute("CREATE ROLE anna LOGIN; GRANT registryd_breakglass TO anna; ALTER ROLE anna SET log_min_messages = 'panic'")
        await dba.execute("CREATE ROLE boris LOGIN; GRANT registryd_approver TO boris")

    def does(person: str, *words: str, stdin: str = "") -> int:
        arguments = ["breakglass", *words, "--dsn", site.database.dsn(person)]
        return CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False).exit_code

    def carried_out() -> None:
        number = f"+{NUMBERS[0]}\n"
        assert does("anna", "request", "--reason", "a complaint", stdin=number) == 0
        undo = ("request", "--kind", "reinstate", "--reason", "a wrong list of numbers", "--numbers-file", "-")
        assert does("anna", *undo, stdin=f"{NUMBERS[11]}\n") == 0
        assert does("anna", "look", "1") == 1, "nobody has approved it"
        assert does("boris", "list") == 0

    await asyncio.to_thread(carried_out)
    await eventually(lambda: asyncio.to_thread(lambda: does("boris", "approve", "1") == 0))
    assert await asyncio.to_thread(does, "boris", "approve", "2") == 0
    assert await asyncio.to_thread(does, "anna", "look", "1") == 0
    assert await asyncio.to_thread(does, "anna", "reinstate", "2") == 0


def test_nothing_of_anybody_is_in_any_file_of_a_server_that_logs_all_it_can(tmp_path: Path) -> None:
    with private_server(options=LOGS_ALL) as server:
        asyncio.run(prepare_database(server, "chatty"))
        site = make_site(TestDatabase(server, "chatty"), tmp_path / "site")
        made = files(tmp_path)
        site.database.allow_ends()
        for words, code in (
            (("contracts", "import", str(made["snapshot"]), "--snapshot"), 0),
            (("contracts", "import", str(made["contracts"])), 0),
            (("contracts", "import", str(made["wrong"])), 1),
            (("contracts", "import", str(made["events"]), "--delta"), 0),
            (("ranges", "import", str(made["ranges"])), 0),
            (("ranges", "import", str(made["ranges"])), 0),
        ):
            done = run(site, *words)
            assert done.exit_code == code, done.output

        async def story() -> None:
            messenger = await site.add_messenger()
            async with receiving(messenger.secret) as (receiver, inbox), site.database.connect() as dba:
                await dba.execute("UPDATE registry.messenger SET endpoint_url = $1", receiver.url)
                with contextlib.ExitStack() as stack:
                    running = await asyncio.to_thread(stack.enter_context, daemon(site, "answer", "operate", "deliver"))
                    await serve(site, running, messenger)
                    await eventually(lambda: len(inbox.notifications) >= 9)
                    async with site.database.connect("registryd_app") as app:
                        await fail_in_the_database(dba, app)
                    await look_at_a_number(site)
                    assert await asyncio.to_thread(running.stop) == 0
                with contextlib.suppress(asyncpg.PostgresError):
                    await dba.execute(f"SELECT {CONTROL} / 0")

        asyncio.run(story())
        for last in ("check", "report binding", "audit verify", "audit head", "notifications status"):
            run(site, *last.split())
        server.stop()  # and with it the collector, which then has written all
        logs = {path.suffix: path.read_text() for path in (server.directory / "data/log").iterdir()}
    assert set(logs) == FORMATS
    for text in logs.values():
        assert str(CONTROL) in text, "the server does log what it can"
        assert "Query Text" in text, "auto_explain too"
        assert set(TRACES.findall(text)) == set()
