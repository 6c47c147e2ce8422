"""What the daemon's single queries are compared with: its own HTTP server with another answerer behind it.

    python -m tests.bench.servers ceiling|one_statement REGISTRYD.TOML

`ceiling` answers without a database; `one_statement` runs and commits one statement a query. Prints its address, and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from registryd import config, observe
from registryd.domain.endpoint import EndpointRules
from registryd.domain.identifiers import MessengerId, msisdn_digest, query_id
from registryd.domain.presence import Answer, PresenceQueries, PresenceQuery
from registryd.http import sockets, transport
from registryd.http.auth import REFRESH_S, Directory
from registryd.http.messenger import messenger_app
from registryd.http.refusals import Refusals
from registryd.keep import timer
from registryd.presence.answerer import BatchAnswer
from registryd.presence.quota import QuotaGuard
from registryd.roles.eventloop import spare_the_collector
from registryd.store import pool
from registryd.store import presence as store
from registryd.store.outage import Outage
from registryd.store.pool import Database
from tests.conftest import time_ordered_id


class Ceiling:
    """Nobody is present."""

    async def answer(self, messenger_id: MessengerId, query: PresenceQuery, received: float) -> Answer:
        now = datetime.now(UTC)
        page_id = time_ordered_id(int(now.timestamp() * 1000), os.urandom(10))
        return Answer(query_id(str(page_id), 0), False, None, now, now)

    async def answer_batch(self, messenger_id: MessengerId, queries: PresenceQueries, received: float) -> BatchAnswer:
        raise NotImplementedError("batches have a baseline of their own")


class OneStatement(Ceiling):
    """The same statement, for one query at a time."""

    def __init__(self, db: Database, key: bytes) -> None:
        self._db = db
        self._key = key

    async def answer(self, messenger_id: MessengerId, query: PresenceQuery, received: float) -> Answer:
        runs = store.Runs([messenger_id], [1], [0])
        answered = await store.answer(self._db, runs, (query.msisdn,), None, msisdn_digest(self._key, query.msisdn), 1)
        answered_at = answered.answered_at
        return Answer(query_id(str(answered.page_id), 0), answered.bits == "1", None, answered_at, answered_at)


async def main(kind: str, path: Path) -> None:
    settings = config.load(path)
    observe.configure("warning")
    async with pool.of(settings, "bench", 8) as db:
        directory = Directory(db)
        await directory.refresh()
        refreshing = timer.start((timer.Job("directory", REFRESH_S, directory.refresh),), Outage())
        answerer = Ceiling() if kind == "ceiling" else OneStatement(db, settings.credentials.key("journal-key"))
        app = messenger_app(settings.file.api, db, directory, answerer, QuotaGuard(db), Refusals(db), EndpointRules())  # type: ignore[arg-type] # stand-ins
        listener, sock = transport.Listener("messenger", app, settings.file.api), sockets.bind("127.0.0.1:0")
        await listener.listen([sock], None)
        spare_the_collector()
        sys.stdout.write(f"http://{sockets.address(sock)}\n")
        sys.stdout.flush()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        refreshing[0].cancel()
        await listener.close(1)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
