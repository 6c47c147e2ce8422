"""Each process tells that it is there. Who stops in order takes that back; who dies is missed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

from registryd.roles.heartbeat import host_name
from registryd.store import migrations, processes
from registryd.store.processes import ProcessRow
from tests.conftest import Site, daemon, wait_for


def heard(site: Site) -> Sequence[ProcessRow]:
    async def run() -> list[ProcessRow]:
        async with site.database.pool() as db:
            return await processes.read_all(db)

    return asyncio.run(run())


def test_a_process_is_heard_of_until_it_stops_in_order(site: Site) -> None:
    with daemon(site, "operate") as started:
        (row,) = wait_for(lambda: heard(site))
        pid = started.process.pid
        assert (row.host, row.role, row.instance, row.pid) == (host_name(), "operate", 1, pid)
        assert (row.schema, row.lanes) == (migrations.migrations()[-1].version, 0)
        assert row.connections >= 1
        started.process.send_signal(signal.SIGTERM)
        started.process.wait(30)
    assert heard(site) == []


def test_a_process_that_is_killed_is_missed_until_its_successor_tells(site: Site) -> None:
    with daemon(site, "deliver") as started:
        wait_for(lambda: heard(site))
        os.kill(started.process.pid, signal.SIGKILL)
        started.process.wait(30)
    (dead,) = heard(site)
    asyncio.run(_silence(site))
    with daemon(site, "deliver") as successor:
        (row,) = wait_for(lambda: [row for row in heard(site) if row.pid != dead.pid])
        assert row.pid == successor.process.pid
        assert row.since > dead.since


async def _silence(site: Site) -> None:
    async with site.database.connect() as dba, site.database.pool() as db:
        await dba.execute("UPDATE registry.process SET heard_at = heard_at - interval '31 seconds'")
        assert [(r.role, r.up, r.silent) for r in await processes.count_roles(db)] == [
            ("answer", 0, 0),
            ("deliver", 0, 1),
            ("operate", 0, 0),
        ]
