"""An upgrade under load: migrate beside the older release's processes, and then one process after another."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from registryd.store import migrations
from tests.conftest import Daemon, Site, TestMessenger, daemon, eventually
from tests.process.test_roles import EVENTS, NUMBER, POSTS, QUERY, end_of, post
from tests.served import handed_over

ROOT = Path(__file__).resolve().parents[2]
NEWEST = migrations.migrations()[-1].version


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The tree of the synthetic next release: a copy of this one with a migration of its own and a code file that changed."""
    tree = tmp_path / "next"
    for name in ("registryd", "sql"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    migration = f"-- compatible from {NEWEST:04d}\nALTER TABLE registry.contract ADD COLUMN note text;\n"
    (tree / f"sql/migrations/{NEWEST + 1:04d}_note.sql").write_text(migration)
    with (tree / "sql/code/guards.sql").open("a") as code:
        code.write("\nCREATE OR REPLACE FUNCTION registry.added() RETURNS integer LANGUAGE sql AS 'SELECT 1';\n")
    return tree


def migrate(site: Site, tree: Path) -> str:
    command = [sys.executable, "-m", "registryd", "migrate", "--dsn", site.database.dsn()]
    # Python looks for the package where it is started, before it looks anywhere else.
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_ready(process: Daemon) -> bool:
    with urllib.request.urlopen(f"{process.health()}/readyz", timeout=60) as answer:
        return bool(answer.status == 200)


def test_an_upgrade_rolled_under_queries_and_events_loses_none(site: Site, next_release: Path) -> None:
    numbers = [NUMBER + 1 + n for n in range(60)]

    async def run(listener: socket.socket, messenger: TestMessenger, stack: contextlib.ExitStack) -> tuple[int, list[str], int]:
        answered, lost, applied, ended = 0, list[str](), 0, asyncio.Event()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/presence"

        async def keep(session: aiohttp.ClientSession) -> None:
            nonlocal answered
            while not ended.is_set():
                try:
                    async with session.post(url, json=QUERY, headers=messenger.headers) as response:
                        body = await response.json()
                    if response.status == 200 and body["present"] is True:
                        answered += 1
                    else:
                        lost.append(str(body))
                except aiohttp.ClientError as error:
                    lost.append(repr(error))

        async def bill(session: aiohttp.ClientSession) -> None:
            """Billing sends each event until it is answered."""
            nonlocal applied
            for number in numbers:
                while await post(session, f"{operate[0].operator}{EVENTS}", {"events": [end_of(number)]}, site.operator_headers) != 200:
                    await asyncio.sleep(0.05)
                applied += 1
                await asyncio.sleep(0.3)

        async def more(count: int) -> None:
            seen = answered
            await eventually(lambda: answered >= seen + count)

        async def start(instance: int, tree: Path) -> Daemon:
            return await asyncio.to_thread(stack.enter_context, handed_over(site, listener, instance, cwd=tree))

        running = {n: await start(n, ROOT) for n in (1, 2)}
        operate = [await asyncio.to_thread(stack.enter_context, daemon(site, "operate"))]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = [asyncio.create_task(work) for work in (*(keep(session) for _ in range(16)), bill(session))]
            await more(POSTS // 4)
            assert f"applied {NEWEST + 1:04d}_note.sql" in await asyncio.to_thread(migrate, site, next_release)
            assert "newer than this program: nothing to do" in await asyncio.to_thread(migrate, site, ROOT)
            for process in (*running.values(), *operate):
                assert await asyncio.to_thread(is_ready, process)
            # One of the older release that restarts comes back; then each makes room for the next release.
            for instance, tree in ((1, ROOT), (1, next_release), (2, next_release)):
                await more(POSTS // 4)
                assert await asyncio.to_thread(running[instance].stop) == 0
                running[instance] = await start(instance, tree)
            assert await asyncio.to_thread(operate[0].stop) == 0
            operate[0] = await asyncio.to_thread(stack.enter_context, daemon(site, "operate", cwd=next_release))
            await more(POSTS // 4)
            await eventually(lambda: applied == len(numbers))
            ended.set()
            await asyncio.gather(*tasks)
        return answered, lost, applied

    async def prepare() -> TestMessenger:
        await site.add_contracts(NUMBER, *numbers)
        return await site.add_messenger()

    messenger = asyncio.run(prepare())
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, contextlib.ExitStack() as stack:
        answered, lost, applied = asyncio.run(run(listener, messenger, stack))
    assert lost == []
    assert (answered >= POSTS, applied) == (True, len(numbers))
    ended = site.database.psql("-Atc", "SELECT count(*) FROM registry.contract WHERE status = 'ended'")
    assert ended.stdout.strip() == str(len(numbers))
    sys.stdout.write(f"\nupgraded under {answered} queries and {applied} events, none lost\n")
